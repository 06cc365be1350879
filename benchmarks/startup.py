"""How long commands take to answer, and how long `study run` takes until it trains.

    python benchmarks/startup.py [RUNS]             all figures, medians of 5 runs by default
    python benchmarks/startup.py [RUNS] --only run  one of help, validate, status, run

`run` runs the quickstart study with epochs cut to one, in a fresh folder, until its first trial is stored, and stops
it. Moments are seconds after the command's start. They are read from what the study writes (its events, and the trial's
row: started_at, data_seconds, setup_seconds) and from when its processes began. Processor seconds are those of the
command with all that it started: on a busy machine they tell more than the clock does.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

from study.observers import read_events
from study.resources import find_spec
from study.store import Store

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_S = 0.05
# Ray kills what does not end by itself long before.
_END_S = 120


@dataclass
class _Watched:
    """A process of the command, as it was last seen."""

    began: float
    names: dict[str, float] = field(default_factory=dict)  # the names it had → when they were first seen
    processor: list[tuple[float, float]] = field(default_factory=list)  # (when, its processor seconds)

    def processor_at(self, moment: float) -> float:
        """Processor seconds by a moment."""
        return max((seconds for when, seconds in self.processor if when <= moment), default=0.0)


class _Command:
    """A ``study`` command in a session of its own, with everything that it starts."""

    def __init__(self, *arguments: object) -> None:
        self.began = time.time()
        self._boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "study", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.seen: dict[int, _Watched] = {}

    def look(self) -> None:
        """Take down what its processes are called and have used."""
        now = time.time() - self.began
        for pid, (name, began, processor) in _session(self.process.pid).items():
            watched = self.seen.setdefault(pid, _Watched(self._boot + began - self.began))
            watched.names.setdefault(name, now)
            watched.processor.append((now, processor))

    def first(self, *names: str, process: bool = False) -> float | None:
        """When a process was first seen under a name that holds one of these; or when that process itself began."""
        return min(
            (
                watched.began if process else when
                for watched in self.seen.values()
                for name, when in watched.names.items()
                if any(part in name for part in names)
            ),
            default=None,
        )

    def end(self) -> None:
        """Stop it, and whatever it does not end itself."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(_END_S)
        finally:
            for pid in [*_session(self.process.pid)]:
                os.kill(pid, signal.SIGKILL)


def _session(leader: int) -> dict[int, tuple[str, float, float]]:
    """Process id → command line, start in seconds after the machine's, processor seconds; of one session."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = (folder / "stat").read_text()
            fields = status[status.rindex(")") + 2 :].split()
            if int(fields[3]) != leader or fields[0] == "Z":
                continue
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has ended
            continue
        processor = (int(fields[11]) + int(fields[12])) / _TICKS
        found[int(folder.name)] = (name, int(fields[19]) / _TICKS, processor)
    return found


def _short_command(*arguments: object) -> dict[str, float]:
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "study", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - began, "processor seconds": processor}


def _help() -> dict[str, float]:
    return _short_command("--help")


def _validate() -> dict[str, float]:
    return _short_command("validate", "quickstart")


def _first_step(folder: Path) -> tuple[dict[str, float], Path]:
    spec = yaml.safe_load(find_spec("quickstart").read_text())
    spec["base"]["training"]["epochs"] = 1
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    results = folder / "quickstart"
    command = _Command("run", folder / "spec.yaml", "--results", folder)
    try:
        while not list((results / "trials").glob("*.parquet")):
            assert command.process.poll() is None, command.process.returncode
            command.look()
            time.sleep(_EVERY_S)
    finally:
        command.end()
    row = min(Store(results).load().rows.values(), key=lambda row: row["started_at"])
    events = {event["event"]: event for event in reversed(list(read_events(results / "events.jsonl")))}
    trial = datetime.fromisoformat(row["started_at"]).timestamp() - command.began
    step = trial + row["data_seconds"] + row["setup_seconds"]

    def happened(name: str) -> float:
        return datetime.fromisoformat(events[name]["time"]).timestamp() - command.began

    moments = {
        "spec and site are checked": (results / "study.yaml").stat().st_mtime - command.began,
        "the run has its queue": happened("run_started"),
        "Ray's first server starts": command.first("gcs_server", process=True),
        "Ray's node starts": command.first("raylet/raylet", process=True),
        "the plan is written": (results / "plan.json").stat().st_mtime - command.began,
        "the trial's process starts": command.first("ray::ResourceTrainable", process=True),
        "it has loaded the engine": command.first("ray::ResourceTrainable"),
        "it has torch and the site": happened("trial_started"),
        "the trial begins": trial,
        "it has its data": trial + row["data_seconds"],
        "the first training step": step,
    }
    found = {name: moment for name, moment in moments.items() if moment is not None}
    command_only = command.seen[command.process.pid].processor_at(step)
    everything = sum(watched.processor_at(step) for watched in command.seen.values())
    trials = sum(
        watched.processor_at(step)
        for watched in command.seen.values()
        if any("ray::ResourceTrainable" in name for name in watched.names)
    )
    found["processor seconds by then, all"] = everything
    found["  the command itself"] = command_only
    found["  the trials' processes"] = trials
    found["  Ray's own"] = everything - command_only - trials
    return found, results


def _show(name: str, measured: Iterable[dict[str, float]]) -> None:
    measured = list(measured)
    print(f"{name} ({len(measured)} runs: median, least … most)")
    for key in dict.fromkeys(key for one in measured for key in one):
        values = [one[key] for one in measured if key in one]
        print(f"  {key:32} {statistics.median(values):7.2f}   {min(values):6.2f} … {max(values):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=5)
    parser.add_argument("--only", choices=["help", "validate", "status", "run"])
    arguments = parser.parse_args()
    wanted = [arguments.only] if arguments.only else ["help", "validate", "status", "run"]
    with tempfile.TemporaryDirectory() as text:
        results: Path | None = None

        def run(number: int) -> dict[str, float]:
            nonlocal results
            folder = Path(text) / str(number)
            folder.mkdir()
            found, results = _first_step(folder)
            return found

        commands: dict[str, Callable[[int], dict[str, float]]] = {
            "help": lambda number: _help(),
            "validate": lambda number: _validate(),
            "run": run,
            "status": lambda number: _short_command("status", results),
        }
        if "status" in wanted and "run" not in wanted:
            run(-1)
        for name in commands:  # status needs what a run has written
            if name in wanted:
                commands[name](-2)  # the files are in memory then
                title = {"help": "study --help", "validate": "study validate quickstart", "status": "study status"}
                _show(title.get(name, "study run quickstart"), [commands[name](i) for i in range(arguments.runs)])


if __name__ == "__main__":
    main()
