"""What is measured of a trial, in one process and without Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from study.data.dataset import SiteData
from study.errors import DataError
from study.measuring import Measurement
from study.methods import load_study
from study.planning.workload import workload
from study.running import prepare
from study.spec.trial import Trial

NETWORK = {("step_s", ""), ("evaluation_s", ""), ("setup_s", ""), ("base_memory_mb", "")}
MADE = ("synthesis_s", "adp 25 16 16")
REFERENCE = {("fit_s", ""), ("predict_s", "")}


@pytest.mark.parametrize(
    ("method", "budget_mb", "expected"),
    [
        ("HDA", 1e6, NETWORK | {MADE}),
        ("DCNN", 0.0, NETWORK),  # fingerprints are made for each batch: a part of the step
        ("KNN", 1e6, REFERENCE | {MADE}),
        ("MEAN", 1e6, REFERENCE | {MADE}),
        ("MODEL", 1e6, REFERENCE),
    ],
)
def test_each_part_of_a_trial_is_measured(
    write_spec: Callable[..., Path], method: str, budget_mb: float, expected: set[tuple[str, str]]
) -> None:
    reference = method in ("KNN", "MEAN", "MODEL")
    spec = load_study(
        write_spec(axes={"method": ["DCNN" if reference else method]}, references=[method] * reference, search=None)
    )
    site, table = prepare(spec)
    load = workload(spec, site, table, fingerprint_budget_mb=budget_mb)
    (work,) = [item for item in load.works if item.key.method == method]
    assert bool(work.key.making) == (budget_mb == 0)
    trial = Trial(load.examples[work.key], 0, site.data_hash)
    # Other tests of this process may have left much behind.
    before_mb = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    found = Measurement(trial, work, SiteData(site, "cpu", fingerprint_bytes=0)).run(0.1)
    assert set(found) == expected
    for name, values in found.items():
        assert all(value > 0 for value in values), name
    if not reference:
        # The epoch that warms up does not count, and a few others do.
        assert len(found["step_s", ""]) == len(found["evaluation_s", ""]) >= 3
        assert 50 < found["base_memory_mb", ""][0] < before_mb + 1000
    json.dumps({str(key): values for key, values in found.items()})  # plain numbers travel between processes


def test_a_trial_of_other_data_is_refused(write_spec: Callable[..., Path]) -> None:
    spec = load_study(write_spec(axes={"method": ["DCNN"]}, references=None, search=None))
    site, table = prepare(spec)
    load = workload(spec, site, table, fingerprint_budget_mb=1e6)
    work = next(item for item in load.works if item.key.trained)
    with pytest.raises(DataError, match="is not the data"):
        Measurement(Trial(load.examples[work.key], 0, "another"), work, SiteData(site, "cpu"))
