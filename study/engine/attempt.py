"""One trial in whatever process runs it: failures, the time limit and an early stop become tables."""

from __future__ import annotations

import faulthandler
import sys
import time
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.allocator import keep_freed_memory
from study.data.shared_fingerprints import Sharing
from study.errors import StudyError
from study.provenance import Provenance
from study.spec.trial import Trial
from study.store import TrialTables

if TYPE_CHECKING:  # torch is imported by the processes that train
    import torch

    from study.data.dataset import SiteData
    from study.training import EpochRecord

__all__ = [
    "Parcel",
    "Payload",
    "answer_deadline_s",
    "attempt",
    "open_data",
    "pruned_tables",
    "state_and_reason",
    "watch_for_hanging",
]


# A batch is never split: its normalization and its alignment of domains are those of all its samples.
_NOT_SPLIT = (
    "the trial does not fit the memory it may use, and a batch in parts would be another one: choose a smaller "
    "training.batch_size, or let fewer trials share the device (slots, slots_per_gpu or resources_per_worker in the "
    "cluster file)"
)


@dataclass(frozen=True)
class Payload:
    """What every trial process gets beside its trial.

    Attributes:
        site: what `open_site` finds the site by, on every machine.
        search_path: folders in which a user's own methods are looked for.
        provenance: recorded in every row.
        gpu: whether to train on a GPU.
        gpu_memory_share: cap of a GPU's memory; None without one.
        threads: CPU threads of the process.
        time_limit_s: seconds after which a trial is stopped.
        fingerprint_memory_mb: see `Cluster`.
        device_share: the trial's share of the memory it trains in.
        device_trials: how many trials share its device: the cores of its machine, or its GPU.
        sharing: with whom to share fingerprints; None: each process keeps its own.
    """

    site: str
    search_path: tuple[str, ...]
    provenance: Provenance
    gpu: bool
    gpu_memory_share: float | None
    threads: int
    time_limit_s: float | None
    fingerprint_memory_mb: int | None
    device_share: float
    device_trials: int
    sharing: Sharing | None = None


@dataclass
class Parcel:
    """Tables on their way to the driver, which empties the parcel: Tune keeps the last result of every trial."""

    tables: TrialTables | None

    def unpack(self) -> TrialTables | None:
        """The tables, which are then no longer held here."""
        tables, self.tables = self.tables, None
        return tables


def open_data(payload: Payload, device: torch.device) -> SiteData:
    """Prepare this process for training, and open the site."""
    import torch

    from study.data.dataset import SiteData
    from study.data.site import open_site

    keep_freed_memory()
    # One thread per trial and as many trials as cores: with more threads two trials slow each other down.
    torch.set_num_threads(payload.threads)
    if device.type == "cuda":
        if device.index is not None:  # the current device is each thread's own
            torch.cuda.set_device(device)
        if payload.gpu_memory_share is not None:
            torch.cuda.set_per_process_memory_fraction(payload.gpu_memory_share)
    for folder in payload.search_path:
        if folder not in sys.path:
            sys.path.append(folder)
    limit_mb = payload.fingerprint_memory_mb
    return SiteData(
        open_site(payload.site),
        device,
        fingerprint_bytes=None if limit_mb is None else limit_mb * 2**20,
        device_share=payload.device_share,
        sharing=payload.sharing,
    )


def attempt(trial: Trial, data: SiteData, payload: Payload) -> Generator[EpochRecord, None, TrialTables]:
    """Run a trial, yielding a record after each epoch; the generator's value are its tables, whatever happened."""
    import torch

    from study.execution import failed_tables, run_trial

    began = time.monotonic()
    run = run_trial(trial, data, payload.provenance, device_trials=payload.device_trials)
    try:
        while True:
            record = next(run)
            if payload.time_limit_s is not None and time.monotonic() - began > payload.time_limit_s:
                state = "failed"
                reason = f"the time limit of {payload.time_limit_s:g} s was reached in epoch {record.epoch}"
                break
            yield record
    except StopIteration as end:
        tables: TrialTables = end.value
        return tables
    except Exception as error:  # a trial's own failure is a result: it is stored, and shown
        state, reason = state_and_reason(error)
    finally:
        run.close()
    if data.device.type == "cuda":
        torch.cuda.empty_cache()
    tables = failed_tables(trial, payload.provenance, state, reason)
    tables.row["trial_seconds"] = time.monotonic() - began
    return tables


def state_and_reason(error: Exception) -> tuple[str, str]:
    """The row's state and error of a trial whose own code raised; with a traceback unless it is a mistake to mend."""
    import torch

    # On a CPU torch has no type of its own for it.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    ):
        return "out_of_memory", f"{str(error) or 'not enough memory'}; {_NOT_SPLIT}"
    if isinstance(error, StudyError):
        return "failed", str(error)
    return "failed", "".join(traceback.format_exception(error, limit=20))


def pruned_tables(
    trial: Trial, provenance: Provenance, records: Sequence[EpochRecord], trial_seconds: float
) -> TrialTables:
    """The tables of a trial as they are if it is stopped early now."""
    from study.execution import failed_tables
    from study.training import epoch_columns

    best = records[0]
    for record in records:
        best = record if record.beats(best, locates=trial.locates) else best
    row: dict[str, Any] = {
        **failed_tables(trial, provenance, "pruned", "").row,
        "error": None,
        "epochs": len(records),
        "best_epoch": best.epoch,
        "validation_rmse_m": best.validation_rmse_m,
        "validation_accuracy": best.validation_accuracy,
        "train_seconds": sum(record.seconds for record in records),
        "trial_seconds": trial_seconds,
    }
    return TrialTables(row, epoch_columns(records))


def answer_deadline_s(time_limit_s: float) -> float:
    """Seconds after which a trial that does not even look at its time limit counts as hanging.

    It looks after each epoch: a long epoch shall not be taken for a hang.
    """
    return 1.5 * time_limit_s + 5


def watch_for_hanging(seconds: float | None) -> None:
    """End this process after so many seconds, whatever it is doing; None ends the watch.

    The interpreter's own watchdog needs no cooperation: it works while a trial hangs in a loop or in a library.
    """
    faulthandler.cancel_dump_traceback_later()
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)  # Ray keeps what is said there in its logs
