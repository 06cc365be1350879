"""What the engine costs: slot time that is training, seconds per trial that does nothing, the driver's memory.

    python benchmarks/engine.py slots [TRIALS]      DCNN trials of about a second, 500 by default: share of slot time
    python benchmarks/engine.py nothing [TRIALS]    nearest-neighbour look-ups of milliseconds, 300 by default
    python benchmarks/engine.py memory [TRIALS]     the same, 5,000 by default: the driver's peak memory on the way

Each runs `study run` in a fresh folder on this machine. Times go from the first trial's start to the last one's end,
by the study's own events.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from watching import peak_memory_mb

from cluster.check import this_machine
from study.observers import read_events
from study.store import Store

_BASE: dict[str, Any] = {
    "system": {"bandwidth_mhz": 100, "subcarriers": 16, "antennas": [4, 4]},
    "split": {"train_scenes": 3, "validation_scenes": 1, "test_scenes": 2},
    "network": {"preset": "small"},
}
_TRIALS = {"slots": 500, "nothing": 300, "memory": 5000}


def spec_of(mode: str, trials: int) -> dict[str, Any]:
    """DCNN trials of about a second (``slots``), or nearest-neighbour look-ups of milliseconds."""
    spec = {"study": mode, "site": "canyon_small", "references": []}
    if mode == "slots":
        training = {"epochs": 40, "batch_size": 128}
        return {**spec, "base": {**_BASE, "training": training, "method": "DCNN"}, "seeds": trials}
    axes = {"method": ["KNN"], "objective.neighbours": list(range(1, trials + 1))}
    return {**spec, "base": _BASE, "axes": axes, "seeds": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=list(_TRIALS))
    parser.add_argument("trials", nargs="?", type=int)
    arguments = parser.parse_args()
    trials = arguments.trials or _TRIALS[arguments.mode]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec_of(arguments.mode, trials)))
        began = time.perf_counter()
        driver = subprocess.Popen(
            [sys.executable, "-m", "study", "run", folder / "spec.yaml", "--results", folder], stdout=subprocess.DEVNULL
        )
        peak, marks, finished = 0.0, {}, 0
        while driver.poll() is None:
            time.sleep(1)
            peak = max(peak, peak_memory_mb(driver.pid))
            finished = len(list((folder / arguments.mode / "trials").glob("*.parquet")))
            for mark in (trials // 10, trials // 2, trials):
                if finished >= mark and mark not in marks:
                    marks[mark] = peak
        wall = time.perf_counter() - began
        assert driver.returncode == 0, driver.returncode
        store = Store(folder / arguments.mode)
        rows = store.load().rows.values()
        events = [event for event in read_events(store.folder / "events.jsonl") if event["event"].startswith("trial_")]
        first, last = (datetime.fromisoformat(events[i]["time"]) for i in (0, -1))
    slots, seconds = this_machine().cpus, (last - first).total_seconds()
    busy = sum(row["trial_seconds"] for row in rows)
    print(f"{len(rows)} trials, {slots} at a time: {seconds:.1f} s from the first to the last, {wall:.1f} s in all")
    print(f"mean trial {busy / len(rows):.3f} s; slot time in trials {busy / (slots * seconds):.1%}")
    print(f"seconds per trial and slot beside the trial itself: {(slots * seconds - busy) / len(rows):.3f}")
    print("driver's peak memory: " + ", ".join(f"{mb:.0f} MB at {mark} trials" for mark, mb in marks.items()))


if __name__ == "__main__":
    main()
