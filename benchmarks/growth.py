"""How wall time, processor time and peak memory grow with the size of what is done.

    python benchmarks/growth.py trials   [--sizes 10 100 500 1000 5000]      `study run` of trials that cost nothing
    python benchmarks/growth.py searches [--sizes 10 30 100 300 500 1000]    the queue of one searched cell, no Ray
    python benchmarks/growth.py samples  [--sizes 6 12 30 60 120]            scenes of 3,784 positions: data, an epoch
    python benchmarks/growth.py antennas                                     fingerprints and a training step
    python benchmarks/growth.py workers  [--sizes 1 2]                       Ray Train workers of one trial
    python benchmarks/growth.py store    [--sizes 10 100 1000 10000]         run, status, report of what is stored
    python benchmarks/growth.py plot [FILE.svg]                              the figure of all that was measured

Each measures in processes of its own, prints what it found with the exponent between neighbouring points (processor
time ~ size ** exponent: 1 is as much work for each as before), and adds to NAME.jsonl in the folder of --out.
Where a point was measured more than once, the figure and the exponents take the smallest: others use the machine too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from watching import Usage, peak_memory_mb, watch

OUT = Path(tempfile.gettempdir()) / "study-growth"
STUDY = [sys.executable, "-m", "study"]
SIZES = {
    "trials": (10, 100, 500, 1000, 5000),
    "searches": (10, 30, 100, 300, 500, 1000),
    "samples": (6, 12, 30, 60, 120),
    "antennas": (),
    "workers": (1, 2),
    "store": (10, 100, 1000, 10_000),
}
POSITIONS = 3784  # of the paper's site; 120 scenes of them are 454,080 samples
SYSTEMS = ((4, 4, 32), (4, 4, 64), (8, 4, 64), (8, 8, 64), (8, 8, 128), (16, 8, 128), (16, 16, 128))
BATCH = 64
SECONDS = 3.0
STORED_EPOCHS, STORED_ERRORS = 20, 300
EPOCHS_OF_A_SEARCH = 9
SAMPLERS = ("grid", "tpe", "nsga2")


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        what: what was done, as the legend says it.
        size: how much of it.
        wall_s, processor_s: seconds, in all.
        memory_mb: peak resident memory of the process.
    """

    what: str
    size: float
    wall_s: float
    processor_s: float
    memory_mb: float


# ------------------------------------------------------------------------------------------------- what is measured


def trials(sizes: Iterable[int]) -> Iterator[Point]:
    """Nearest-neighbour look-ups, each a cell of its own: the driver's share, from its first trial to its last."""
    import yaml
    from engine import spec_of

    from study.observers import read_events

    for size in sizes:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            (folder / "spec.yaml").write_text(yaml.safe_dump(spec_of("nothing", size)))
            usage = watch([*STUDY, "run", folder / "spec.yaml", "--results", folder])
            times = [
                datetime.fromisoformat(event["time"]).timestamp()
                for event in read_events(folder / "nothing" / "events.jsonl")
                if event["event"].startswith("trial_")
            ]
        yield from phases(usage, size, times)


