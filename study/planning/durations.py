"""Measurements → how long a piece of work takes on a device, and how well that is known.

All is done in logarithms: what is not known about a time is a factor. Three things are unknown: how fast the machine is
on the day (`drift`, common to all), the level of one quantity (`Known.sigma`) and single trials (`Known.noise`).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from study.planning.observations import Device, Observation, Quantity, making_size
from study.planning.record import Basis
from study.planning.work import WorkKey, operations_of

__all__ = ["Durations", "Known"]

# A machine's speed differs by so much between days; as much as four sessions say that before any is known.
_DRIFT, _DRIFT_WEIGHT = 0.12, 4
# A level that was measured well may still differ between what is measured and what runs later.
_LEAST_SIGMA = 0.03
# A few steps in a row are another thing than whole trials.
_CALIBRATION_SIGMA = 0.06
_TRIAL_NOISE = 0.05
# With as many processes as were not measured.
_OTHER_TRIALS_SIGMA = 0.15
# Scaling by operations, and by how much more for each factor e that the operations differ.
_SCALED_SIGMA, _SCALED_SIGMA_PER_E = 0.25, 0.1
# Small networks reach this share of a declared peak, on a processor and on a GPU, which they hardly fill; it may well
# be three times more or less. Each step takes so many seconds besides.
_CPU_EFFICIENCY, _GPU_EFFICIENCY, _COUNTED_SIGMA = 0.5, 0.1, 0.85
_STEP_OVERHEAD_S = 0.003
# Where nothing is declared: floating-point operations per second of a core, and of a GPU.
_CORE_FLOPS, _GPU_FLOPS = 1.2e11, 1e13
# What workers that share a batch lose to each other.
_WORKER_EFFICIENCY = 0.8
# Quartiles of a normal distribution are so many standard deviations apart.
_QUARTILES = 1.349

# What holds where nothing was measured (docs/performance.md): median, and its uncertainty as a factor e^σ.
_ASSUMED: Mapping[tuple[Quantity, str], tuple[float, float]] = {
    ("setup_s", ""): (0.1, 0.7),
    ("base_memory_mb", ""): (700.0, 0.2),
    ("start_s", "tune"): (4.0, 0.4),
    ("start_s", "ray_train"): (4.0, 0.4),
    ("first_s", "tune"): (4.0, 0.4),
    ("first_s", "ray_train"): (1.0, 0.7),
    ("gap_s", "tune"): (0.08, 0.4),
    ("gap_s", "ray_train"): (15.0, 0.3),
    ("end_s", "tune"): (3.0, 0.4),
    ("end_s", "ray_train"): (3.0, 0.4),
}
_SYNTHESIS_S = 2.1e-5  # of a 64 × 64 profile of 25 paths
# Operations of a reference row for each number of a fingerprint: KNN subtracts, squares and adds; MODEL looks for 25
# paths on a finer grid, several times.
_REFERENCE_FLOPS = {"KNN": 4.0, "MODEL": 1.2e5, "MEAN": 10.0}


@dataclass(frozen=True)
class Known:
    """A positive quantity.

    Attributes:
        median: half of what is possible is smaller.
        sigma: standard deviation of the logarithm of what is not known about it.
        noise: standard deviation of the logarithm of single values around it.
        basis: where it comes from.
    """

    median: float
    sigma: float
    noise: float
    basis: Basis


@dataclass(frozen=True)
class _Level:
    """A measured logarithm, of one session."""

    session: str
    calibrated: bool
    trials: int
    log: float
    noise: float


class Durations:
    """What is known about a device.

    Args:
        observations: all measurements, of whatever device.
        device: the one that is asked about.
        peak_flops: declared floating-point operations per second of one process's share of it; None where that is not
            declared.
        gpu: whether it is a GPU.

    Attributes:
        sources: the studies, and ``calibration``, that told something about it.
    """

    def __init__(
        self, observations: Iterable[Observation], device: Device, peak_flops: float | None, *, gpu: bool
    ) -> None:
        self.device = device
        peak = peak_flops if peak_flops is not None else _GPU_FLOPS if gpu else _CORE_FLOPS * device.threads
        self._reached = peak * (_GPU_EFFICIENCY if gpu else _CPU_EFFICIENCY)
        self.peak_declared = peak_flops is not None
        self.sources: set[str] = set()
        self._levels: dict[tuple[Quantity, WorkKey | None, str], list[_Level]] = defaultdict(list)
        for item in observations:
            if _same_device(item.device, device, gpu=gpu):
                noise = math.log(item.high / item.low) / _QUARTILES if item.high > item.low else 0.0
                level = _Level(item.session, item.calibrated, item.device.trials, math.log(item.value), noise)
                self._levels[item.quantity, item.work, item.detail].append(level)
                self.sources.add(item.source)
        self._found: dict[tuple[Quantity, WorkKey | None, str], Known | None] = {}
        self._offsets: dict[str, float] = {}
        self._offsets = self._of_calibrations()
        self.drift = self._drift()

    @property
    def measured(self) -> bool:
        """Whether anything was measured on this device."""
        return bool(self._levels)

    # --- networks ---

    def step_s(self, work: WorkKey) -> Known:
        """A training step, in seconds."""
        return self._of_network("step_s", work)

    def evaluation_s(self, work: WorkKey) -> Known:
        """A sample of an evaluation, in seconds."""
        return self._of_network("evaluation_s", work)

    def setup_s(self, work: WorkKey) -> Known:
        """What comes before the first step, in seconds."""
        return self._exact("setup_s", work) or self._any("setup_s")

    def base_memory_mb(self, work: WorkKey) -> Known:
        """Peak memory of a process beside its data, in MiB."""
        return self._exact("base_memory_mb", work) or self._any("base_memory_mb")

    def _of_network(self, quantity: Quantity, work: WorkKey) -> Known:
        found = self._exact(quantity, work)
        if found is not None:
            return found
        if work.workers > 1:
            alone = self._of_network(quantity, replace(work, workers=1))
            shared = alone.median / (work.workers * _WORKER_EFFICIENCY)
            basis: Basis = "counted" if alone.basis == "counted" else "scaled"
            return Known(shared, math.hypot(alone.sigma, 0.2), alone.noise, basis)
        wanted = _macs(quantity, work)
        nearest: tuple[float, Known] | None = None
        for kind, key, detail in self._levels:
            if kind != quantity or key is None or not key.trained or detail:
                continue
            other = self._exact(quantity, key)
            if other is None:
                continue
            ratio = math.log(wanted / _macs(quantity, key))
            # The same method in another size is a better guess than another method of the same size.
            distance = abs(ratio) + (0.0 if key.method == work.method else 0.5) + 0.3 * (key.workers > 1)
            sigma = _SCALED_SIGMA + _SCALED_SIGMA_PER_E * abs(ratio)
            if nearest is None or distance < nearest[0]:
                nearest = distance, Known(other.median * math.exp(ratio), sigma, other.noise, "scaled")
        if nearest is not None:
            return nearest[1]
        overhead = _STEP_OVERHEAD_S if quantity == "step_s" else 0.0
        return Known(overhead + 2 * wanted / self._reached, _COUNTED_SIGMA, _TRIAL_NOISE, "counted")

    # --- the rest ---

    def synthesis_s(self, work: WorkKey, making: str) -> Known:
        """Making the fingerprint of a sample, in seconds."""
        found = self._exact("synthesis_s", None, f"{making} {work.rows} {work.columns}")
        if found is not None:
            return found
        wanted = making_size(f"{making} {work.rows} {work.columns}")
        others = [
            (abs(math.log(wanted / size)), known.median * wanted / size)
            for kind, key, detail in self._levels
            if kind == "synthesis_s"
            and (size := making_size(detail))
            and (known := self._exact("synthesis_s", key, detail)) is not None
        ]
        if others:
            distance, median = min(others)
            return Known(median, _SCALED_SIGMA + _SCALED_SIGMA_PER_E * distance, _TRIAL_NOISE, "scaled")
        return Known(_SYNTHESIS_S * wanted / (64 * 64 * 25), _COUNTED_SIGMA, _TRIAL_NOISE, "counted")

    def reference_s(self, quantity: Quantity, work: WorkKey) -> Known:
        """What a reference row takes for a sample (``fit_s``, ``predict_s``), in seconds."""
        found = self._exact(quantity, work)
        if found is not None:
            return found
        for (kind, key, _), levels in self._levels.items():
            if kind == quantity and key is not None and key.method == work.method and levels:
                other = self._exact(quantity, key)
                assert other is not None
                ratio = math.log(work.elements / key.elements)
                sigma = _SCALED_SIGMA + _SCALED_SIGMA_PER_E * abs(ratio)
                return Known(other.median * math.exp(ratio), sigma, other.noise, "scaled")
        if quantity == "fit_s" and work.method != "MODEL":  # samples are remembered
            return Known(1e-6, 1.0, _TRIAL_NOISE, "counted")
        flops = _REFERENCE_FLOPS.get(work.method, 1.0) * work.elements
        return Known(flops / self._reached, 1.0, _TRIAL_NOISE, "counted")

    def engine_s(self, quantity: Quantity, trainer: str) -> Known:
        """What the engine takes: ``start_s``, ``first_s``, ``gap_s`` or ``end_s``, in seconds."""
        return self._exact(quantity, None, trainer) or _assumed(quantity, trainer)

    # --- levels ---

    def _exact(self, quantity: Quantity, work: WorkKey | None, detail: str = "") -> Known | None:
        name = (quantity, work, detail)
        if name not in self._found:
            self._found[name] = self._level(name)
        return self._found[name]

    def _level(self, name: tuple[Quantity, WorkKey | None, str]) -> Known | None:
        levels = self._levels.get(name)
        if not levels:
            return None
        # Whole trials know better than a few steps.
        best = [level for level in levels if not level.calibrated] or levels
        if any(level.trials == self.device.trials for level in best):
            best = [level for level in best if level.trials == self.device.trials]
        elif any(level.trials == self.device.trials for level in levels):
            best = [level for level in levels if level.trials == self.device.trials]
        logs = [level.log + self._offset(level, name[1]) + self._slowdown(level.trials) for level in best]
        sigma = math.hypot(_LEAST_SIGMA, _CALIBRATION_SIGMA if best[0].calibrated else 0.0)
        if best[0].trials != self.device.trials:
            sigma = math.hypot(sigma, _OTHER_TRIALS_SIGMA)
        # Steps are noisier than trials, which are sums of many.
        noises = [level.noise for level in best if not level.calibrated]
        noise = max(0.01, statistics.fmean(noises)) if noises else _TRIAL_NOISE
        return Known(math.exp(statistics.fmean(logs)), sigma, noise, "measured")

    def _any(self, quantity: Quantity) -> Known:
        """The mean over all work, for what hardly depends on it."""
        logs = [level.log for (kind, _, _), levels in self._levels.items() if kind == quantity for level in levels]
        if not logs:
            return _assumed(quantity, "")
        spread = statistics.pstdev(logs) if len(logs) > 1 else 0.0
        return Known(math.exp(statistics.fmean(logs)), math.hypot(spread, 0.1), _TRIAL_NOISE, "scaled")

    def _slowdown(self, trials: int) -> float:
        """Logarithm of how much slower a step is with as many processes as the device has, than with so many."""
        if trials == self.device.trials:
            return 0.0
        curve = self.slowdown_curve()
        return _interpolated(curve, self.device.trials) - _interpolated(curve, trials)

    def slowdown_curve(self) -> dict[int, float]:
        """Processes that share the device → logarithm of how much slower a step is than with one, as measured."""
        by_key: dict[WorkKey, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for (kind, work, _), levels in self._levels.items():
            if kind == "step_s" and work is not None:
                for level in levels:
                    # Of calibrations alone: they measure all numbers on one day.
                    if level.calibrated:
                        by_key[work][level.trials].append(level.log)
        found: dict[int, list[float]] = defaultdict(list)
        for by_trials in by_key.values():
            if 1 in by_trials:
                alone = statistics.fmean(by_trials[1])
                for trials, logs in by_trials.items():
                    found[trials].append(statistics.fmean(logs) - alone)
        return {trials: statistics.median(logs) for trials, logs in sorted(found.items())}

    def _offset(self, level: _Level, work: WorkKey | None) -> float:
        """Logarithm of how much longer a network's steps take in whole trials than a calibration says."""
        return self._offsets.get(work.network, 0.0) if level.calibrated and work is not None else 0.0

    def _of_calibrations(self) -> dict[str, float]:
        """The offset of each network preset that tells it: a large network may be off in the other direction."""
        differences: dict[str, list[float]] = defaultdict(list)
        for (kind, work, _), levels in self._levels.items():
            if kind not in ("step_s", "evaluation_s") or work is None:
                continue
            by_trials: dict[int, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
            for level in levels:
                by_trials[level.trials][level.calibrated].append(level.log)
            differences[work.network] += [
                statistics.fmean(whole) - statistics.fmean(few) for whole, few in by_trials.values() if whole and few
            ]
        return {network: statistics.median(found) for network, found in differences.items() if found}

    def _drift(self) -> float:
        """Standard deviation of the logarithm of the machine's speed between sessions."""
        residuals: dict[str, list[float]] = defaultdict(list)
        for (kind, work, _), levels in self._levels.items():
            by_trials: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for level in levels if kind == "step_s" else ():
                by_trials[level.trials][level.session].append(level.log + self._offset(level, work))
            for sessions in by_trials.values():
                means = {session: statistics.fmean(logs) for session, logs in sessions.items()}
                if len(means) > 1:
                    middle = statistics.fmean(means.values())
                    # A mean of n takes a part of each along.
                    stretch = math.sqrt(len(means) / (len(means) - 1))
                    for session, mean in means.items():
                        residuals[session].append((mean - middle) * stretch)
        squares = sum(statistics.fmean(values) ** 2 for values in residuals.values())
        return math.sqrt((_DRIFT_WEIGHT * _DRIFT**2 + squares) / (_DRIFT_WEIGHT + len(residuals)))


def _same_device(one: Device, other: Device, *, gpu: bool) -> bool:
    named = one.name == other.name or bool(other.node_type and one.node_type == other.node_type)
    # A GPU hardly cares how many threads feed it.
    return named and (gpu or one.threads == other.threads)


def _macs(quantity: Quantity, work: WorkKey) -> int:
    operations = operations_of(work)
    return operations.step if quantity == "step_s" else operations.deployed


def _interpolated(curve: Mapping[int, float], trials: int) -> float:
    """Between the numbers of processes that were measured, in their logarithm; the nearest outside of them."""
    if not curve:
        return 0.0
    points = sorted(curve)
    if trials <= points[0]:
        return curve[points[0]]
    for low, high in pairwise(points):
        if trials <= high:
            share = math.log(trials / low) / math.log(high / low)
            return curve[low] + share * (curve[high] - curve[low])
    return curve[points[-1]]


def _assumed(quantity: Quantity, detail: str) -> Known:
    median, sigma = _ASSUMED[quantity, detail]
    return Known(median, sigma, _TRIAL_NOISE, "counted")
