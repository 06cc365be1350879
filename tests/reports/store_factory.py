"""Results folders on disk, written as docs/results.md says, with numbers that look like a study's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from study.spec.model import StudySpec
from study.spec.trial import Trial, TrialConfiguration, canonical_json
from study.store import EPOCH_SCHEMA, ERROR_SCHEMA, TRIAL_SCHEMA

HASH = "b9719d911017c592"
# RMSE, accuracy, best epoch, parameters, MACs per sample while training
LEVELS: Mapping[str, tuple[float, float | None, int | None, int | None, int | None]] = {
    "MEAN": (37.41, None, None, None, None),
    "KNN": (15.52, 0.82, None, None, None),
    "MODEL": (24.13, 0.64, None, None, None),
    "DCNN": (9.93, None, 22, 207_378, 33_706_144),
    "TL": (9.52, None, 26, 426_180, 67_400_000),
    "RDA": (9.31, None, 25, 273_556, 33_800_000),
    "MDA": (9.41, 0.875, 31, 651_200, 67_800_000),
    "HDA": (8.83, 0.882, 24, 651_202, 67_800_000),
}


class Store:
    """A results folder under construction."""

    def __init__(self, folder: Path, spec: Mapping[str, Any], site: str = "canyon_small") -> None:
        self.folder = folder
        for part in ("trials", "epochs", "errors"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "site.json").write_text(json.dumps({"name": site, "data_hash": HASH}), encoding="utf-8")
        self.write_spec(spec)

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        """Write the resolved spec, or another one over it."""
        self.spec = StudySpec.model_validate_json(json.dumps(spec), strict=True)
        described = self.spec.model_dump(mode="json", by_alias=True)
        (self.folder / "study.yaml").write_text(yaml.safe_dump(described, allow_unicode=True), encoding="utf-8")

    def add(
        self,
        method: str,
        seed: int,
        *,
        system: Mapping[str, Any] | None = None,
        objective: Mapping[str, Any] | None = None,
        state: str = "done",
        details: bool = True,
        epochs: int = 40,
        **columns: Any,
    ) -> str:
        """Write one trial, with its epochs and errors unless ``details`` is false; returns its key."""
        config = self.spec.base.model_dump(mode="json", by_alias=True)
        config["method"] = method
        config["system"].update(system or {})
        config["objective"].update(objective or {})
        config["training"]["epochs"] = epochs
        resolved = TrialConfiguration.model_validate_json(json.dumps(config), strict=True).resolved()
        return self.add_trial(Trial(resolved, seed, HASH), state=state, details=details, **columns)

    def add_trial(self, trial: Trial, *, state: str = "done", details: bool = False, **columns: Any) -> str:
        """Write one trial."""
        row = self._row(trial, state) | columns
        write(self.folder / "trials" / f"{trial.key}.parquet", [row], TRIAL_SCHEMA)
        if details and state == "done":
            self._errors(trial.key, row)
            if row["epochs"]:
                self._epochs(trial.key, row)
        return trial.key

    def _row(self, trial: Trial, state: str) -> dict[str, Any]:
        key, method, seed, config = trial.key, trial.method, trial.seed, trial.config
        random = _random(key)
        level, accuracy, best, parameters, macs = LEVELS.get(method, LEVELS["DCNN"])
        epochs = config["training"]["epochs"] if best is not None else 0
        weight = config["objective"].get("lambda")
        if weight is not None:
            level += 14 * (weight - 0.7) ** 2
            accuracy = 0.875 - 0.3 * max(weight - 0.75, 0) ** 1.5
        level *= 1 + 0.6 * (25 - config["system"]["paths"]) / 25 if isinstance(config["system"]["paths"], int) else 1.3
        if best is not None:
            level += random.normal(0, 0.25)
        done = state == "done"
        row: dict[str, Any] = dict.fromkeys(TRIAL_SCHEMA.names)
        row |= {
            "key": key, "state": state, "method": method, "seed": seed,
            "config": canonical_json(config),
            "error": None if state in ("done", "diverged", "pruned") else f"{method} ran out of luck",
            "train_seconds": 0.0 if best is None else float(60 + 20 * random.random()), "peak_memory_mb": 812.0,
            "started_at": f"2026-03-01T10:{seed:02d}:00+00:00", "device": "cpu", "host": "node-1",
            "torch_version": "2.13.0", "ray_version": "2.60.0", "study_version": "0.1.0", "git_commit": "3f2a91c",
            "spec_hash": "5d41402abc4b2a76", "data_hash": trial.data_hash, "test_samples": 2400,
            "train_samples": 7200, "parameters": parameters, "parameters_deployed": parameters and parameters // 2,
            "macs_per_sample": macs, "macs_deployed": macs and macs // 2, "macs_paper": macs and macs * 264,
            "flops_batch": macs and macs * 512,
        }  # fmt: skip
        row["trial_seconds"] = row["train_seconds"] + 4.0
        row["planned_epochs"] = best and epochs
        if state == "pruned":
            row |= {"epochs": epochs // 4, "best_epoch": epochs // 4, "validation_rmse_m": 0.7 * level}
        if done:
            row |= {
                "validation_rmse_m": 0.6 * level + random.normal(0, 0.05), "validation_accuracy": accuracy,
                "best_epoch": best and min(best + int(random.integers(-4, 5)), epochs), "epochs": best and epochs,
                "test_rmse_m": level, "test_mean_error_m": 0.8 * level, "test_median_error_m": 0.62 * level,
                "test_p90_error_m": 1.7 * level, "test_accuracy": accuracy and accuracy + random.normal(0, 0.004),
            }  # fmt: skip
        return row

    def _errors(self, key: str, row: Mapping[str, Any]) -> None:
        random, count = _random(key), 600
        errors = random.gamma(1.4, row["test_rmse_m"] / 1.85, count)
        angle = random.uniform(0, 2 * np.pi, count)
        x, y = random.uniform(-40, 40, count), random.uniform(-8, 8, count)
        table = {
            "key": [key] * count, "scene": np.arange(count) // 60, "position": np.arange(count) % 60,
            "x_m": x, "y_m": y,
            "x_hat_m": x + errors * np.cos(angle), "y_hat_m": y + errors * np.sin(angle), "error_m": errors,
            "condition": random.integers(0, 3, count),
            "condition_hat": np.full(count, -1),
        }  # fmt: skip
        arrays = [pa.array(table[item.name]).cast(item.type) for item in ERROR_SCHEMA]
        pq.write_table(pa.table(arrays, schema=ERROR_SCHEMA), self.folder / "errors" / f"{key}.parquet")

    def _epochs(self, key: str, row: Mapping[str, Any]) -> None:
        random = _random(key)
        count, best, low = int(row["epochs"]), int(row["best_epoch"]), float(row["validation_rmse_m"])
        epoch = np.arange(1, count + 1)
        curve = low * (1 + 2.2 * np.exp(-epoch / (best / 3.2)) + 0.002 * np.maximum(epoch - best, 0))
        curve = np.maximum(curve + random.normal(0, 0.08, count), low)
        curve[best - 1] = low
        learned = row["method"] == "HDA"
        missing = [None] * count
        noise = random.normal(0, 0.02, count)
        table = {
            "key": [key] * count, "epoch": epoch, "train_loss": 3 * np.exp(-epoch / 10), "validation_rmse_m": curve,
            "validation_accuracy": missing, "learning_rate": np.full(count, 1e-3), "seconds": np.full(count, 1.7),
            "validation_seconds": np.full(count, 0.2),
            "log_var_position": noise - 1.8 * (1 - np.exp(-epoch / 12)) if learned else missing,
            "log_var_condition": noise - 1.5 * (1 - np.exp(-epoch / 7)) if learned else missing,
        }  # fmt: skip
        pq.write_table(pa.table(table, schema=EPOCH_SCHEMA), self.folder / "epochs" / f"{key}.parquet")


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _random(key: str) -> np.random.Generator:
    return np.random.default_rng(int(hashlib.sha256(key.encode()).hexdigest()[:12], 16))


def spec(**changes: Any) -> dict[str, Any]:
    """A resolved spec: five methods, a λ search for MDA, three seeds."""
    return {
        "study": "hda_against_mda",
        "site": "data/canyon_small",
        "base": {"network": {"preset": "small"}, "training": {"epochs": 40}},
        "axes": {"method": ["DCNN", "TL", "RDA", "MDA", "HDA"]},
        "references": ["MEAN", "KNN"],
        "seeds": 3,
        "search": [
            {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.1]}}, "sampler": "grid",
             "trials": None, "seeds": 1}
        ],
        "select": {"metric": "validation_rmse", "mode": None},
        "claims": [{"name": "HDA matches the manual optimum", "better": {"method": "HDA"}, "than": {"method": "MDA"}}],
        "report": {
            "tables": ["performance", "complexity", "manual_optimum"],
            "figures": ["cdf", "lambda_sweep", "learning_curves"],
        },
    } | changes  # fmt: skip


def full_study(folder: Path, *, paths: tuple[Any, ...] = (), details: bool = True, **changes: Any) -> Store:
    """A finished study; ``paths`` adds an axis ``system.paths``."""
    content = spec(**changes)
    if paths:
        content["axes"]["system.paths"] = list(paths)
    store = Store(folder, content)
    for value in paths or (25,):
        system = {"paths": value}
        for method in ("MEAN", "KNN"):
            store.add(method, 0, system=system, details=details)
        for method in ("DCNN", "TL", "RDA", "HDA"):
            for seed in range(content["seeds"]):
                store.add(method, seed, system=system, details=details)
        scores = {}
        for step in range(11):
            weight = round(0.1 * step, 10)
            key = store.add("MDA", 0, system=system, objective={"lambda": weight, "gamma": 2.0}, details=details)
            table = pq.read_table(folder / "trials" / f"{key}.parquet", columns=["validation_rmse_m"])
            scores[table["validation_rmse_m"][0].as_py()] = weight
        for seed in range(1, content["seeds"]):
            objective = {"lambda": scores[min(scores)], "gamma": 2.0}
            store.add("MDA", seed, system=system, objective=objective, details=details)
    return store
