"""Made-up results of a study: a results folder of any size that `study report` and `study status` take for a real one.

For the benchmarks. Two shapes: ``axes`` has cells of five seeds each, ``search`` 20 cells whose λ was searched and 20
that learned their weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from study.result_files import SCHEMAS, write_single
from study.spec.expand import distinct, expand
from study.spec.model import StudySpec
from study.spec.trial import canonical_json

DATA_HASH = "b9719d911017c592"
SEEDS = 5
SEARCHED_CELLS = 20
METHODS = ("DCNN", "TL", "RDA", "MDA", "HDA")
ROWS_PER_GROUP = {"trials": 4096, "epochs": 16_384, "errors": 16_384}  # as study/compaction.py
CLASSES = ("LOS", "DNLOS", "SNLOS")


def axes_study(trials: int) -> dict[str, Any]:
    """Methods × bandwidths × normalizations × numbers of paths, as many of each as the trials ask for."""
    cells, axes = trials // SEEDS, {}
    for path, values in (
        ("method", list(METHODS)),
        ("system.bandwidth_mhz", [10.0 * step for step in range(1, 11)]),
        ("system.normalization", ["antenna", "subcarrier", "matrix", "none"]),
        ("system.paths", list(range(1, 26))),
    ):
        axes[path] = values[: max(1, cells)]
        cells //= len(axes[path])
    return base_study() | {"axes": axes}


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


def fill(
    folder: Path,
    content: Mapping[str, Any],
    epochs: int,
    errors: int,
    *,
    data_hash: str = DATA_HASH,
    compacted: bool = True,
) -> int:
    """Write a results folder in bulk, compacted or with the files of each trial; how many trials it has."""
    spec = StudySpec.model_validate_json(json.dumps(content), strict=True)
    for kind in SCHEMAS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    described = spec.model_dump(mode="json", by_alias=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(described, allow_unicode=True), encoding="utf-8")
    (folder / "site.json").write_text(json.dumps({"name": "made_up", "data_hash": data_hash}), encoding="utf-8")
    random = np.random.default_rng(0)
    trials = wanted(spec, data_hash)
    rows = sorted((row_of(trial, random, epochs, errors) for trial in trials), key=lambda row: str(row["key"]))
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["trials"])
    put = write if compacted else write_one_by_one
    put(folder, "trials", (table.slice(row, 1) for row in range(len(rows))), 1)
    put(folder, "epochs", (epochs_of(row, random, epochs) for row in rows), epochs)
    put(folder, "errors", (errors_of(row, random, errors) for row in rows), errors)
    return len(rows)


def wanted(spec: StudySpec, data_hash: str) -> Iterator[Any]:
    for cell in distinct(expand(spec)):
        if cell.search is None:
            yield from cell.trials(spec.seeds, data_hash)
        else:
            (path, domain), *_ = cell.search.space.items()
            for value in domain.values() or []:
                yield from cell.trials(cell.search.seeds, data_hash, {path: value})


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
        "config": canonical_json(config), "error": None if number % 100 else "made up", "data_hash": trial.data_hash,
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
        values = columns.get(item.name)
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


def write_one_by_one(folder: Path, kind: str, tables: Iterator[pa.Table], rows: int) -> None:
    """A file for each trial, as a run writes them."""
    for table in tables:
        write_single(folder / kind / f"{table['key'][0].as_py()}.parquet", table)
