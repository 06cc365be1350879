"""A process that runs one trial after the other, as a Tune trainable."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import study.engine.environment  # noqa: F401 - before Ray

# isort: split

from ray import tune

from study.engine.attempt import (
    Parcel,
    Payload,
    answer_deadline_s,
    attempt,
    open_data,
    pruned_tables,
    watch_for_hanging,
)
from study.spec.trial import Trial
from study.store import TrialTables

if TYPE_CHECKING:
    from study.training import EpochRecord

__all__ = ["TrialProcess"]

# Epochs are reported together for about this long: a report costs the driver some milliseconds.
REPORT_EVERY_S = 1.0


class TrialProcess(tune.Trainable):
    """A step is about a second of epochs. The site and its last fingerprints stay in memory between trials.

    Its configuration: ``payload`` (a `Payload`), ``trial`` (JSON), ``competes`` (whether the driver may stop it early:
    each report then has a parcel with the tables as they are).
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Open the site, once for all trials."""
        import torch

        # To open the site may hang, too.
        limit = config["payload"].time_limit_s
        watch_for_hanging(None if limit is None else answer_deadline_s(limit))
        self._data = open_data(config["payload"], torch.device("cuda" if config["payload"].gpu else "cpu"))
        self._run: Generator[EpochRecord, None, TrialTables] | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; one that was stopped early is dropped."""
        self.cleanup()
        self._payload: Payload = new_config["payload"]
        self._trial = Trial(**json.loads(new_config["trial"]))
        self._competes: bool = new_config["competes"]
        self._records: list[EpochRecord] = []
        return True

    def step(self) -> dict[str, Any]:
        """Some epochs."""
        now = time.monotonic()
        if self._run is None:
            self._run, self._began = attempt(self._trial, self._data, self._payload), now
            if self._payload.time_limit_s is not None:
                watch_for_hanging(answer_deadline_s(self._payload.time_limit_s))
        until = now + REPORT_EVERY_S
        try:
            while True:
                record = next(self._run)
                self._records.append(record)
                if time.monotonic() > until:
                    return self._progress(record)
        except StopIteration as end:
            self.cleanup()
            return {"parcel": Parcel(end.value), "done": True}

    def _progress(self, record: EpochRecord) -> dict[str, Any]:
        result: dict[str, Any] = {"epoch": record.epoch, "validation_rmse_m": record.validation_rmse_m, "done": False}
        if self._competes:
            seconds = time.monotonic() - self._began
            result["so_far"] = Parcel(pruned_tables(self._trial, self._payload.provenance, self._records, seconds))
        return result

    def cleanup(self) -> None:
        """Drop the running trial."""
        watch_for_hanging(None)
        if self._run is not None:
            self._run.close()
            self._run = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: an interrupted trial starts again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""
