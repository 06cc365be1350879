"""Real Ray: a study runs, and then only what is new; what trial processes hand over, and what becomes of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
import yaml
from conftest import SMALL_BASE, Result

from cluster.check import Node
from cluster.model import Cluster
from study.data.shared_fingerprints import Sharing, shared_folder
from study.engine.attempt import Parcel, open_data
from study.engine.run import sharing_of
from study.engine.searcher import EarlyStopping, Limits, QueueSearcher, RunStopper
from study.engine.trial_process import TrialProcess
from study.errors import ClusterError, DataError
from study.observers import Observer
from study.provenance import Provenance
from study.ray_session import connect
from study.search import StudyQueue
from study.spec.expand import expand
from study.spec.loading import load_yaml
from study.spec.model import StudySpec
from study.spec.trial import Trial
from study.store import Store, TrialTables

# isort: split

import ray

pytestmark = pytest.mark.slow

Cli = Callable[..., Result]
WriteSpec = Callable[..., Path]

# What a trial finds, whenever it runs.
FOUND = ("state", "config", "seed", "best_epoch", "epochs", "validation_rmse_m", "test_rmse_m", "test_accuracy")


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    """One Ray for studies that only need some Ray: its start takes longer than their trials."""
    assert connect(Cluster())
    yield
    ray.shutdown()


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    stored = Store(folder).load()
    assert not stored.damaged
    return stored.rows


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Identity of every trial file: a trial that ran twice would have a new one."""
    found = {}
    for path in (folder / "trials").glob("*.parquet"):
        status = path.stat()
        found[path.name] = (status.st_ino, status.st_mtime_ns)
    return found


def test_a_study_runs_once_and_then_only_what_is_new(cli: Cli, write_spec: WriteSpec, tmp_path: Path) -> None:
    spec, results = write_spec(), tmp_path / "results"
    folder = results / "small"
    first = cli("run", spec, "--results", results)
    assert first.code == 0, first.err
    rows = _rows(folder)
    # MEAN and KNN once, DCNN and HDA on 2 seeds, MDA on 3 grid points and its winner on another seed.
    assert sorted(row["method"] for row in rows.values()) == sorted(
        ["MEAN", "KNN", *["DCNN"] * 2, *["HDA"] * 2, *["MDA"] * 4]
    )
    assert {row["state"] for row in rows.values()} == {"done"}
    assert "10 trials executed" in first.out
    html = (folder / "report" / "index.html").read_text()
    assert str(folder / "report" / "index.html") in first.out
    assert all(method in html for method in ("MEAN", "KNN", "DCNN", "MDA", "HDA"))

    # The winner of the λ grid is the point with the lowest validation RMSE, and it alone has the second seed.
    mda = [row for row in rows.values() if row["method"] == "MDA"]
    best = min((row for row in mda if row["seed"] == 0), key=lambda row: row["validation_rmse_m"])
    (repeat,) = (row for row in mda if row["seed"] == 1)
    assert json.loads(repeat["config"]) == json.loads(best["config"])

    before = _files(folder)
    again = cli("run", spec, "--results", results)
    assert again.code == 0
    assert "0 trials executed, 10 were stored before" in again.out
    assert _files(folder) == before

    more = cli("run", spec, "--results", results, "--seeds", "3")
    assert "3 trials executed, 10 were stored before" in more.out
    assert {name: _files(folder)[name] for name in before} == before
    assert {row["seed"] for key, row in _rows(folder).items() if f"{key}.parquet" not in before} == {2}

    status = cli("status", folder, "--json")
    told = json.loads(status.out)
    assert (told["stored"], told["wanted"], told["running"]) == (13, 13, False)

    # Without Ray, in this process, one of the trials gives the same numbers.
    repeated = cli("rerun", best["key"][:10], "--study", folder)
    assert repeated.code == 0, repeated.out
    assert "the same result" in repeated.out