def phases(usage: Usage, size: int, times: list[float]) -> Iterator[Point]:
    """Before the first trial, the trials and after the last one, by the study's own events."""
    first, last = usage.at(times[0]), usage.at(times[-1])
    end = usage.looks[-1]
    for what, began, ended in (
        ("before the first trial", usage.looks[0]._replace(processor_s=0.0), first),
        ("trials, the driver", first, last),
        ("after the last trial", last, end._replace(memory_mb=usage.memory_mb)),
    ):
        wall, processor = ended.time_s - began.time_s, ended.processor_s - began.processor_s
        yield Point(what, size, wall, processor, ended.memory_mb)
    halves = [usage.at(times[len(times) * part // 4 - (part == 4)]) for part in range(5)]
    shares = ", ".join(f"{(b.processor_s - a.processor_s) * 4e3 / size:.1f}" for a, b in pairwise(halves))
    print(f"  {size} trials: driver's processor ms per trial in each quarter: {shares}", flush=True)


def searches(sizes: Iterable[int]) -> Iterator[Point]:
    """A cell with so many candidates, two at a time: the queue alone, with Optuna's journal on disk."""
    for size in sizes:
        for how in (*SAMPLERS, "tpe, early stopping"):
            yield from in_a_process("search", {"size": size, "how": how})


def samples(sizes: Iterable[int]) -> Iterator[Point]:
    """One epoch of DCNN on made-up sites of so many scenes, with fingerprints kept and made for each batch."""
    from made_up_site import write_site

    for scenes in sizes:
        with tempfile.TemporaryDirectory() as text:
            site = str(Path(text) / "made_up")
            write_site(Path(site), POSITIONS, scenes)
            for kept in (True, False):
                yield from in_a_process("samples", {"site": site, "scenes": scenes, "kept": kept})


def antennas(sizes: Iterable[int]) -> Iterator[Point]:
    """Fingerprints of the shipped site, and a training step on as many samples, one thread."""
    for my, mz, subcarriers in SYSTEMS:
        for what in ("fingerprints", "step"):
            yield from in_a_process(what, {"antennas": [my, mz], "subcarriers": subcarriers})


def workers(sizes: Iterable[int]) -> Iterator[Point]:
    """The epochs of a DCNN trial on Ray Train workers: seconds of one step."""
    import yaml

    from study.store import Store

    epochs, scenes = 8, 6
    base = {
        "method": "DCNN",
        "system": {"subcarriers": 64, "antennas": [8, 8]},
        "split": {"train_scenes": scenes, "validation_scenes": 1, "test_scenes": 1},
        "network": {"preset": "small"},
        "training": {"epochs": epochs, "batch_size": 256},
    }
    spec = {"study": "workers", "site": "canyon_small", "references": [], "base": base, "seeds": 1}
    for size in sizes:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
            cluster = {"address": "local", "trainer": "ray_train", "workers_per_trial": size}
            (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster))
            usage = watch(
                [*STUDY, "run", folder / "spec.yaml", "--cluster", folder / "cluster.yaml", "--results", folder]
            )
            store = Store(folder / "workers")
            ((key, row),) = store.load().rows.items()
            seconds = sorted(store.read_epochs(key, ["seconds"])["seconds"].to_pylist()[1:])
        steps = row["train_samples"] // 256
        step = seconds[len(seconds) // 2] / steps
        # The workers' processor time is not known here: on a busy machine the seconds are those of its other work.
        yield Point("a step of 256 samples", size, step, 0.0, row["peak_memory_mb"])
        print(f"  {size} workers: {step * 1e3:.0f} ms per step, {usage.wall_s:.0f} s in all", flush=True)


def store(sizes: Iterable[int]) -> Iterator[Point]:
    """Commands on stored trials of 20 epochs and 300 test samples each, before and after `study compact`."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text) / "large"
            # In a process of its own, as all that is measured: this one stays small.
            subprocess.run([sys.executable, __file__, "--make-store", folder, str(size)], check=True)
            yield from of_store(folder, size)


def of_store(folder: Path, size: int) -> Iterator[Point]:
    """The commands on a results folder with its spec beside it; in the end it is compacted."""
    commands = {
        "run, nothing to do": ["run", folder.with_name("spec.yaml"), "--results", folder.parent],
        "status": ["status", folder],
        "report": ["report", folder],
    }
    for merged in ("", ", compacted"):
        if merged:
            usage = watch([*STUDY, "compact", folder])
            yield Point("compact", size, usage.wall_s, usage.processor_s, usage.memory_mb)
        for what, command in commands.items():
            usage = watch([*STUDY, *command])
            yield Point(what + merged, size, usage.wall_s, usage.processor_s, usage.memory_mb)


def make_store(folder: Path, size: int) -> None:
    """A results folder, and the spec that it belongs to beside it."""
    from made_up_results import axes_study, fill

    from study.data.site import open_site

    data_hash = open_site("canyon_small").data_hash
    fill(folder, axes_study(size), STORED_EPOCHS, STORED_ERRORS, data_hash=data_hash, compacted=False)
    (folder.with_name("spec.yaml")).write_bytes((folder / "study.yaml").read_bytes())


# ------------------------------------------------------------------------------------------------- in its own process


def in_a_process(what: str, settings: dict[str, Any]) -> list[Point]:
    """The points that one of `INSIDE` measures in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--inside", what, json.dumps(settings)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return [Point(**json.loads(line)) for line in done.stdout.splitlines()]


class Clock:
    """Points of what is done one after the other."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def point(self, what: str, size: float, times: int = 1) -> Point:
        """What was taken since the last point, for each of so many times."""
        wall, processor = time.perf_counter(), time.process_time()
        taken = (wall - self._wall) / times, (processor - self._processor) / times
        self._wall, self._processor = wall, processor
        return Point(what, size, *taken, peak_memory_mb())


def search_inside(size: int, how: str) -> Iterator[Point]:
    """Hands out every candidate and takes it back, as a run does; then once more with all of them stored."""
    from study.search import StudyQueue
    from study.spec.model import StudySpec
    from study.spec.trial import Trial, canonical_json

    step = 1 / 2048
    space = {"objective.lambda": {"grid": [0.0, (size - 1) * step, step]} if how == "grid" else {"float": [0.0, 1.0]}}
    search: dict[str, Any] = {"when": {"method": "MDA"}, "space": space, "seeds": 1}
    if how != "grid":
        search |= {"sampler": how.partition(",")[0], "trials": size}
    if "early" in how:
        search["early_stopping"] = {"rule": "asha", "grace_epochs": 1, "reduction_factor": 3}
    content = {"study": "searched", "site": "canyon_small", "references": [], "axes": {"method": ["MDA"]}, "seeds": 1}
    spec = StudySpec.model_validate_json(json.dumps({**content, "search": [search]}), strict=True)

    def error_of(trial: Trial, epoch: int) -> float:
        return float(10 + (trial.config["objective"]["lambda"] - 0.7) ** 2 + 1 / epoch)

    def row_of(trial: Trial, state: str) -> dict[str, Any]:
        error = error_of(trial, EPOCHS_OF_A_SEARCH)
        row = {"key": trial.key, "state": state, "method": trial.method, "seed": 0, "data_hash": trial.data_hash}
        scores = {"validation_rmse_m": error, "validation_accuracy": 1 / error}
        return row | scores | {"config": canonical_json(trial.config)}

    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "optuna.journal"
        clock = Clock()
        queue = StudyQueue(spec, "hash", {}, journal)
        running: list[Trial] = []
        while True:
            found = queue.next() if len(running) < 2 else None
            if isinstance(found, Trial):
                running.append(found)
                continue
            if not running:
                break
            trial, state = running.pop(0), "done"
            if queue.competes(trial.key):
                for last in range(1, EPOCHS_OF_A_SEARCH + 1):
                    values = [error_of(trial, epoch) for epoch in range(1, last + 1)]
                    if queue.falls_behind(trial.key, {"epoch": [*range(1, last + 1)], "validation_rmse_m": values}):
                        state = "pruned"
                        break
            queue.finish(row_of(trial, state))
            queue.progress()
        yield clock.point(how, len(queue.rows))
        StudyQueue(spec, "hash", queue.rows, journal).progress()
        yield clock.point(f"{how}, opened again", len(queue.rows))


def samples_inside(site: str, scenes: int, kept: bool) -> Iterator[Point]:
    """From the site's folder to the tables of a trial of one epoch."""
    import torch

    from study.allocator import keep_freed_memory
    from study.data.dataset import SiteData
    from study.data.site import open_site
    from study.execution import run_trial
    from study.provenance import Provenance
    from study.spec.expand import expand
    from study.spec.model import StudySpec

    keep_freed_memory()
    torch.set_num_threads(1)
    split = {"train_scenes": scenes // 2, "validation_scenes": scenes // 6, "test_scenes": scenes // 3}
    base = {
        "method": "DCNN", "system": {"subcarriers": 32, "antennas": [4, 4]}, "split": split,
        "network": {"preset": "small"}, "training": {"epochs": 1},
    }  # fmt: skip
    content = {"study": "samples", "site": site, "references": [], "base": base, "seeds": 1}
    (cell,) = expand(StudySpec.model_validate_json(json.dumps(content), strict=True))
    words, size = "kept" if kept else "per batch", POSITIONS * scenes
    clock = Clock()
    found = open_site(site)
    trial = cell.trial(0, found.data_hash)
    data = SiteData(found, fingerprint_bytes=None if kept else 0)
    config = trial.configuration
    data.prepare(config.system, config.split, coordinate_scale_m=config.training.coordinate_scale_m)
    yield clock.point(f"open and prepare, {words}", size)
    for _ in run_trial(trial, data, Provenance.here({})):  # its data are there already
        yield clock.point(f"an epoch, {words}", size)
    yield clock.point(f"test, {words}", size)


def fingerprints_inside(antennas: list[int], subcarriers: int) -> Iterator[Point]:
    """Batches of fingerprints of the shipped site."""
    import torch

    from study.allocator import keep_freed_memory
    from study.data.dataset import path_samples
    from study.data.site import open_site
    from study.data.system import SystemConfiguration

    keep_freed_memory()
    torch.set_num_threads(1)
    site = open_site("canyon_small")
    system = SystemConfiguration(bandwidth_mhz=100.0, subcarriers=subcarriers, antennas=tuple(antennas))
    made = path_samples(site.read_paths(range(2)), system, 0, site.carrier_hz, "cpu")
    rows = torch.arange(BATCH)
    yield repeated(lambda: made[rows], "fingerprints of a batch", antennas[0] * antennas[1] * subcarriers)


def step_inside(antennas: list[int], subcarriers: int) -> Iterator[Point]:
    """Steps of DCNN with the small network, channels last and without fused layers."""
    import torch

    from models.complexity import measure_complexity
    from models.methods import LabelledBatch, NetworkShape, build_method
    from models.settings import BACKBONES
    from study.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    image = (1, antennas[0] * antennas[1], subcarriers)
    method = build_method("DCNN", NetworkShape(image, conditions=3, backbone=BACKBONES["small"]))
    macs = measure_complexity(method, BATCH).macs_per_sample
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(method.parameter_groups(1e-4), lr=1e-3, fused=True)
    source = LabelledBatch(torch.rand(BATCH, *image), torch.randn(BATCH, 2), torch.randint(3, (BATCH,)))

    def step() -> None:
        loss = method.training_loss(source, None, 0.5)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    found = repeated(step, "a training step on it", image[1] * image[2])
    picoseconds = found.processor_s / BATCH / macs * 1e12
    print(f"  {image}: {macs / 1e6:.2f} MMAC forward, {picoseconds:.0f} ps of a step for each", file=sys.stderr)
    yield found


def repeated(work: Callable[[], object], what: str, size: float) -> Point:
    """One time of many, for some seconds, after two that do not count."""
    work(), work()
    clock, began, times = Clock(), time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        work()
        times += 1
    return clock.point(what, size, times)


INSIDE: dict[str, Callable[..., Iterator[Point]]] = {
    "search": search_inside,
    "samples": samples_inside,
    "fingerprints": fingerprints_inside,
    "step": step_inside,
}

# ------------------------------------------------------------------------------------------------- what was found


def read_points(file: Path) -> dict[str, list[Point]]:
    """What → its points by size, of several of one size the one with the least processor time."""
    best: dict[tuple[str, float], Point] = {}
    for line in file.read_text().splitlines():
        point = Point(**json.loads(line))
        known = best.get((point.what, point.size))
        if known is None or (point.processor_s, point.wall_s) < (known.processor_s, known.wall_s):
            best[point.what, point.size] = point
    found: dict[str, list[Point]] = defaultdict(list)
    for point in sorted(best.values(), key=lambda point: point.size):
        found[point.what].append(point)
    return found


def show(points: dict[str, list[Point]]) -> None:
    """A line for each point, with the exponent from the one before."""
    titles = ("wall [s]", "proc. [s]", "per one [ms]", "exponent", "peak [MB]")
    print(f"{'':34} {'size':>8} {'{:>10} {:>10} {:>12} {:>8} {:>9}'.format(*titles)}")
    for what, series in points.items():
        for before, point in pairwise([None, *series]):
            assert point is not None
            exponent = "" if before is None else f"{exponent_between(before, point):.2f}"
            print(
                f"{what:34} {point.size:8,.0f} {point.wall_s:10.4f} {point.processor_s:10.4f} "
                f"{point.processor_s / point.size * 1e3:12.4f} {exponent:>8} {point.memory_mb:9.0f}"
            )


def exponent_between(before: Point, after: Point) -> float:
    """Of processor time as a power of the size."""
    if min(before.processor_s, after.processor_s) <= 0 or before.size == after.size:
        return math.nan
    return math.log(after.processor_s / before.processor_s) / math.log(after.size / before.size)


MEASURED: dict[str, Callable[[Iterable[int]], Iterator[Point]]] = {
    "trials": trials,
    "searches": searches,
    "samples": samples,
    "antennas": antennas,
    "workers": workers,
    "store": store,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*MEASURED, "plot"])
    parser.add_argument("file", nargs="?", type=Path, default=Path("growth.svg"), help="Of plot: .svg or .png.")
    parser.add_argument("--sizes", type=int, nargs="+", help="By default as above.")
    parser.add_argument("--out", type=Path, default=OUT, help=f"Folder of what was measured, {OUT}.")
    arguments = parser.parse_args()
    if arguments.what == "plot":
        from growth_figure import draw

        draw({name: read_points(file) for name in MEASURED if (file := points_file(arguments.out, name)).exists()},
             arguments.file)  # fmt: skip
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = points_file(arguments.out, arguments.what)
    for point in MEASURED[arguments.what](arguments.sizes or SIZES[arguments.what]):
        with file.open("a") as lines:  # at once: a long series may be stopped
            lines.write(json.dumps(asdict(point)) + "\n")
    show(read_points(file))


def points_file(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make-store"]:
        make_store(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--inside"]:
        for point in INSIDE[sys.argv[2]](**json.loads(sys.argv[3])):
            print(json.dumps(asdict(point)), flush=True)
    else:
        main()
