"""`study plan`, `study calibrate` and limits of `study run`, as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SMALL_BASE, Result
from made_up import DEVICE, observation

from cluster.model import Cluster
from study.methods import load_study
from study.observers import EventLog
from study.planning.observations import Versions, write_calibration
from study.planning.record import Plan, read_plan
from study.running import RunLimit, run_study
from study.store import Store

Cli = Callable[..., Result]

GRID = {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.1]}}}


@pytest.fixture
def cluster_file(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "cluster.yaml", **keys: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(keys))
        return path

    return write


def _refused(found: Result, *words: str) -> None:
    assert found.code == 2
    assert "Traceback" not in found.err
    assert found.err.startswith("study: ")
    for word in words:
        assert word in found.err


def test_a_plan_says_how_many_trials_how_long_and_what_it_rests_on(
    cli: Cli, write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    found = cli("plan", write_spec(search=[GRID]), "--results", tmp_path)
    assert found.code == 0, found.err
    assert "18 trials to run" in found.out
    assert "search over objective.lambda of MDA" in found.out
    assert "counted operations" in found.out
    assert "no price is known for this machine" in found.out
    assert not (tmp_path / "small").exists()


def test_json_holds_the_plan(cli: Cli, write_spec: Callable[..., Path], tmp_path: Path) -> None:
    found = cli("plan", write_spec(), "--results", tmp_path, "--json", "--deadline", "1s")
    content = json.loads(found.out)
    plan = Plan.model_validate({name: content[name] for name in Plan.model_fields})
    assert plan.trials == sum(cell.trials for cell in plan.cells) == 10
    assert content["met"] is False
    assert content["chosen_machines"] is None
    assert sum(item["share"] for item in content["methods"] if item["axis"] == "method") == pytest.approx(1, abs=0.05)
    assert {item["what"].split(":")[0] for item in content["savings"]} >= {"training.epochs"}


def test_a_measured_plan_with_a_price_names_both(
    cli: Cli, write_spec: Callable[..., Path], cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    machine = {"type": "box", "cpus": 4, "memory_gb": 16, "price_per_hour": 3.0, "currency": "EUR", "watts": 120}
    cluster = cluster_file(address="auto", nodes=[{**machine, "count": 2}])
    found = cli("plan", write_spec(), "--cluster", cluster, "--results", tmp_path, "--json", "--sizes")
    content = json.loads(found.out)
    assert content["currency"] == "EUR"
    hours = content["makespan_seconds"]["median"] / 3600
    assert content["cost"]["median"] == pytest.approx(6.0 * hours)
    assert content["energy_kwh"]["median"] == pytest.approx(0.24 * hours)
    assert [size["machines"] for size in content["sizes"]][:2] == [1, 2]


def test_clusters_side_by_side(
    cli: Cli, write_spec: Callable[..., Path], cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    one = cluster_file("one.yaml", address="auto", nodes=[{"type": "aws/c7i.4xlarge"}], resources_per_trial={"cpu": 4})
    gpu = cluster_file(
        "gpu.yaml", address="auto", gpus=2, slots_per_gpu=4, nodes=[{"type": "aws/g5.xlarge", "count": 2}]
    )
    found = cli("plan", write_spec(), "--results", tmp_path, "--compare", one, gpu, "--deadline", "2h")
    assert found.code == 0, found.err
    assert "2 × aws/g5.xlarge" in found.out
    assert "1 × aws/c7i.4xlarge" in found.out
    assert found.out.count("met") >= 2


def test_a_figure_of_cost_against_time(
    cli: Cli, write_spec: Callable[..., Path], cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    cluster = cluster_file(address="auto", gpus=1, resources_per_trial={"gpu": 1}, nodes=[{"type": "aws/g5.xlarge"}])
    figure = tmp_path / "cost.svg"
    found = cli("plan", write_spec(), "--cluster", cluster, "--results", tmp_path, "--figure", figure)
    assert found.code == 0, found.err
    assert figure.read_text().lstrip().startswith("<")
    _refused(cli("plan", write_spec(), "--figure", tmp_path / "cost.gif"), "cost.gif", ".svg or .png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--deadline", "2020-01-01"], ["has passed", "2020-01-01"]),
        (["--deadline", "tomorrow"], ["no deadline", "8h"]),
        (["--budget", "-3"], ["leaves nothing"]),
        (["--budget", "10"], ["a budget needs prices", "price_per_hour"]),
        (["--cluster", "nowhere"], ["no cluster file 'nowhere'"]),
        (["--calibration", "nowhere"], ["no such calibration", "study calibrate"]),
        (["--prices", "nowhere.yaml"], ["nowhere.yaml"]),
        (["extra.yaml"], ["one argument too many", "--compare"]),
        (["--backtest", "nowhere"], ["leave SPEC out"]),
    ],
)
def test_wrong_questions(cli: Cli, write_spec: Callable[..., Path], arguments: list[str], words: list[str]) -> None:
    _refused(cli("plan", write_spec(), *arguments), *words)


def test_nothing_to_plan(cli: Cli, tmp_path: Path) -> None:
    _refused(cli("plan"), "no spec to plan", "--backtest")
    _refused(cli("plan", "--backtest", tmp_path), "no results to plan again")


def test_a_cluster_without_node_types(
    cli: Cli, write_spec: Callable[..., Path], cluster_file: Callable[..., Path]
) -> None:
    _refused(cli("plan", write_spec(), "--cluster", cluster_file(address="auto")), "names no node types", "nodes:")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"on_demand_per_hour": -1}, ["on_demand_per_hour", "-1"]),
        ({"watts": -5}, ["watts"]),
        ({"date": None}, ["date"]),
    ],
)
def test_price_lists_with_mistakes(
    cli: Cli, write_spec: Callable[..., Path], tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    entry = {
        "cpus": 4, "memory_gb": 16, "on_demand_per_hour": 1.0, "watts": 100, "watts_source": "a label",
        "date": "2026-01-01", "source": "a bill",
    } | change  # fmt: skip
    path = tmp_path / "prices.yaml"
    entry = {key: value for key, value in entry.items() if value is not None}
    path.write_text(yaml.safe_dump({"currency": "EUR", "node_types": {"box": entry}}))
    _refused(cli("plan", write_spec(), "--prices", path), str(path), *words)


def test_calibrations_of_other_devices_and_versions(cli: Cli, write_spec: Callable[..., Path], tmp_path: Path) -> None:
    device = write_calibration(tmp_path / "device", [observation(device=DEVICE)])
    _refused(cli("plan", write_spec(), "--calibration", device), "another device", "Test processor")
    version = write_calibration(tmp_path / "version", [observation(versions=Versions("0.0.1", "1.0"))])
    _refused(cli("plan", write_spec(), "--calibration", version), "other versions", "study 0.0.1 with torch 1.0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-hours", "0"], ["leaves nothing", "--max-hours"]),
        (["--max-cost", "5"], ["a limit on cost needs prices", "--max-hours"]),
    ],
)
def test_limits_that_a_run_cannot_have(
    cli: Cli, write_spec: Callable[..., Path], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    _refused(cli("run", write_spec(), "--results", tmp_path, *arguments), *words)
    assert not (tmp_path / "small").exists()


def test_a_calibration_that_cannot_start(cli: Cli, cluster_file: Callable[..., Path], tmp_path: Path) -> None:
    gpu = cluster_file(address="local", gpus=64, resources_per_trial={"gpu": 1})
    _refused(cli("calibrate", "quickstart", "--cluster", gpu, "--results", tmp_path), "64 GPUs")
    _refused(cli("calibrate", "nowhere", "--results", tmp_path), "no study spec 'nowhere'")
    assert list(tmp_path.glob("calibration/*")) == []


class _AfterTwoTrials(RunLimit):
    """A limit that is reached when two trials are stored, however fast the machine is."""

    def __init__(self, store: Store) -> None:
        super().__init__(hours=1.0)
        self._store = store

    def allows_more(self) -> bool:
        if len(self._store.load().rows) >= 2:
            self.reached = "two trials"
        return super().allows_more()


@pytest.mark.slow
def test_a_run_ends_at_its_limit_and_goes_on_later(cli: Cli, write_spec: Callable[..., Path], tmp_path: Path) -> None:
    path = write_spec(axes={"method": ["DCNN", "HDA"]}, search=None, seeds=4)
    spec, store = load_study(path), Store(tmp_path / "small")
    cluster = Cluster(cpus=2)
    stopped = run_study(spec, cluster, store, EventLog(store.events), limit=_AfterTwoTrials(store))
    assert stopped.limit == "two trials"
    assert not stopped.stopped
    # Those that ran when the second was stored came to their end.
    assert 2 <= stopped.executed <= 2 + 2 < stopped.progress.wanted == 10
    assert stopped.progress.finished == {"done": stopped.executed}
    before = set(store.load().rows)
    rest = json.loads(cli("plan", path, "--results", tmp_path, "--json").out)
    assert (rest["trials"], rest["stored"]) == (10 - len(before), len(before))
    finished = run_study(spec, cluster, store, EventLog(store.events), limit=RunLimit(hours=10))
    assert finished.limit is None
    assert finished.progress.stored == len(before)
    assert finished.executed == 10 - len(before)


@pytest.mark.slow
def test_calibrate_plan_run_and_backtest(
    cli: Cli, start_command: Callable[..., Any], write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    """The whole way on this machine: what was measured is planned, what was planned is compared."""
    base = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 12}}
    spec = write_spec(base=base, axes={"method": ["DCNN", "HDA"]}, search=None, seeds=3)
    results = tmp_path / "results"

    measured = start_command("calibrate", spec, "--results", results, "--seconds", "0.5")
    assert measured.ended() == 0, measured.output()
    assert "HDA small shared 1 × 16 × 16 batch 128" in measured.output()
    (calibration,) = (results / "calibration").glob("*.parquet")

    planned = json.loads(cli("plan", spec, "--results", results, "--json").out)
    assert planned["basis"] == "measured"
    assert planned["trials"] == 8
    assert cli("plan", spec, "--results", results, "--calibration", calibration).code == 0

    # Ray takes longer to start than this limit: no trial is handed out, and the plan is there.
    stopped = start_command("run", spec, "--results", results, "--max-hours", "0.0001")
    assert stopped.ended() == 3, stopped.output()
    assert "stopped at the limit, --max-hours 0.0001" in stopped.output()
    folder = results / "small"
    first = read_plan(folder)
    assert isinstance(first, Plan)
    assert first.trials == 8
    assert first.basis == "measured"
    assert Store(folder).load().rows == {}

    done = start_command("run", spec, "--results", results)
    assert done.ended() == 0, done.output()
    assert read_plan(folder) == first  # of the same spec, made before its first trial
    rows = Store(folder).load().rows.values()
    assert len(rows) == 8
    assert all(row["device_trials"] >= 1 and row["processor"] for row in rows)
    report = (folder / "report" / "report.md").read_text()
    assert "Planned and actual" in report

    again = json.loads(cli("plan", "--backtest", results, "--json").out)
    (study,) = again["studies"]
    assert study["study"] == "small"
    assert study["trials"] == 8
    assert study["actual"] == pytest.approx(sum(row["trial_seconds"] for row in rows))
    assert study["error"] == pytest.approx(study["planned"]["median"] / study["actual"] - 1)
    assert study["actual_wall"] is not None
    text = cli("plan", "--backtest", folder).out
    assert "trial time within ±15%" in text
