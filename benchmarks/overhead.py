"""The share of a study's wall time that is not training.

    python benchmarks/overhead.py [SPEC] [--cluster FILE]

Runs the study in a fresh folder and compares the seconds of its training epochs with slots × wall time, from the start
of the command to its end, report included. The rest is split into what the trials spent beside training (data, test)
and everything else: imports, Ray's start and end, idle slots, the report.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster.check import slots, this_machine
from cluster.loading import load_cluster
from study.resources import find_cluster
from study.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default="quickstart")
    parser.add_argument("--cluster", default="local")
    arguments = parser.parse_args()
    cluster = load_cluster(find_cluster(arguments.cluster))
    at_once = slots(cluster, cluster.cpus or this_machine().cpus, cluster.gpus)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "study", "run", arguments.spec, "--cluster", arguments.cluster]
        began = time.perf_counter()
        subprocess.run([*command, "--results", folder], check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        (study,) = Path(folder).iterdir()
        rows = Store(study).load().rows.values()
    total = at_once * wall
    training = sum(row["train_seconds"] for row in rows)
    trials = sum(row["trial_seconds"] for row in rows)
    print(f"{len(rows)} trials, {at_once} at a time, {wall:.1f} s wall time")
    for name, seconds in (
        ("training and validation epochs", training),
        ("the trials' data and test", trials - training),
        ("everything else", total - trials),
    ):
        print(f"{name:32} {seconds:8.1f} s   {seconds / total:6.1%} of slots × wall time")
    print(f"not training: {1 - training / total:.1%}")


if __name__ == "__main__":
    main()
