"""How long the report of a large study takes, and how much memory.

    python benchmarks/report.py [axes] [search] [--trials 10000] [--epochs 200] [--errors 300]

Made-up results of two shapes, compacted: ``axes`` has cells of five seeds each, ``search`` 20 cells whose λ was
searched and 20 that learned their weights. The report is built in a process of its own. A thread of it looks every few
milliseconds at what runs: processor seconds by part are those between looks, of reading epochs and errors also alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

from made_up_results import axes_study, fill, search_study
from watching import peak_memory_mb

LOOK_SECONDS = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["axes", "search"], metavar="shape", help="axes, search")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--errors", type=int, default=300, help="Test samples of each trial.")
    parser.add_argument("--keep", type=Path, help="Make the results here, and leave them.")
    arguments = parser.parse_args()
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (arguments.keep or Path(scratch)) / shape
            spec = axes_study(arguments.trials) if shape == "axes" else search_study(arguments.trials)
            began = time.perf_counter()
            trials = fill(folder, spec, arguments.epochs, arguments.errors)
            print(
                f"{shape}: {trials:,} trials, {trials * arguments.epochs:,} epochs, {trials * arguments.errors:,} test "
                f"samples; made in {time.perf_counter() - began:.0f} s",
                flush=True,
            )
            subprocess.run([sys.executable, __file__, "--child", str(folder)], check=True)


# ------------------------------------------------------------------------------------------------- the measured process


def child(folder: Path) -> None:
    """Build the report and print what it took."""
    began = time.perf_counter()
    from reports.build import build_report

    imported = time.perf_counter() - began
    watch = Watch(threading.main_thread().ident)
    watch.start()
    began, spent = time.perf_counter(), time.process_time()
    build_report(folder)
    wall, processor = time.perf_counter() - began, time.process_time() - spent
    watch.stop()
    print(f"  {'imports':32} {imported:7.1f} s")
    for part, seconds in sorted(watch.parts.items(), key=lambda item: -item[1]):
        print(f"  {part:32} {seconds:7.1f} s")
    print(f"  {'  reading epochs and errors':32} {watch.reading:7.1f} s (a part of the above)")
    print(f"  {'report, wall time':32} {wall:7.1f} s")
    print(f"  {'report, processor time':32} {processor:7.1f} s")
    print(f"  {'peak memory of the process':32} {peak_memory_mb():7.0f} MB")
    size = sum(file.stat().st_size for file in (folder / "report").rglob("*") if file.is_file())
    page = (folder / "report" / "index.html").stat().st_size
    print(f"  {'report on disk, its page':32} {size / 1e6:7.1f} MB, {page / 1e6:.1f} MB", flush=True)


class Watch(threading.Thread):
    """Looks at what the main thread runs, and adds up time by the part of `reports` that was entered first."""

    def __init__(self, watched: int | None) -> None:
        super().__init__(daemon=True)
        self.parts: dict[str, float] = defaultdict(float)
        self.reading = 0.0
        self._watched = watched
        self._ended = threading.Event()

    def run(self) -> None:
        last = time.process_time()
        while not self._ended.wait(LOOK_SECONDS):
            frame = sys._current_frames().get(self._watched or 0)
            now = time.process_time()
            part, reading = part_of(frame)
            self.parts[part] += now - last
            self.reading += reading * (now - last)
            last = now

    def stop(self) -> None:
        self._ended.set()
        self.join()


def part_of(frame: FrameType | None) -> tuple[str, bool]:
    """The part that a stack belongs to, and whether epochs or errors are being read."""
    part, loading, reading = "pages and files", False, False
    while frame is not None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module == "reports.results" and name == "load_results":
            loading = True
        if module == "study.store" and name in ("read_epochs", "read_errors", "read_many"):
            reading = True
        if module.startswith("reports."):
            branch = module.split(".")[1]
            part = branch if branch not in ("build", "results", "pages") else part
        frame = frame.f_back
    return ("loading" if loading else part), reading


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
    else:
        main()
