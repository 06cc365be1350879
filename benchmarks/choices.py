"""What the named choices do to the error: arithmetic of the convolutions, and whose batch statistics normalize.

    python benchmarks/choices.py [--epochs 15] [--seeds 5] [--methods DCNN HDA] [--choices bfloat16 per_domain]

Each choice is compared with the default (float32, joint) seed by seed, on the embedded site with the small network. A
processor that lacks bfloat16 imitates it here, slowly and with the same roundings: seconds are of such a processor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from scipy import stats

from study.spec.trial import Trial, TrialConfiguration

Result = tuple[str, str, int, float, float, float]


def train_once(method: str, choice: str, seed: int, epochs: int) -> Result:
    """Test error in metres, validation error in metres and seconds of one trial."""
    import torch

    from models.precision import set_precision
    from study.allocator import keep_freed_memory
    from study.data.dataset import SiteData
    from study.data.site import open_site
    from study.execution import initialized_method
    from study.metrics import rmse_m
    from study.training import predict, train

    keep_freed_memory()
    torch.set_num_threads(1)
    config = TrialConfiguration.model_validate(
        {
            "method": method,
            "system": {"antennas": [4, 4], "subcarriers": 32, "bandwidth_mhz": 20},
            "network": {"preset": "small", "batch_statistics": choice if choice == "per_domain" else "joint"},
            "training": {"epochs": epochs, "batch_size": 128, "schedule": "one_cycle", "learning_rate": 3e-3},
        }
    )
    site = open_site("canyon_small")
    parts = SiteData(site).prepare(config.system, config.split, coordinate_scale_m=config.training.coordinate_scale_m)
    trial = Trial(config.resolved(), seed, site.data_hash)
    network, _, _ = initialized_method(trial, len(parts.conditions), torch.device("cpu"))
    if choice == "bfloat16":
        set_precision(network, "bfloat16")
    began = time.perf_counter()
    run = train(network, parts.training, parts.validation, parts.frame, config.training, seed=seed)
    while True:
        try:
            next(run)
        except StopIteration as end:
            best = end.value.best
            break
    seconds = time.perf_counter() - began
    return (
        method,
        choice,
        seed,
        rmse_m(predict(network, parts.test, parts.frame).error_m),
        best.validation_rmse_m,
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["DCNN", "HDA"])
    parser.add_argument("--choices", nargs="+", default=["bfloat16", "per_domain"])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    asked = [
        (method, choice, seed)
        for method in arguments.methods
        for choice in ["default", *arguments.choices]
        for seed in range(arguments.seeds)
        if not (choice == "per_domain" and method in ("DCNN", "RDA"))  # of methods that align two domains
    ]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(train_once, *item, arguments.epochs) for item in asked]
        found: dict[tuple[str, str], list[Any]] = {}
        for future in futures:
            method, choice, *rest = future.result()
            found.setdefault((method, choice), []).append(rest)
    for (method, choice), rows in found.items():
        test = [row[1] for row in rows]
        seconds = statistics.mean(row[3] for row in rows)
        line = f"{method:5} {choice:11} test RMSE {statistics.mean(test):6.2f} m, {seconds:5.1f} s"
        if choice != "default":
            differences = [row[1] - other[1] for row, other in zip(rows, found[method, "default"], strict=True)]
            half = stats.t.ppf(0.975, len(rows) - 1) * statistics.stdev(differences) / len(rows) ** 0.5
            line += (
                f"   {statistics.mean(differences):+.2f} ± {half:.2f} m against the default (95 %, {len(rows)} seeds)"
            )
        print(line)


if __name__ == "__main__":
    main()
