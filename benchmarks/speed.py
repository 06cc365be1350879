"""Trials per hour of one machine: ours against the loop that papers publish, in one run, on the same samples.

    python benchmarks/speed.py                          small network, DCNN and HDA
    python benchmarks/speed.py --preset paper --epochs 2
    python benchmarks/speed.py --device cuda            needs torch alone: Ray is not asked

Both sides take turns: one process that trains as in `plain_loop.py` with all threads, then as many of our trial
processes as there are cores, with one thread each (on a GPU ``--processes``). Counted are whole trials, from data to
test; imports are done before. Each side's trials have the seeds 0, 1, 2, …, so that their errors can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import run_together

SYSTEMS = {
    "small": {"antennas": [4, 4], "subcarriers": 32, "bandwidth_mhz": 20},
    "paper": {"antennas": [8, 8], "subcarriers": 64, "bandwidth_mhz": 100},
}
_SITE = "canyon_small"


def configuration(arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    """Of a trial, as plain data."""
    from study.spec.trial import TrialConfiguration

    return TrialConfiguration.model_validate(
        {
            "method": method,
            "system": SYSTEMS[arguments.preset],
            "network": {"preset": arguments.preset},
            "training": {
                "epochs": arguments.epochs,
                "batch_size": arguments.batch,
                "schedule": "one_cycle",
                "learning_rate": 3e-3,
                "precision": arguments.precision,
            },
        }
    ).resolved()


def worker(task: dict[str, Any]) -> None:
    """A process of one side: says that it is ready, waits for a line, runs its trials and prints what they found."""
    import torch
    from plain_loop import plain_trial

    from study.allocator import keep_freed_memory
    from study.data.dataset import SiteData
    from study.data.site import open_site
    from study.execution import run_trial
    from study.provenance import Provenance
    from study.spec.trial import Trial

    site = open_site(_SITE)
    if task["side"] == "ours":
        keep_freed_memory()
        torch.set_num_threads(1)
        data = SiteData(site, task["device"], device_share=1 / task["processes"])
    print("ready", flush=True)
    sys.stdin.readline()
    for seed in task["seeds"]:
        trial = Trial(task["config"], seed, site.data_hash)
        if task["side"] == "plain":
            row: dict[str, Any] = plain_trial(Path(task["file"]), trial.configuration, seed, task["device"])
        else:
            run = run_trial(trial, data, Provenance.here())
            while True:
                try:
                    next(run)
                except StopIteration as end:
                    row = end.value.row
                    break
            names = ("validation_rmse_m", "test_rmse_m", "precision", "step", "notes", "train_seconds", "data_seconds")
            row = {name: row[name] for name in names} | {"seconds": row["trial_seconds"]}
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(SYSTEMS), default="small")
    parser.add_argument("--methods", nargs="+", default=["DCNN", "HDA"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--trials", type=int, default=1, help="trials of each process in a turn")
    parser.add_argument("--processes", type=int, default=None, help="ours at a time; by default cores, or one on a GPU")
    parser.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker))
        return

    import torch
    from plain_loop import write_fingerprints

    from study.data.dataset import SiteData
    from study.data.site import open_site
    from study.spec.trial import TrialConfiguration

    cores = len(os.sched_getaffinity(0))
    processes = arguments.processes or (cores if arguments.device == "cpu" else 1)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{cores} cores"
    print(
        f"{arguments.preset} network, batch {arguments.batch}, {arguments.epochs} epochs, {arguments.precision}, "
        f"{name}, torch {torch.__version__}; ours: {processes} at a time"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fingerprints.npz"
        for method in arguments.methods:
            config = configuration(arguments, method)
            write_fingerprints(SiteData(open_site(_SITE)), TrialConfiguration.model_validate(config), file)
            found: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
            rates: dict[str, list[float]] = {"plain": [], "ours": []}
            for turn in range(arguments.rounds):
                for side, at_once in (("plain", 1), ("ours", processes)):
                    first = turn * at_once * arguments.trials
                    tasks = [
                        {
                            "side": side,
                            "config": config,
                            "file": str(file),
                            "device": arguments.device,
                            "processes": processes,
                            "seeds": list(range(first + n, first + at_once * arguments.trials, at_once)),
                        }
                        for n in range(at_once)
                    ]
                    rows, seconds = run_together(__file__, tasks, arguments.trials)
                    found[side] += rows
                    rates[side].append(3600 * len(rows) / seconds)
            for side in found:
                errors = [row["validation_rmse_m"] for row in found[side]]
                spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
                each = ", ".join(f"{rate:.1f}" for rate in rates[side])
                print(
                    f"{method:5} {side:5} {statistics.median(rates[side]):8.1f} trials/h ({each})   validation RMSE "
                    f"{statistics.mean(errors):.2f}{spread} m over {len(errors)} seeds"
                )
            ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
            steps = {(row["step"], row["precision"], row["notes"]) for row in found["ours"]}
            print(
                f"{method:5} ratio × {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})  {steps}"
            )


if __name__ == "__main__":
    main()
