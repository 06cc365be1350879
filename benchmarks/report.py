"""How long the report of a large study takes, and how much memory.

    python benchmarks/report.py [axes] [search] [--trials 10000] [--epochs 200] [--errors 300]

Made-up results of two shapes, compacted: ``axes`` has cells of five seeds each, ``search`` 20 cells whose λ was
searched and 20 that learned their weights. The report is built in a process of its own. A thread of it looks every few
milliseconds at what runs: processor seconds by part are those between looks, of reading epochs and errors also alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from study.result_files import SCHEMAS
from study.spec.expand import distinct, expand
from study.spec.model import StudySpec
from study.spec.trial import canonical_json

DATA_HASH = "b9719d911017c592"
SEEDS = 5
SEARCHED_CELLS = 20
METHODS = ("DCNN", "TL", "RDA", "MDA", "HDA")
ROWS_PER_GROUP = {"trials": 4096, "epochs": 16_384, "errors": 16_384}  # as study/compaction.py
LOOK_SECONDS = 0.005
CLASSES = ("LOS", "DNLOS", "SNLOS")


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


# ------------------------------------------------------------------------------------------------- made-up results


def axes_study(trials: int) -> dict[str, Any]:
    """Methods × normalizations × bandwidths × numbers of paths."""
    systems = trials // (SEEDS * len(METHODS) * 4 * 10)
    return base_study() | {
        "axes": {
            "method": list(METHODS),
            "system.normalization": ["antenna", "subcarrier", "matrix", "none"],
            "system.bandwidth_mhz": [10.0 * step for step in range(1, 11)],
            "system.paths": list(range(1, 1 + max(1, systems))),
        }
    }


def search_study(trials: int) -> dict[str, Any]:
    """MDA with a grid of λ, all seeds for each candidate, beside HDA."""
    candidates = trials // (SEARCHED_CELLS * SEEDS) - 1
    grid = [0.0, (candidates - 1) / candidates, 1 / candidates]
    search = {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": grid}}, "seeds": SEEDS}
    return base_study() | {
        "axes": {"method": ["MDA", "HDA"], "system.paths": list(range(1, 1 + SEARCHED_CELLS))},
        "search": [search],
    }


def base_study() -> dict[str, Any]:
    return {
        "study": "large",
        "site": "canyon_small",
        "base": {"network": {"preset": "small"}},
        "references": [],
        "seeds": SEEDS,
        "claims": [
            {"name": "HDA is better than MDA", "better": {"method": "HDA"}, "than": {"method": "MDA"}},
            {"name": "HDA is better than DCNN", "better": {"method": "HDA"}, "than": {"method": "DCNN"}},
        ],
    }


def fill(folder: Path, content: Mapping[str, Any], epochs: int, errors: int) -> int:
    """Write a compacted results folder in bulk; how many trials it has."""
    spec = StudySpec.model_validate_json(json.dumps(content), strict=True)
    for kind in SCHEMAS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    described = spec.model_dump(mode="json", by_alias=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(described, allow_unicode=True), encoding="utf-8")
    (folder / "site.json").write_text(json.dumps({"name": "made_up", "data_hash": DATA_HASH}), encoding="utf-8")
    random = np.random.default_rng(0)
    rows = sorted((row_of(trial, random, epochs, errors) for trial in wanted(spec)), key=lambda row: str(row["key"]))
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["trials"])
    write(folder, "trials", (table.slice(row, 1) for row in range(len(rows))), 1)
    write(folder, "epochs", (epochs_of(row, random, epochs) for row in rows), epochs)
    write(folder, "errors", (errors_of(row, random, errors) for row in rows), errors)
    return len(rows)


def wanted(spec: StudySpec) -> Iterator[Any]:
    for cell in distinct(expand(spec)):
        if cell.search is None:
            yield from cell.trials(spec.seeds, DATA_HASH)
        else:
            (path, domain), *_ = cell.search.space.items()
            for value in domain.values() or []:
                yield from cell.trials(cell.search.seeds, DATA_HASH, {path: value})


def row_of(trial: Any, random: np.random.Generator, epochs: int, errors: int) -> dict[str, Any]:
    """A row of the trial table."""
    config = trial.config
    weight = config["objective"].get("lambda", 0.7)
    level = 9 + METHODS.index(trial.method) / 10 + 10 * (weight - 0.7) ** 2 + 2 / config["system"]["paths"]
    level += float(random.normal(0, 0.2))
    joint = trial.method in ("MDA", "HDA")
    hits = random.integers(errors // 5, errors // 4, 9)
    number = int(trial.key, 16)
    return {
        "key": trial.key, "state": "done" if number % 100 else "failed", "method": trial.method, "seed": trial.seed,
        "config": canonical_json(config), "error": None if number % 100 else "made up", "data_hash": DATA_HASH,
        "validation_rmse_m": 0.6 * level, "validation_accuracy": 0.9 if joint else None, "test_rmse_m": level,
        "test_mean_error_m": 0.8 * level, "test_median_error_m": 0.6 * level, "test_p90_error_m": 1.7 * level,
        "test_accuracy": float(random.uniform(0.85, 0.9)) if joint else None,
        "test_recall": [0.9, 0.8, 0.85] if joint else None, "confusion": hits.tolist() if joint else None,
        "classes": list(CLASSES) if joint else None, "best_epoch": int(random.integers(epochs // 2, epochs)),
        "epochs": epochs, "planned_epochs": epochs, "test_samples": errors, "train_samples": 7200,
        "parameters": 400_000, "parameters_deployed": 200_000, "macs_paper": 10**9, "flops_batch": 10**9,
        "macs_per_sample": 10**7, "macs_deployed": 10**7, "train_seconds": float(random.uniform(60, 80)),
        "trial_seconds": 85.0, "peak_memory_mb": 800.0, "started_at": "2026-03-01T10:00:00+00:00", "device": "cpu",
        "host": "node-1", "torch_version": "2.13.0", "ray_version": "2.60.0", "study_version": "0.1.0",
        "spec_hash": "5d41402abc4b2a76",
    }  # fmt: skip


def epochs_of(row: Mapping[str, Any], random: np.random.Generator, count: int) -> pa.Table:
    epoch = np.arange(1, count + 1)
    curve = row["validation_rmse_m"] * (1 + 2 * np.exp(-epoch / 20)) + random.random(count) / 10
    curve[row["best_epoch"] - 1] = row["validation_rmse_m"]
    learned = row["method"] == "HDA"
    joint = row["validation_accuracy"] is not None
    return table_of(
        "epochs", row["key"], count,
        epoch=epoch, train_loss=np.exp(-epoch / 30), validation_rmse_m=curve,
        validation_accuracy=1 - np.exp(-epoch / 10) if joint else None, learning_rate=np.full(count, 1e-3),
        seconds=np.full(count, 0.4), log_var_position=-1.8 * (1 - np.exp(-epoch / 12)) if learned else None,
        log_var_condition=-1.5 * (1 - np.exp(-epoch / 7)) if learned else None,
    )  # fmt: skip


def errors_of(row: Mapping[str, Any], random: np.random.Generator, count: int) -> pa.Table:
    error = random.gamma(1.4, row["test_rmse_m"] / 1.85, count)
    x, y = random.uniform(-40, 40, count), random.uniform(-8, 8, count)
    angle = random.uniform(0, 2 * np.pi, count)
    condition = random.integers(0, 3, count)
    return table_of(
        "errors", row["key"], count,
        scene=np.arange(count) // 60, position=np.arange(count) % 60, x_m=x, y_m=y, x_hat_m=x + error * np.cos(angle),
        y_hat_m=y + error * np.sin(angle), error_m=error, condition=condition,
        condition_hat=condition if row["confusion"] else np.full(count, -1),
    )  # fmt: skip


def table_of(kind: str, key: str, count: int, **columns: Any) -> pa.Table:
    schema = SCHEMAS[kind]
    arrays = [pa.repeat(key, count)]
    for item in list(schema)[1:]:
        values = columns[item.name]
        numpy_type = item.type.to_pandas_dtype()
        arrays.append(pa.nulls(count, item.type) if values is None else pa.array(np.asarray(values, numpy_type)))
    return pa.Table.from_arrays(arrays, schema=schema)


def write(folder: Path, kind: str, tables: Iterator[pa.Table], rows: int) -> None:
    """Row groups of whole trials, as a compaction writes them."""
    at_once = max(1, ROWS_PER_GROUP[kind] // rows)
    path = folder / kind / "compacted-000001.parquet"
    with pq.ParquetWriter(path, SCHEMAS[kind], compression="zstd", write_page_checksum=True) as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if len(waiting) == at_once:
                writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=at_once * rows)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=at_once * rows)


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


def peak_memory_mb() -> float:
    """The peak resident memory of this process; what it was started from does not count."""
    words = Path("/proc/self/status").read_text(encoding="utf-8").split()
    return int(words[words.index("VmHWM:") + 1]) / 1024


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
    else:
        main()
