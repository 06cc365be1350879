"""Repeat a stored trial without Ray and compare: ``study rerun KEY``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from models.settings import METHOD_SETTINGS
from study import __version__
from study.data.dataset import SiteData
from study.data.site import open_site
from study.errors import ResultsError
from study.execution import run_trial
from study.provenance import Provenance
from study.result_files import printable
from study.spec.trial import Trial, canonical_json
from study.store import Store
from study.training import EpochRecord

__all__ = ["Comparison", "repeat_trial", "show_comparison"]

METRICS = (
    "best_epoch",
    "validation_rmse_m",
    "validation_accuracy",
    "test_rmse_m",
    "test_median_error_m",
    "test_accuracy",
)
# The same code on the same kind of processor repeats to the last digit. Another processor or torch build rounds
# differently, and training amplifies that: such a difference is shown as one.
RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Comparison:
    """A stored trial beside its repetition.

    Attributes:
        stored, again: the two rows.
        place: the results folder that holds the stored one.
        others: further folders that hold a trial of that key.
        equal: state and every metric agree.
    """

    stored: dict[str, Any]
    again: dict[str, Any]
    place: str
    others: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether state and every metric agree."""
        return self.stored["state"] == self.again["state"] and all(
            _same(self.stored.get(name), self.again.get(name)) for name in METRICS
        )


def repeat_trial(key: str, stores: Sequence[Store], on_epoch: Callable[[str], None] = lambda text: None) -> Comparison:
    """Find a trial by its key in the results folders, and run it again in this process.

    Args:
        key: the key or its first digits.
        stores: results of studies; the first that holds the key counts.
        on_epoch: told a line after each epoch.

    Raises:
        ResultsError: no such trial, its configuration is none of this version, or its site is gone or changed.
        DataError: the site cannot be read.
    """
    holding = [item for item in stores if item.keys(key)] or [stores[0]]
    store, places = holding[0], [str(item.location) for item in holding]
    stored = store.find(key)
    described = store.read_site() or {}
    trial = _stored_trial(stored, store)
    site = open_site(_site_name(described, store))
    if site.data_hash != trial.data_hash:
        raise ResultsError(
            f"site {site.name!r} has changed since the trial ran",
            where=str(site.folder),
            allowed=f"data with the hash {trial.data_hash}",
            fix="restore the site that the study was run on",
        )
    # On a GPU if the trial ran on one and there is one here; another device rounds differently.
    device = "cuda" if stored["device"] != "cpu" and torch.cuda.is_available() else "cpu"
    # As in a trial process: the number of threads decides the order of sums.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = run_trial(trial, SiteData(site, device), Provenance.here())
        best: EpochRecord | None = None
        while True:
            try:
                record = next(run)
            except StopIteration as end:
                return Comparison(stored, end.value.row, places[0], tuple(places[1:]))
            on_epoch(f"epoch {record.epoch}: validation RMSE {record.validation_rmse_m:.3f} m")
            best = record if best is None or record.beats(best, locates=trial.locates) else best
            if stored["state"] == "pruned" and record.epoch == stored["epochs"]:  # it was stopped here
                again = {
                    "state": "pruned",
                    "best_epoch": best.epoch,
                    "validation_rmse_m": best.validation_rmse_m,
                    "validation_accuracy": best.validation_accuracy,
                }
                row = {**dict.fromkeys(stored), **Provenance.here().as_row(), **again}
                return Comparison(stored, row, places[0], tuple(places[1:]))
    finally:
        torch.set_num_threads(before)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Both rows side by side."""
    stored, again = comparison.stored, comparison.again
    table = Table(
        title=f"trial {stored['key']}: {stored['method']}, seed {stored['seed']}", title_justify="left", box=None
    )
    for title in ("", "stored", "again"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row("state", stored["state"], again["state"])
    for name in METRICS:
        table.add_row(name, _text(stored.get(name)), _text(again.get(name)))
    console.print(table)
    if comparison.others:
        console.print(
            f"stored in {comparison.place}; a trial of this key is also in {', '.join(comparison.others)}: "
            "--study says which is meant",
            markup=False,
        )
    if comparison.equal:
        console.print("the same result")
        return
    console.print("a different result")
    if (stored.get("workers") or 1) > 1:
        console.print("  several workers add up in another order than one, and training enlarges such differences")
    for name in ("torch_version", "study_version", "git_commit", "device", "host", "workers", "precision", "step"):
        # What a trial that was stopped early does not say is no difference.
        if stored.get(name) != again.get(name) and None not in (stored.get(name), again.get(name)):
            console.print(f"  {name}: {stored.get(name)} stored, {again.get(name)} now")


def _stored_trial(stored: dict[str, Any], store: Store) -> Trial:
    """The trial of a stored row."""
    trial = Trial(json.loads(stored["config"]), stored["seed"], stored["data_hash"])
    try:
        usable = canonical_json(trial.configuration.resolved(trial.user_method)) == canonical_json(trial.config)
    except (ValueError, KeyError, RecursionError):  # pydantic's errors are ValueErrors
        usable = False
    if not usable:
        raise ResultsError(
            f"the configuration of trial {stored['key']} is none that this version of study knows",
            where=f"{store.location}/trials, method {printable(stored['method'])[:60]!r}",
            allowed=f"a configuration as study {__version__} writes it, of {', '.join(METHOD_SETTINGS)} or a method of "
            "a user's own",
            fix=f"repeat it with the version that ran it: study {printable(stored['study_version'] or 'unknown')[:40]}",
        )
    return trial


def _site_name(described: dict[str, Any], store: Store) -> str:
    """The folder that was recorded while it is there, otherwise the site's name (a shipped site that has moved)."""
    folder, name = described.get("folder"), described.get("name")
    if not isinstance(folder, str) or not isinstance(name, str):
        raise ResultsError(
            "the results folder does not say which site it ran on",
            where=f"{store.location}/site.json",
            fix="run the study again; finished trials are kept",
        )
    return folder if Path(folder).is_dir() else name


def _same(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=RELATIVE_TOLERANCE)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6f}" if isinstance(value, float) else str(value)
