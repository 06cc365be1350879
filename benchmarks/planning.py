"""How good plans are: ten studies of different make, each planned before it runs.

    python benchmarks/planning.py [FOLDER]

Calibrates this machine once, then runs the studies one after the other in a folder (a temporary one by default). Each
leaves the plan that was made before its first trial, from the calibration and the studies before it. In the end each
study is planned again from everything but itself, as `study plan --backtest` does. A folder that holds some of the
studies goes on with the others. Takes about 20 minutes on two cores, which nothing else should use.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from reports.clock import Clock, read_clock
from study.planning.record import Plan, read_plan
from study.store import Store

SMALL = {"subcarriers": 32, "antennas": [4, 4], "bandwidth_mhz": 20}


def _study(epochs: int, batch: int = 128, network: str = "small", system: Any = SMALL, **keys: Any) -> dict[str, Any]:
    base = {
        "system": system,
        "network": {"preset": network},
        "training": {"epochs": epochs, "batch_size": batch, "learning_rate": 1.0e-3},
        **keys.pop("base", {}),
    }
    return {"site": "canyon_small", "base": base, "references": [], "seeds": 2, **keys}


GRID = {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.25]}}}
GAMMA = {"space": {"objective.gamma": {"float": [0.0, 4.0]}}, "sampler": "random", "trials": 8}
FEW = {"train_scenes": 8, "validation_scenes": 3, "test_scenes": 8}
STUDIES: dict[str, dict[str, Any]] = {
    "two_methods": _study(6, axes={"method": ["DCNN", "HDA"]}, seeds=3),
    "lambda_grid": _study(5, axes={"method": ["MDA", "HDA"]}, search=[GRID]),
    "adaptation": _study(5, axes={"method": ["TL", "RDA"]}, seeds=3),
    "twins": _study(5, 256, base={"branches": "twin", "method": "HDA"}, seeds=4),
    "paths": _study(4, axes={"method": ["DCNN", "MDA"], "system.paths": [5, 25]}),
    "more_antennas": _study(3, system={**SMALL, "antennas": [8, 4]}, axes={"method": ["DCNN", "HDA"]}, seeds=3),
    "amplitudes": _study(5, system={**SMALL, "fingerprint": "rcsi"}, axes={"method": ["DCNN", "HDA"]}, seeds=3),
    "paper_network": _study(3, 256, "paper", {}, base={"split": FEW}, axes={"method": ["DCNN", "HDA"]}),
    "early_stopping": _study(9, base={"method": "MDA"}, search=[{**GAMMA, "early_stopping": {"grace_epochs": 2}}]),
    "references": _study(3, axes={"method": ["DCNN"], "system.paths": [10, 25]}, references=["MEAN", "KNN", "MODEL"]),
}


def _run(*command: object) -> None:
    subprocess.run([sys.executable, "-m", "study", *map(str, command)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    if len(sys.argv) > 1:
        _all(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        _all(Path(folder))


def _all(folder: Path) -> None:
    specs, results = folder / "specs", folder / "results"
    specs.mkdir(parents=True, exist_ok=True)
    files = []
    for name, content in STUDIES.items():
        files.append(specs / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump({"study": name, **content}))
    if not (results / "calibration").is_dir():
        _run("calibrate", *files, "--results", results)
    print("trial time and time on the clock, planned before the run and actual")
    inside = within = 0
    for file in files:
        _run("run", file, "--results", results)
        plan = read_plan(results / file.stem)
        clock = read_clock(results / file.stem)
        assert isinstance(plan, Plan)
        assert isinstance(clock, Clock)
        actual = sum(row["trial_seconds"] for row in Store(results / file.stem).load().rows.values())
        error = plan.seconds.median / actual - 1
        within += abs(error) <= 0.15
        inside += plan.seconds.low <= actual <= plan.seconds.high
        print(
            f"{file.stem:16} {plan.trials:3} trials  {plan.seconds.median:7.1f} s "
            f"({plan.seconds.low:.1f} - {plan.seconds.high:.1f})  {actual:7.1f} s  {error:+6.1%}   "
            f"clock {plan.makespan_seconds.median:6.1f} s, {clock.seconds:6.1f} s  {plan.basis}",
            flush=True,
        )
    print(f"within 15 %: {within} of {len(files)}; inside the 10-90 % interval: {inside} of {len(files)}")
    subprocess.run([sys.executable, "-m", "study", "plan", "--backtest", str(results)], check=True)


if __name__ == "__main__":
    main()
