"""How fast a results folder opens, with a file for each trial and compacted.

    python benchmarks/store.py [--trials 10000] [--errors 200]

Made-up rows. Printed: reading all rows, finding one row and reading the errors of one trial, before and after
`Store.compact`, with the ratios; and how long the compaction took.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from study.store import Store, TrialTables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--errors", type=int, default=200, help="Test samples of each trial.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = [hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(arguments.trials)]
        write = seconds(lambda: fill(Store(Path(folder)), keys, arguments.errors), rounds=1)
        print(f"{arguments.trials} trials with {arguments.errors} test samples each: written in {write:.1f} s")
        single = measure(Path(folder), keys, arguments.errors)
        began = time.perf_counter()
        done = Store(Path(folder)).compact()
        print(
            f"compacted in {time.perf_counter() - began:.1f} s: {done.files_before} files are {done.files_after}, "
            f"{done.trials} trials"
        )
        compacted = measure(Path(folder), keys, arguments.errors)
    print(f"{'':32} {'one file each':>14} {'compacted':>12} {'ratio':>8}")
    for name, before in single.items():
        after = compacted[name]
        print(f"{name:32} {before * 1e3:11.1f} ms {after * 1e3:9.1f} ms {before / after:8.1f}")


def fill(store: Store, keys: list[str], errors: int) -> None:
    random = np.random.default_rng(0)
    for number, key in enumerate(keys):
        config = {"method": "HDA", "system": {"paths": number % 25, "antennas": [8, 8]}, "note": "x" * 500}
        row = {"key": key, "state": "done", "method": "HDA", "seed": number % 5, "config": json.dumps(config)}
        epochs = {name: random.random(40) for name in ("train_loss", "validation_rmse_m", "learning_rate", "seconds")}
        samples = {name: random.random(errors, np.float32) for name in ("x_m", "y_m", "x_hat_m", "y_hat_m", "error_m")}
        places = {"scene": np.arange(errors, dtype=np.int32), "position": np.arange(errors, dtype=np.int32)}
        store.write(
            TrialTables(
                row
                | {
                    "test_rmse_m": float(random.random()),
                    "test_recall": [0.5, 0.5],
                    "classes": ["LOS", "NLOS"],
                    "host": "node",
                },
                {"epoch": np.arange(1, 41), **epochs},
                places | samples,
            )
        )


def measure(folder: Path, keys: list[str], errors: int) -> dict[str, float]:
    """Seconds of each thing, each with a store that has read nothing yet, as a command has it."""

    def all_rows() -> None:
        assert len(Store(folder).load().rows) == len(keys)

    def errors_of_many() -> None:
        store = Store(folder)
        for key in keys[:100]:
            table = store.read_errors(key, ["error_m"])
            assert table.num_rows == errors

    return {
        "all rows (load)": seconds(all_rows, rounds=3),
        "one row by its key (find)": seconds(lambda: Store(folder).find(keys[-1][:12]), rounds=5),
        "one trial's errors": seconds(lambda: Store(folder).read_errors(keys[-1]), rounds=5),
        "errors of 100 trials": seconds(errors_of_many, rounds=3),
    }


def seconds(do: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        do()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