@pytest.mark.usefixtures("running_ray")
def test_optuna_searches_the_weight_and_the_focus(cli: Cli, write_spec: WriteSpec, tmp_path: Path) -> None:
    space = {"objective.lambda": {"grid": [0.0, 1.0, 0.1]}, "objective.gamma": {"float": [0.0, 4.0]}}
    search = [{"when": {"method": "MDA"}, "space": space, "sampler": "tpe", "trials": 6}]
    spec = write_spec(axes={"method": ["MDA"]}, search=search, references=[], seeds=2)
    result = cli("run", spec, "--results", tmp_path / "results")
    assert result.code == 0, result.err
    rows = list(_rows(tmp_path / "results" / "small").values())
    assert len(rows) == 7
    tried = {(c["lambda"], c["gamma"]) for c in (json.loads(row["config"])["objective"] for row in rows)}
    assert len(tried) == 6
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "results" / "small" / "optuna.journal"))
    (study,) = optuna.get_all_study_summaries(optuna.storages.JournalStorage(journal))
    assert study.n_trials == 6
    assert study.best_trial is not None
    assert study.best_trial.value == min(row["validation_rmse_m"] for row in rows if row["seed"] == 0)


@pytest.mark.usefixtures("running_ray")
def test_a_result_cut_short_is_reported_and_its_trial_runs_again(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path
) -> None:
    search = [{"when": {"method": "DCNN"}, "space": {"training.batch_size": {"values": [128]}}, "seeds": 2}]
    spec = write_spec(axes={"method": ["DCNN"]}, search=search)
    folder = tmp_path / "results" / "small"
    assert cli("run", spec, "--results", tmp_path / "results").code == 0
    victim = next(path for path in (folder / "trials").glob("*.parquet"))
    before = _rows(folder)
    victim.write_bytes(victim.read_bytes()[:300])
    told = cli("status", folder)
    assert victim.name in told.out
    journal = folder / "optuna.journal"
    journal.write_bytes(b'{"op_code": 0, "worker_id": "x", "study_name"\n{}\n')
    again = cli("run", spec, "--results", tmp_path / "results")
    assert again.code == 0
    assert victim.name in again.out
    assert "optuna.journal.damaged" in again.out
    assert "1 trial executed, 3 were stored before" in again.out
    after = _rows(folder)
    assert after.keys() == before.keys()
    for key, row in after.items():
        assert {name: row[name] for name in FOUND} == {name: before[key][name] for name in FOUND}


@pytest.mark.usefixtures("running_ray")
def test_a_trial_that_diverges_is_a_result_and_the_study_goes_on(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path
) -> None:
    base = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "optimizer": "sgd", "epochs": 6}}
    spec = write_spec(
        base=base, axes={"method": ["DCNN"], "training.learning_rate": [1.0e-3, 1.0e30]}, search=[], references=[]
    )
    result = cli("run", spec, "--results", tmp_path / "results")
    assert result.code == 0, result.err
    rows = _rows(tmp_path / "results" / "small").values()
    assert sorted(row["state"] for row in rows) == ["diverged"] * 2 + ["done"] * 2
    assert "diverged" in (tmp_path / "results" / "small" / "report" / "report.md").read_text()
    assert "0 trials executed" in cli("run", spec, "--results", tmp_path / "results").out
    retried = cli("run", spec, "--results", tmp_path / "results", "--retry", "diverged")
    assert "2 trials executed" in retried.out


