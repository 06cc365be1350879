"""Real Ray: a study runs, resumes, and survives the death of any of its processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from conftest import SMALL_BASE, Result

from study.errors import DataError
from study.spec.loading import load_yaml
from study.spec.model import StudySpec
from study.spec.trial import Trial
from study.store import Store

pytestmark = pytest.mark.slow

Cli = Callable[..., Result]
WriteSpec = Callable[..., Path]

# Long enough to be caught in the middle: about 25 trials of a second each.
LONG_BASE = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 25}}


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


class Driver:
    """``study run`` as a process of its own, in a session of its own."""

    def __init__(self, spec: Path, results: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "study", "run", str(spec), "--results", str(results)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def descendants(self) -> dict[int, str]:
        """Process ids and command lines of everything in the driver's session, Ray's own processes included."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                status = (folder / "stat").read_text()
                session = int(status[status.rindex(")") + 2 :].split()[3])
                if session == self.process.pid and int(folder.name) != self.process.pid:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
        return found

    def trial_processes(self) -> list[int]:
        """Those of them that run trials."""
        names = ("ray::_TrialProcess", "ray::ResourceTrainable")
        return [pid for pid, command in self.descendants().items() if command.startswith(names)]

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 240
        while not condition():
            assert self.process.poll() is None, f"the driver ended before {what}: {self.output()}"
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.05)

    def output(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def wait_until_gone(self, which: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while which():
            assert time.monotonic() < deadline, f"still there: {self.descendants()}"
            time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Driver]]:
    drivers: list[Driver] = []

    def begin(spec: Path) -> Driver:
        drivers.append(Driver(spec, tmp_path / "results"))
        return drivers[-1]

    yield begin
    for driver in drivers:
        for pid in [driver.process.pid, *driver.descendants()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        driver.process.wait()


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


def test_a_killed_driver_loses_no_finished_trial_and_repeats_none(
    write_spec: WriteSpec, start: Callable[[Path], Driver], cli: Cli, tmp_path: Path
) -> None:
    spec = write_spec(base=LONG_BASE, seeds=4)
    folder = tmp_path / "results" / "small"
    kept: dict[str, tuple[int, int]] = {}
    for target in (1, 5):
        driver = start(spec)
        driver.wait_for(lambda target=target: len(_files(folder)) >= target, f"{target} trials")  # type: ignore[misc]
        driver.process.kill()
        driver.process.wait()
        driver.wait_until_gone(driver.trial_processes)
        assert {name: _files(folder)[name] for name in kept} == kept
        kept = _files(folder)
    assert len(kept) < 16
    last = cli("run", spec, "--results", tmp_path / "results")
    assert last.code == 0, last.err
    assert f"{16 - len(kept)} trials executed" in last.out
    assert {name: _files(folder)[name] for name in kept} == kept
    assert len(_rows(folder)) == 16


def test_a_killed_trial_process_is_replaced(
    write_spec: WriteSpec, start: Callable[[Path], Driver], tmp_path: Path
) -> None:
    spec = write_spec(base=LONG_BASE, seeds=4)
    folder = tmp_path / "results" / "small"
    driver = start(spec)
    driver.wait_for(lambda: len(_files(folder)) >= 1, "a first trial")
    os.kill(driver.trial_processes()[0], signal.SIGKILL)
    out = driver.output()
    assert driver.process.wait(240) == 0, out
    assert "16 trials executed" in out
    assert len(_rows(folder)) == 16


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(
    write_spec: WriteSpec, start: Callable[[Path], Driver], cli: Cli, tmp_path: Path
) -> None:
    spec = write_spec(base=LONG_BASE, seeds=4)
    folder = tmp_path / "results" / "small"
    driver = start(spec)
    driver.wait_for(lambda: len(_files(folder)) >= 2, "two trials")
    os.killpg(driver.process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    out = driver.output()
    assert driver.process.wait(120) == 130, out
    assert "Traceback" not in out
    assert "run the same command again" in out
    driver.wait_until_gone(driver.descendants)
    kept = _files(folder)
    assert 2 <= len(kept) < 16
    assert not Store(folder).is_locked()
    last = cli("run", spec, "--results", tmp_path / "results")
    assert f"{16 - len(kept)} trials executed, {len(kept)} were stored before" in last.out
    assert {name: _files(folder)[name] for name in kept} == kept


def test_a_result_cut_short_is_reported_and_its_trial_runs_again(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path
) -> None:
    search = [{"when": {"method": "DCNN"}, "space": {"training.batch_size": {"values": [128]}}, "seeds": 2}]
    spec = write_spec(axes={"method": ["DCNN"]}, search=search)
    folder = tmp_path / "results" / "small"
    assert cli("run", spec, "--results", tmp_path / "results").code == 0
    victim = next(path for path in (folder / "trials").glob("*.parquet"))
    whole = Store(folder).find(victim.stem)
    victim.write_bytes(victim.read_bytes()[:300])
    told = cli("status", folder)
    assert victim.name in told.out
    journal = folder / "optuna.journal"
    journal.write_bytes(b'{"op_code": 0, "worker_id": "x", "study_name"\n{}\n')
    again = cli("run", spec, "--results", tmp_path / "results")
    assert again.code == 0
    assert victim.name in again.out
    assert "optuna.journal.damaged" in again.out
    assert "1 trials executed, 3 were stored before" in again.out
    assert _rows(folder)[victim.stem]["test_rmse_m"] == whole["test_rmse_m"]


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


def _payload(store: Path, site: Path, **changes: Any) -> Any:
    from study.engine import _Payload
    from study.provenance import Provenance

    values = {
        "store": store,
        "site": site,
        "provenance": Provenance.here(),
        "gpu_memory_share": None,
        "time_limit_s": None,
        "fingerprint_memory_mb": None,
        "device_share": 1.0,
        "gpu": False,
        "threads": 1,
        "driver": (socket.gethostname(), os.getpid()),
        **changes,
    }
    return _Payload(**values)


def test_a_trial_process_whose_driver_is_gone_stores_nothing(write_spec: WriteSpec, tmp_path: Path) -> None:
    from study import engine
    from study.data.site import open_site
    from study.spec.expand import expand

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    site = open_site("canyon_small")
    trial = next(cell for cell in expand(spec) if cell.method == "MEAN").trial(0, site.data_hash)
    for pid, stored in ((dead.pid, 0), (os.getpid(), 1)):
        payload = _payload(tmp_path, site.folder, driver=(socket.gethostname(), pid))
        process = engine._TrialProcess({"payload": payload, "trial": json.dumps(vars(trial))})
        assert process.step()["done"]
        assert len(Store(tmp_path).load().rows) == stored


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (RuntimeError("broken on purpose"), "failed", "broken on purpose"),
        (MemoryError("too big"), "out_of_memory", "too big"),
        (torch.OutOfMemoryError("no room on the device"), "out_of_memory", "no room"),
        (DataError("the site is gone", fix="bring it back"), "failed", "bring it back"),
    ],
)
def test_a_trial_that_fails_is_stored_with_its_reason(
    error: Exception, state: str, words: str, write_spec: WriteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial process by itself: a failure becomes a row, and the process can take the next trial."""
    from study import engine
    from study.data.site import open_site
    from study.spec.expand import expand

    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    site = open_site("canyon_small")
    cell = next(cell for cell in expand(spec) if cell.method == "DCNN")
    payload = _payload(tmp_path, site.folder)

    def config(seed: int) -> dict[str, Any]:
        return {"payload": payload, "trial": json.dumps(vars(cell.trial(seed, site.data_hash)))}

    process = engine._TrialProcess(config(0))

    def fail(*_: object) -> Iterator[None]:
        raise error
        yield

    with monkeypatch.context() as patch:
        patch.setattr("study.execution.run_trial", fail)
        assert process.step()["done"]
    (row,) = Store(tmp_path).load().rows.values()
    assert row["state"] == state
    assert words in row["error"]
    assert process.reset_config(config(1))
    while not process.step()["done"]:
        pass
    assert sorted(row["state"] for row in Store(tmp_path).load().rows.values()) == sorted([state, "done"])


def test_a_trial_beyond_its_time_limit_is_stopped(write_spec: WriteSpec, tmp_path: Path) -> None:
    from study import engine
    from study.data.site import open_site
    from study.spec.expand import expand

    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    site = open_site("canyon_small")
    trial = next(cell for cell in expand(spec) if cell.method == "HDA").trial(0, site.data_hash)
    payload = _payload(tmp_path, site.folder, time_limit_s=1e-9)
    process = engine._TrialProcess({"payload": payload, "trial": json.dumps(vars(trial))})
    assert process.step()["done"]
    (row,) = Store(tmp_path).load().rows.values()
    assert row["state"] == "failed"
    assert "time limit" in row["error"]


@pytest.mark.parametrize(("limit_mb", "how"), [(0, "per batch"), (1000, "kept"), (None, "kept")])
def test_the_cluster_file_limits_the_memory_for_fingerprints(
    write_spec: WriteSpec, tmp_path: Path, limit_mb: int | None, how: str
) -> None:
    from rich.console import Console

    from study import engine
    from study.console import RunDisplay
    from study.data.site import open_site
    from study.spec.expand import expand

    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    site = open_site("canyon_small")
    trial = next(cell for cell in expand(spec) if cell.method == "MEAN").trial(0, site.data_hash)
    payload = _payload(tmp_path, site.folder, fingerprint_memory_mb=limit_mb)
    process = engine._TrialProcess({"payload": payload, "trial": json.dumps(vars(trial))})
    assert process.step()["done"]
    (row,) = Store(tmp_path).load().rows.values()
    assert row["fingerprints"] == how
    console = Console(record=True, width=200)
    display = RunDisplay(console, [])
    display.trial_finished(row)
    display.trial_finished(row)
    assert console.export_text().count("made for each batch") == (how == "per batch")


@pytest.fixture
def searcher(write_spec: WriteSpec, tmp_path: Path) -> Callable[..., Any]:
    """Makes Tune's view of a study of one trial, which the queue has handed out."""
    from study.engine import _QueueSearcher, _RunStopper
    from study.search import StudyQueue

    def make(retries: int, should_stop: Callable[[], bool] = lambda: False) -> Any:
        spec = load_yaml(
            write_spec(axes={"method": ["DCNN"]}, references=[], search=[], seeds=1), StudySpec, kind="spec"
        )
        queue = StudyQueue(spec, "hash", {})
        trial = queue.next()
        told = SimpleNamespace(lost=[], finished=[])
        told.trial_lost, told.trial_finished = told.lost.append, told.finished.append
        stopper = _RunStopper(should_stop)
        made = _QueueSearcher(queue, trial, Store(tmp_path / "store"), told, stopper, retries)  # type: ignore[arg-type]
        return SimpleNamespace(searcher=made, queue=queue, trial=trial, told=told, stopper=stopper)

    return make


@pytest.mark.parametrize("retries", [0, 2])
def test_a_lost_trial_is_handed_out_again_as_often_as_the_cluster_file_says(
    searcher: Callable[..., Any], retries: int
) -> None:
    made = searcher(retries)
    for attempt in range(retries + 1):
        handed = made.searcher.suggest(f"id{attempt}")
        assert isinstance(handed, dict)
        assert Trial(**json.loads(handed["trial"])).key == made.trial.key
        assert made.searcher.suggest("another") is None  # not the end: this one may be lost
        assert made.told.lost == []
        made.searcher.on_trial_complete(f"id{attempt}", error=True)
    assert made.told.lost == [made.trial]
    assert made.searcher.suggest("id9") == made.searcher.FINISHED
    assert made.queue.progress().finished["lost"] == 1


def test_a_trial_lost_while_the_run_ends_is_not_handed_out_again(searcher: Callable[..., Any]) -> None:
    made = searcher(2, should_stop=lambda: True)
    made.searcher.suggest("id0")
    assert made.stopper.stop_all()
    made.searcher.on_trial_complete("id0", error=True)
    assert made.told.lost == [made.trial]
    assert made.searcher.suggest("id1") == made.searcher.FINISHED


def test_a_process_that_dies_after_it_has_stored_its_trial_loses_nothing(
    searcher: Callable[..., Any], tmp_path: Path
) -> None:
    from study.execution import failed_tables
    from study.provenance import Provenance

    made = searcher(2)
    made.searcher.suggest("id0")
    Store(tmp_path / "store").write(failed_tables(made.trial, Provenance.here(), "failed", "made up"))
    made.searcher.on_trial_complete("id0", error=True)
    assert [row["key"] for row in made.told.finished] == [made.trial.key]
    assert made.told.lost == []
    assert made.searcher.suggest("id1") == made.searcher.FINISHED