def test_a_trial_process_loads_nothing_that_only_the_driver_needs() -> None:
    code = (
        "import sys, study.engine.trial_process\n"
        "unwanted = {'torch', 'optuna', 'study.engine.run', 'study.engine.searcher', 'study.ray_session'}\n"
        "print(*unwanted & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_tune_is_loaded_while_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from study.engine import run

    loaded: list[tuple[str, str]] = []
    started = threading.Event()

    def load(name: str) -> None:
        if name.startswith("study."):
            assert started.wait(60)
            loaded.append((name, threading.current_thread().name))

    monkeypatch.setattr(run, "import_module", load)
    with run._loading_meanwhile():
        assert not loaded
        started.set()
    assert loaded == [(f"study.engine.{name}", "engine") for name in ("searcher", "train_workers", "trial_process")]


def test_what_cannot_be_loaded_while_ray_starts_is_told_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from study.engine import run

    def load(name: str) -> None:
        if name.startswith("study."):
            raise ImportError(name)

    monkeypatch.setattr(run, "import_module", load)
    with run._loading_meanwhile():
        pass
    with pytest.raises(ClusterError, match="no Ray"), run._loading_meanwhile():
        raise ClusterError("no Ray")
    assert "engine" not in [thread.name for thread in threading.enumerate()]


class Process:
    """A trial process without Ray around it, on the small study's site."""

    def __init__(self, spec: Path, method: str, **changes: Any) -> None:
        from study.data.site import open_site
        from study.engine.attempt import Payload
        from study.provenance import Provenance

        site = open_site("canyon_small")
        self.cell = next(cell for cell in expand(load_yaml(spec, StudySpec, kind="spec")) if cell.method == method)
        self.hash = site.data_hash
        self.payload = Payload(
            **{
                "site": site.reference,
                "search_path": (),
                "provenance": Provenance.here(),
                "gpu": False,
                "gpu_memory_share": None,
                "threads": 1,
                "time_limit_s": None,
                "fingerprint_memory_mb": None,
                "device_share": 1.0,
                "device_trials": 1,
                **changes,
            }
        )
        self.process = TrialProcess(self.config(0))

    def config(self, seed: int, competes: bool = False) -> dict[str, Any]:
        trial = json.dumps(vars(self.cell.trial(seed, self.hash)))
        return {"payload": self.payload, "trial": trial, "competes": competes}

    def run(self) -> TrialTables:
        """Run the trial to its end."""
        while not (result := self.process.step())["done"]:
            pass
        tables = result["parcel"].unpack()
        assert result["parcel"].unpack() is None  # it is handed over once
        assert isinstance(tables, TrialTables)
        return tables


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (RuntimeError("broken on purpose"), "failed", "broken on purpose"),
        (MemoryError("too big"), "out_of_memory", "too big"),
        (torch.OutOfMemoryError("no room on the device"), "out_of_memory", "no room"),
        (torch.OutOfMemoryError("no room on the device"), "out_of_memory", "choose a smaller training.batch_size"),
        (DataError("the site is gone", fix="bring it back"), "failed", "bring it back"),
    ],
)
def test_a_trial_that_fails_says_why_and_its_process_takes_the_next(
    error: Exception, state: str, words: str, write_spec: WriteSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(write_spec(), "DCNN")

    def fail(*_: object, **__: object) -> Iterator[None]:
        raise error
        yield

    with monkeypatch.context() as patch:
        patch.setattr("study.execution.run_trial", fail)
        row = process.run().row
    assert row["state"] == state
    assert words in row["error"]
    assert process.process.reset_config(process.config(1))
    assert process.run().row["state"] == "done"


def test_more_memory_than_there_is_is_known_as_such(write_spec: WriteSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU torch raises an error of no type of its own; this one is real."""
    process = Process(write_spec(), "DCNN")

    def ask(*_: object, **__: object) -> Iterator[None]:
        torch.empty(10**15)
        yield

    monkeypatch.setattr("study.execution.run_trial", ask)
    assert process.run().row["state"] == "out_of_memory"


def test_a_trial_beyond_its_time_limit_is_stopped(write_spec: WriteSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would end this process, should it be slow once.
    monkeypatch.setattr("study.engine.trial_process.watch_for_hanging", lambda seconds: None)
    row = Process(write_spec(), "HDA", time_limit_s=1e-9).run().row
    assert row["state"] == "failed"
    assert "time limit" in row["error"]


def test_a_trial_that_competes_tells_its_epochs_so_far(write_spec: WriteSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.engine.trial_process.REPORT_EVERY_S", 0.0)
    process = Process(write_spec(), "DCNN")
    process.process.reset_config(process.config(0, competes=True))
    result = process.process.step()
    tables = result["so_far"].unpack()
    assert (tables.row["state"], tables.row["epochs"], tables.row["planned_epochs"]) == ("pruned", 1, 2)
    assert tables.epochs["epoch"] == [1]
    assert tables.epochs["validation_rmse_m"] == [tables.row["validation_rmse_m"]]
    # Whatever comes next, nothing of it stays.
    process.process.reset_config(process.config(1))
    assert process.run().row["state"] == "done"


@pytest.mark.parametrize(("limit_mb", "how"), [(0, "per batch"), (1000, "kept"), (None, "kept")])
def test_the_cluster_file_limits_the_memory_for_fingerprints(
    write_spec: WriteSpec, limit_mb: int | None, how: str
) -> None:
    from rich.console import Console

    from study.console import RunDisplay

    tables = Process(write_spec(), "MEAN", fingerprint_memory_mb=limit_mb).run()
    assert tables.row["fingerprints"] == how
    console = Console(record=True, width=200)
    display = RunDisplay(console, [])
    display.trial_finished(tables)
    display.trial_finished(tables)
    assert console.export_text().count("made for each batch") == (how == "per batch")


def test_fingerprints_that_cannot_be_shared_are_each_trials_own_and_it_is_said_once(
    write_spec: WriteSpec, tmp_path: Path
) -> None:
    from rich.console import Console

    from study.console import RunDisplay

    sharing = Sharing.of_a_new_run(str(tmp_path / "missing"), processes=2)
    process = Process(write_spec(), "MEAN", sharing=sharing)
    tables = process.run()
    assert tables.row["fingerprints"] == "kept"
    assert str(tmp_path / "missing") in tables.row["notes"]
    process.process.reset_config(process.config(1))
    again = process.run()
    console = Console(record=True, width=500)
    display = RunDisplay(console, [])
    for told in (tables, again):
        display.trial_finished(told)
    assert console.export_text().count("the fingerprints cannot be shared by trials: No such file or directory") == 1


def test_a_process_that_starts_is_not_given_up_for_one_that_is_free() -> None:
    """Tune gives the process of a trial that has ended to the trial that is chosen, and ends what starts for it."""
    trials = [SimpleNamespace(trial_id=name, status="PENDING") for name in "bac"]
    live = trials[:1]
    controller = SimpleNamespace(get_live_trials=lambda: live)
    scheduler = EarlyStopping(None)  # type: ignore[arg-type]
    assert scheduler.choose_trial_to_run(controller) is trials[0]
    live.append(trials[1])
    live.append(trials[2])
    trials[1].status = "RUNNING"
    assert scheduler.choose_trial_to_run(controller) is trials[2]
    assert scheduler.choose_trial_to_run(controller) is trials[0]  # nothing is new: a free process may have it
    live.clear()
    assert scheduler.choose_trial_to_run(controller) is None


@pytest.mark.usefixtures("running_ray")
def test_the_trial_processes_of_a_machine_have_one_copy_of_their_fingerprints(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More trials than are run: on a busy machine one process has done several before the other is there.
    spec = write_spec(axes={"method": ["DCNN"]}, references=[], search=[], seeds=60)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"cpus: 2\nslots: 2\nfingerprint_cache: {tmp_path}\n")
    seen: set[tuple[str, str]] = set()

    def look(*_: object) -> None:
        """Which processes map which files now."""
        for maps in Path("/proc").glob("[0-9]*/maps"):
            with suppress(OSError):
                seen.update(
                    (maps.parent.name, line.split()[4])
                    for line in maps.read_text().splitlines()
                    if str(shared_folder(str(tmp_path))) in line
                )

    def look_and_stop(*_: object) -> None:
        look()
        if len({pid for pid, _ in seen}) == 2 and not stopped:
            stopped.append(True)
            signal.raise_signal(signal.SIGINT)

    stopped: list[bool] = []
    monkeypatch.setattr("study.console.RunDisplay.trial_finished", look_and_stop)
    monkeypatch.setattr("study.console.RunDisplay.trial_progressed", look)
    code = cli("run", spec, "--results", tmp_path / "results", "--cluster", cluster).code
    assert len({pid for pid, _ in seen}) == 2
    assert code == 130
    rows = _rows(tmp_path / "results" / "small").values()
    assert {row["fingerprints"] for row in rows} == {"shared"}
    assert len({inode for _, inode in seen}) == 1
    assert list(shared_folder(str(tmp_path)).iterdir()) == []
    # What they find is what a process finds that has its own.
    key = next(row["key"] for row in rows)
    repeated = cli("rerun", key, "--study", tmp_path / "results" / "small")
    assert repeated.code == 0
    assert "also in" not in repeated.out
    shutil.copytree(tmp_path / "results" / "small", tmp_path / "results" / "tiny")
    repeated = cli("rerun", key, "--results", tmp_path / "results")
    assert repeated.code == 0
    assert f"stored in {tmp_path}/results/small; a trial of this key is also in {tmp_path}/results/tiny" in repeated.out


@pytest.mark.parametrize(
    ("text", "cpus", "processes"),
    [
        ("{}", [4], 4),
        ("{}", [1, 4, 2], 1),
        ("resources_per_trial: {cpu: 2}", [1, 4, 8], 2),  # on the first no trial runs
        ("slots: 3", [8], 3),
        ("workers_per_trial: 2", [8], 8),
        ("{}", [1, 1], None),
        ("slots: 1", [8], None),
        ("fingerprint_cache: off", [8], None),
        ("{gpus: 1, slots_per_gpu: 4}", [8], None),
    ],
)
def test_who_shares_fingerprints(text: str, cpus: list[int], processes: int | None) -> None:
    """Processes that meet on a CPU; the smallest machine says how much they may take."""
    cluster = Cluster(**(yaml.safe_load(text.replace("off", "'off'"))))
    sharing = sharing_of(cluster, [Node(number, 1) for number in cpus])
    assert (None if sharing is None else sharing.processes) == processes


@pytest.mark.parametrize(("share", "caps"), [(0.225, [0.225]), (None, [])])
def test_a_process_with_a_part_of_a_gpu_has_a_cap_on_its_memory(
    write_spec: WriteSpec, monkeypatch: pytest.MonkeyPatch, share: float | None, caps: list[float]
) -> None:
    """Without a GPU: what torch is told before anything is put there."""
    payload = Process(write_spec(), "MEAN", gpu_memory_share=share).payload
    told: list[float] = []
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", told.append)
    monkeypatch.setattr("study.data.dataset.SiteData", lambda *_, **__: list(told))
    for device in ("cuda", "cpu"):
        assert open_data(payload, torch.device(device)) == caps
    assert told == caps


class Told(Observer):
    """Notes what it is told of trials."""

    def __init__(self) -> None:
        self.finished: list[TrialTables] = []
        self.retried: list[tuple[Trial, int, str]] = []
        self.lost: list[Trial] = []

    def trial_finished(self, tables: TrialTables) -> None:
        self.finished.append(tables)

    def trial_retried(self, trial: Trial, attempt: int, reason: str) -> None:
        self.retried.append((trial, attempt, reason))

    def trial_lost(self, trial: Trial, reason: str) -> None:
        self.lost.append(trial)


@pytest.fixture
def searcher(write_spec: WriteSpec, tmp_path: Path) -> Callable[..., Any]:
    """Makes Tune's view of a study of one trial, which the queue has handed out."""

    def make(limits: Limits, should_stop: Callable[[], bool] = lambda: False) -> Any:
        spec = load_yaml(
            write_spec(axes={"method": ["DCNN"]}, references=[], search=[], seeds=1), StudySpec, kind="spec"
        )
        queue = StudyQueue(spec, "hash", {})
        trial = queue.next()
        assert isinstance(trial, Trial)
        told, stopper, store = Told(), RunStopper(should_stop), Store(tmp_path / "store")
        made = QueueSearcher(queue, trial, store, Provenance.here(), told, stopper, limits)
        return SimpleNamespace(searcher=made, queue=queue, trial=trial, told=told, stopper=stopper, store=store)

    return make


@pytest.mark.parametrize("retries", [0, 2])
def test_a_lost_trial_is_handed_out_again_as_often_as_the_cluster_file_says(
    searcher: Callable[..., Any], retries: int
) -> None:
    made = searcher(Limits(retries))
    for attempt in range(retries + 1):
        handed = made.searcher.suggest(f"id{attempt}")
        assert isinstance(handed, dict)
        assert Trial(**json.loads(handed["trial"])).key == made.trial.key
        assert made.searcher.suggest("another") is None  # not the end: this one may be lost
        assert made.told.lost == []
        made.searcher.on_trial_complete(f"id{attempt}", error=True)
    assert [attempt for _, attempt, _ in made.told.retried] == list(range(1, retries + 1))
    assert made.told.lost == [made.trial]
    assert made.searcher.suggest("id9") == made.searcher.FINISHED
    assert made.queue.progress().finished["lost"] == 1
    assert made.store.keys() == []


def test_a_trial_lost_while_the_run_ends_is_not_handed_out_again(searcher: Callable[..., Any]) -> None:
    made = searcher(Limits(2), should_stop=lambda: True)
    made.searcher.suggest("id0")
    assert made.stopper.stop_all()
    made.searcher.on_trial_complete("id0", error=True)
    assert made.told.lost == [made.trial]
    assert made.searcher.suggest("id1") == made.searcher.FINISHED


def test_a_trial_that_machines_cannot_hold_is_a_result_in_the_end(searcher: Callable[..., Any]) -> None:
    """Retried first, since others may have taken the memory; then stored as what it is."""
    made = searcher(Limits(1))
    for attempt in range(2):
        made.searcher.suggest(f"id{attempt}")
        made.searcher.fails_with(f"id{attempt}", "its process was ended because the machine ran out of memory")
        made.searcher.on_trial_complete(f"id{attempt}", error=True)
    (tables,) = made.told.finished
    assert tables.row["state"] == "out_of_memory"
    assert made.store.find(made.trial.key)["state"] == "out_of_memory"


def test_a_trial_that_hangs_is_a_result(searcher: Callable[..., Any]) -> None:
    """Its process ended itself long after the limit (here: any time is longer than none)."""
    made = searcher(Limits(2, time_limit_s=-100.0))
    made.searcher.suggest("id0")
    made.searcher.started("id0")
    made.searcher.on_trial_complete("id0", error=True)
    (tables,) = made.told.finished
    assert tables.row["state"] == "failed"
    assert "did not answer" in tables.row["error"]


def test_a_result_is_stored_once_however_often_tune_tells_of_it(searcher: Callable[..., Any]) -> None:
    made = searcher(Limits(2))
    made.searcher.suggest("id0")
    parcel = Parcel(
        TrialTables({"key": made.trial.key, "state": "failed", "method": "DCNN", "seed": 0, "config": "{}"})
    )
    made.searcher.on_trial_result("id0", {"parcel": parcel})
    made.searcher.on_trial_complete("id0", {"parcel": parcel, "done": True})
    made.searcher.on_trial_complete("id0", error=True)
    assert len(made.told.finished) == 1
    assert made.told.retried == made.told.lost == []
    assert made.store.keys() == [made.trial.key]
