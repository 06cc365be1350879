"""Model-based localization: paths estimated from the channel (Eq. 2), geometry, and delay thresholds (Section III-C).

    estimate_paths    channels → delays, angles and powers of the paths, one after the other
    first_path        which of them came first
    UserArea          where users can be: geometry, and the choice between positions that the array cannot tell apart
    best_thresholds   thresholds between the propagation conditions
    ModelBased        the reference row MODEL

Shapes: B samples, M = My · Mz antennas (row my · Mz + mz), N subcarriers, K estimated paths, n labelled samples.
Delays are in cycles of the delay window N / bandwidth (0 … 1), angles in cycles per antenna: half a direction cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = [
    "ChannelSet",
    "LabelledChannelSet",
    "ModelBased",
    "PathEstimates",
    "Thresholds",
    "UserArea",
    "best_thresholds",
    "estimate_paths",
    "first_path",
]

_SPEED_OF_LIGHT_M_S = 299_792_458.0
# More paths than decide which came first, and how often they are estimated anew.
_PATHS, _SWEEPS = 6, 1
# Grid points per resolution cell of each axis: the peak is then within a quarter of a cell, where it can be climbed.
_OVERSAMPLING = 2
# Values of a spectrum that are made at once: what a core's cache holds.
_CHUNK_VALUES = 2**20
# Labelled samples that the thresholds are fitted on at most: more do not move them.
_FIT_SAMPLES = 8192
# Users whose heights differ by less stand at one height.
_ONE_HEIGHT_M = 0.1
# Where delays fold: how much of the delay window before the strongest path is searched for the first.
_SEARCH_BACK = 0.25


class ChannelSet(Protocol):
    """Channels [n, M, N] of which some can be had at a time."""

    @property
    def shape(self) -> torch.Size:
        """[n, M, N]."""

    def split(self, size: int, /) -> Iterable[Tensor]:
        """All of them in their order, ``size`` at a time, complex64."""

    def __getitem__(self, index: Tensor, /) -> ChannelSet:
        """Some of them."""


class LabelledChannelSet(Protocol):
    """Labelled samples with their channels, and what is known of the base station and its array."""

    @property
    def csi(self) -> ChannelSet:
        """Channels [n, M, N]."""

    @property
    def position_m(self) -> Tensor:
        """Positions [n, 3] in metres."""

    @property
    def condition(self) -> Tensor:
        """Classes [n]."""

    @property
    def base_station_m(self) -> tuple[float, float, float]:
        """(x, y, z)."""

    @property
    def antennas(self) -> tuple[int, int]:
        """(My, Mz), half a wavelength apart in the y-z plane."""

    @property
    def bandwidth_hz(self) -> float:
        """Of all N subcarriers."""

    @property
    def excess_delay(self) -> Literal["wrap", "drop"]:
        """Paths later than N / bandwidth fold back, or are not there."""


class PathEstimates(NamedTuple):
    """Estimated paths, in the order in which they were found; one with power 0 is none. All [B, K].

    Attributes:
        delay: in cycles of the delay window, 0 … 1 (float64).
        y, z: half the direction cosines along the array's axes, −½ … ½ (float64).
        power: |α|² relative to the sample's mean power (float64).
    """

    delay: Tensor
    y: Tensor
    z: Tensor
    power: Tensor


def _waves(cycles: Tensor, count: int) -> Tensor:
    """e^(j2π·k·cycles), k = 0 … count − 1. [...] float64 → [..., count] complex64."""
    steps = torch.arange(count, dtype=torch.float64, device=cycles.device)
    angle = (torch.remainder(cycles[..., None] * steps, 1.0) * (2 * math.pi)).float()
    return torch.polar(torch.ones_like(angle), angle)


def _power(values: Tensor) -> Tensor:
    """|·|² of a complex tensor."""
    return torch.view_as_real(values).square().sum(dim=-1)


@lru_cache(maxsize=16)
def _grid(count: int, sign: int, device: torch.device) -> Tensor:
    """e^(± j2π·k·point/points), [count (k), points] complex64."""
    points = _OVERSAMPLING * count if count > 1 else 1
    return _waves(sign * torch.arange(points, dtype=torch.float64, device=device) / points, count).T.contiguous()


def _grid_peak(residual: Tensor) -> Tensor:
    """(delay, y, z) of the largest value on the grid of the angle-delay spectrum. [B, My, Mz, N] → [3, B]."""
    samples, rows, columns, subcarriers = residual.shape
    to_y, to_z = (_grid(size, -1, residual.device).T for size in (rows, columns))
    to_delay = _grid(subcarriers, 1, residual.device)
    points = to_delay.shape[1]
    # Products with small matrices are faster than padded FFTs at these sizes.
    spectrum = torch.matmul(residual.view(-1, subcarriers), to_delay).view(-1, columns, points)
    spectrum = torch.matmul(to_z, spectrum).view(samples, rows, -1)
    place = _power(torch.matmul(to_y, spectrum)).flatten(1).argmax(dim=1)
    delay = (place % points).double() / points
    z = (place // points % len(to_z)).double() / len(to_z)
    y = (place // (points * len(to_z))).double() / len(to_y)
    return torch.stack([delay, y, z])


def _climb(response: Tensor, cycles: Tensor, step: float) -> Tensor:
    """The peak of |Σ_k response_k e^(−j2πk·c)|² near c, by a parabola through c − step, c and c + step.

    Args:
        response: [B, count].
        cycles: where to start, [B] float64.
        step: half the interval that is searched.
    """
    at = cycles[:, None] + step * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, device=cycles.device)
    sums = torch.bmm(_waves(-at, response.shape[1]), response[:, :, None])[:, :, 0]
    left, middle, right = _power(sums).double().unbind(dim=1)
    bend = 2 * middle - left - right
    peak = torch.where(bend > 0, 0.5 * (right - left) / torch.where(bend > 0, bend, 1.0), (right - left).sign())
    return cycles + step * peak.clamp(-1, 1)


def _refine(residual: Tensor, found: Tensor, rounds: range) -> tuple[Tensor, Tensor]:
    """Climb to the peak along each axis with the others held, in ever smaller steps, and read the path's gain there.

    Args:
        residual: [B, My, Mz, N].
        found: (delay, y, z) to start from, [3, B].
        rounds: each searches ± ½ · 3^(−round) grid steps.

    Returns:
        (delay, y, z) [3, B], and the gain [B].
    """
    delay, y, z = found
    _, rows, columns, subcarriers = residual.shape
    elements = residual.flatten(1, 2)
    at_delay = torch.empty(0)
    for i in rounds:
        step = 0.5 / (_OVERSAMPLING * 3**i)
        beam = (_waves(-y, rows)[:, :, None] * _waves(-z, columns)[:, None]).flatten(1)
        delay = _climb(torch.bmm(beam[:, None], elements)[:, 0].conj(), delay, step / subcarriers)
        at_delay = torch.bmm(elements, _waves(delay, subcarriers)[:, :, None]).view(-1, rows, columns)
        if rows > 1:
            y = _climb(torch.bmm(at_delay, _waves(-z, columns)[:, :, None])[:, :, 0], y, step / rows)
        if columns > 1:
            z = _climb(torch.bmm(_waves(-y, rows)[:, None], at_delay)[:, 0], z, step / columns)
    peak = torch.bmm(torch.bmm(_waves(-y, rows)[:, None], at_delay), _waves(-z, columns)[:, :, None])[:, 0, 0]
    return torch.stack([delay, y, z]), peak / (rows * columns * subcarriers)


def _path(gain: Tensor, place: Tensor, shape: torch.Size) -> Tensor:
    """One path's part of the channel, Eq. (1). Gain [B] and (delay, y, z) [3, B] → [B, My, Mz, N]."""
    delay, y, z = place
    beam = (gain[:, None] * _waves(y, shape[1]))[:, :, None] * _waves(z, shape[2])[:, None]
    return beam[:, :, :, None] * _waves(-delay, shape[3])[:, None, None]


def estimate_paths(
    csi: Tensor, antennas: tuple[int, int], *, floor_db: float, paths: int = _PATHS, sweeps: int = _SWEEPS
) -> PathEstimates:
    """Delays, angles and powers of the paths: the strongest is found, climbed to and taken off, then the next.

    After each new path all of them are estimated anew, each with the others taken off, as in the space-alternating
    generalized expectation maximization that the paper names for Eq. (2). Cancellation instead of a window: sidelobes
    of the strongest path do not pass for paths, and the resolution stays that of the bandwidth and of the array.

    Args:
        csi: H [B, M, N] complex64.
        antennas: (My, Mz).
        floor_db: stop at a path that is this much weaker than the strongest.
        paths: K, most paths to look for.
        sweeps: how often all paths are estimated anew after each new one.
    """
    samples, _, subcarriers = csi.shape
    mean = _power(csi).mean(dim=(1, 2))
    found = torch.zeros((3, samples, paths), dtype=torch.float64, device=csi.device)
    gain = torch.zeros((samples, paths), dtype=torch.complex64, device=csi.device)
    # Samples that have a path left; the others drop out.
    rows = torch.nonzero(mean > 0)[:, 0]
    residual = (csi[rows] / mean[rows].sqrt()[:, None, None]).view(len(rows), *antennas, subcarriers)
    for k in range(paths):
        if not len(rows):
            break
        place, amplitude = _refine(residual, _grid_peak(residual), range(4))
        power = _power(amplitude)
        keep = (power > 0) & (power >= 10 ** (-floor_db / 10) * _power(gain[rows]).amax(dim=1))
        rows, place, amplitude = rows[keep], place[:, keep], amplitude[keep]
        residual = residual[keep] - _path(amplitude, place, residual.shape)
        found[:, rows, k], gain[rows, k] = place, amplitude
        for j in list(range(k + 1)) * sweeps if k else ():
            alone = residual + _path(gain[rows, j], found[:, rows, j], residual.shape)
            place, amplitude = _refine(alone, found[:, rows, j], range(1, 4))
            residual = alone - _path(amplitude, place, residual.shape)
            found[:, rows, j], gain[rows, j] = place, amplitude
    delay, y, z = found
    return PathEstimates(
        torch.remainder(delay, 1.0),
        torch.remainder(y + 0.5, 1.0) - 0.5,
        torch.remainder(z + 0.5, 1.0) - 0.5,
        _power(gain).double(),
    )


def first_path(estimates: PathEstimates, within_db: float, *, search_back: float | None = None) -> Tensor:
    """Which path came first, of those at most `within_db` weaker than the strongest. [B].

    Args:
        estimates: the paths.
        within_db: how much weaker than the strongest the first may be.
        search_back: the delay window is a circle, and only where no path is later than the window it begins at 0. By
            default it does; otherwise it begins this share of the window before the strongest path.
    """
    start = torch.zeros_like(estimates.delay[:, :1])
    if search_back is not None:
        start = estimates.delay.gather(1, estimates.power.argmax(dim=1, keepdim=True)) - search_back
    strong = estimates.power >= 10 ** (-within_db / 10) * estimates.power.amax(dim=1, keepdim=True)
    return torch.where(strong, torch.remainder(estimates.delay - start, 1.0), math.inf).argmin(dim=1)


@dataclass(frozen=True)
class UserArea:
    """Where users can be: the extent of the labelled positions, seen from the base station.

    The array sees neither how often a delay went round the window nor on which side of its plane a user is. Of the
    positions that one path allows, that is chosen whose height by its elevation is nearest to the users' (a wall that
    reflects the path leaves its elevation as it was, but not its azimuth); then the nearest to the area; then the one
    on the side where most labelled users are; then the nearest to the base station.

    Attributes:
        low, high: x, y and z that the labelled positions reach.
        side: of the array's plane, on which most of them are: 1 towards +x, −1 towards −x.
        base_station_m: (x, y, z).
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    side: int
    base_station_m: tuple[float, float, float]

    @classmethod
    def of(cls, position_m: Tensor, base_station_m: tuple[float, float, float]) -> UserArea:
        """The area of positions [n, 3]."""
        (x0, y0, z0), (x1, y1, z1) = position_m.double().amin(dim=0).tolist(), position_m.double().amax(dim=0).tolist()
        ahead = int((position_m[:, 0] >= base_station_m[0]).sum())
        return cls((x0, y0, z0), (x1, y1, z1), 1 if 2 * ahead >= len(position_m) else -1, base_station_m)

    @property
    def height_m(self) -> float | None:
        """At which all users stand; None where they do not stand at one."""
        return (self.low[2] + self.high[2]) / 2 if self.high[2] - self.low[2] <= _ONE_HEIGHT_M else None

    @property
    def reach_m(self) -> float:
        """Distance from the base station within which all users are."""
        return math.hypot(
            *(
                max(abs(low - at), abs(high - at))
                for low, high, at in zip(self.low, self.high, self.base_station_m, strict=True)
            )
        )

    def locate(self, range_m: Tensor, y: Tensor, z: Tensor | None, window_m: float | None) -> tuple[Tensor, Tensor]:
        """The position that a path points to, if nothing reflected it.

        Args:
            range_m: c · τ, within the delay window, [B] float64.
            y, z: half the direction cosines, [B]; z is None where the array has no elevation.
            window_m: path length after which delays fold, None where they do not.

        Returns:
            Positions [B, 3], and ranges in metres without the fold [B].
        """
        folds = 1 + (0 if window_m is None else math.floor(self.reach_m / window_m))
        size = max(1, _CHUNK_VALUES // (8 * folds))
        parts = []
        for start in range(0, len(y), size):
            part = slice(start, start + size)
            ranges = range_m[part, None] + (window_m or 0.0) * torch.arange(folds, device=y.device)
            parts.append(self._locate(ranges, y[part], None if z is None else z[part]))
        positions, distances = zip(*parts, strict=True)
        return torch.cat(positions), torch.cat(distances)

    def _locate(self, range_m: Tensor, y: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """`locate` for all ranges that are possible, [B, folds]."""
        station_x, station_y, station_z = self.base_station_m
        low, high = (torch.tensor(corner, dtype=torch.float64, device=y.device) for corner in (self.low, self.high))
        by_elevation = torch.zeros_like(range_m) if z is None else range_m * (2 * z[:, None])
        unlike = torch.zeros_like(range_m)
        if z is not None:
            unlike = (station_z + by_elevation - (station_z + by_elevation).clamp(low[2], high[2])).abs()
        up = by_elevation if self.height_m is None else torch.full_like(range_m, self.height_m - station_z)
        # A range shorter than the difference in height: straight below.
        level = (range_m.square() - up.square()).clamp_min(0).sqrt()
        across = torch.minimum(torch.maximum(range_m * (2 * y[:, None]), -level), level)
        along = (level.square() - across.square()).clamp_min(0).sqrt()
        # [B, 2 · folds, 3]: the preferred side first, so that a tie goes to it.
        place = torch.cat(
            [
                torch.stack([station_x + side * along, station_y + across, station_z + up], dim=-1)
                for side in (self.side, -self.side)
            ],
            dim=1,
        )
        flat = place[..., :2]
        outside = (flat - torch.minimum(torch.maximum(flat, low[:2]), high[:2])).norm(dim=-1)
        unlike = unlike.repeat(1, 2)
        best = torch.where(unlike == unlike.amin(dim=1, keepdim=True), outside, math.inf).argmin(dim=1)
        rows = torch.arange(len(best), device=best.device)
        return place[rows, best], range_m[rows, best % range_m.shape[1]]


class Thresholds(NamedTuple):
    """Classes in the order of a statistic, and where one ends and the next begins.

    Attributes:
        order: class numbers, [k].
        cuts: rising, [k − 1] float64.
        correct: labelled samples that are classified right.
    """

    order: Tensor
    cuts: Tensor
    correct: int

    def classify(self, statistic: Tensor) -> Tensor:
        """Classes [n] of statistics [n]."""
        return self.order[torch.searchsorted(self.cuts, statistic.contiguous())]


def best_thresholds(statistic: Tensor, condition: Tensor, conditions: int) -> Thresholds:
    """The thresholds that classify most labelled samples right, over all choices; classes are ordered by their mean.

    No threshold where none does better than the most frequent class.

    Args:
        statistic: [n] float64, finite.
        condition: classes [n].
        conditions: number of classes K.
    """
    count = condition.bincount(minlength=conditions)
    total = torch.zeros_like(count, dtype=torch.float64).index_add_(0, condition, statistic)
    order = torch.where(count > 0, total / count, math.inf).argsort(stable=True)[: int((count > 0).sum())]
    values, place = statistic.unique(return_inverse=True)
    # Samples of each class, in this order, among the i smallest values.
    below = torch.zeros((len(order), len(values) + 1), dtype=torch.int64, device=statistic.device)
    for row, number in zip(below, order.tolist(), strict=True):
        row[1:] = place[condition == number].bincount(minlength=len(values)).cumsum(0)
    # Right among the i smallest values, if the class of this row is the last that they are given.
    right = below[0]
    begins: list[Tensor] = []
    for row in below[1:]:
        gain, begin = (right - row).cummax(dim=0)
        right, begins = gain + row, [*begins, begin]
    if int(right[-1]) <= int(count.max()):
        return Thresholds(count.argmax()[None], statistic.new_empty(0), int(count.max()))
    end, cuts = len(values), []
    for begin in reversed(begins):
        end = int(begin[end])
        cuts.append(_between(values, end))
    return Thresholds(order, statistic.new_tensor(cuts[::-1]), int(right[-1]))


def _between(values: Tensor, count: int) -> float:
    """A number with ``count`` of the rising values at or below it."""
    if count in (0, len(values)):
        return math.inf if count else -math.inf
    low, high = float(values[count - 1]), float(values[count])
    middle = low + (high - low) / 2
    return middle if middle < high else low


class _Estimate(NamedTuple):
    """What one pass over channels finds: positions [n, 3], statistics [n] each, and which samples have a path."""

    position: Tensor
    excess_m: Tensor
    range_m: Tensor
    found: Tensor


@dataclass
class ModelBased:
    """Delay and angles of the first path, geometry for the position, a delay threshold for the condition.

    Attributes:
        first_path_db: the first path is the earliest that is at most this much weaker than the strongest.
    """

    name: ClassVar[str] = "MODEL"
    first_path_db: float = 10.0

    def fit(self, source: LabelledChannelSet, conditions: int) -> None:
        """Remember the array and the area of the labelled positions, and fit the thresholds.

        Args:
            source: labelled samples.
            conditions: number of classes K, 0 without the condition task.
        """
        subcarriers = source.csi.shape[-1]
        self._antennas, self._window_m = source.antennas, _SPEED_OF_LIGHT_M_S * subcarriers / source.bandwidth_hz
        self._area = UserArea.of(source.position_m, source.base_station_m)
        self._folds = source.excess_delay == "wrap" and self._area.reach_m >= self._window_m
        self._middle = source.position_m.double().mean(dim=0)
        self._by_range, self._thresholds, self._usual = False, None, None
        if not conditions:
            return
        self._usual = source.condition.bincount(minlength=conditions).argmax()
        rows = _spread_rows(len(source.condition), _FIT_SAMPLES).to(source.condition.device)
        estimate, condition = self._estimate(source.csi[rows]), source.condition[rows]
        if not estimate.found.any():
            return
        by_excess, by_range = (
            best_thresholds(statistic[estimate.found], condition[estimate.found], conditions)
            for statistic in (estimate.excess_m, estimate.range_m)
        )
        self._by_range = by_range.correct > by_excess.correct
        self._thresholds = by_range if self._by_range else by_excess

    def predict(self, csi: ChannelSet) -> tuple[Tensor, Tensor | None]:
        """[B, M, N] → positions [B, 3] in metres and classes [B] (None without that task).

        A sample without any path gets the mean of the labelled positions and their most frequent class.
        """
        estimate = self._estimate(csi)
        position = torch.where(estimate.found[:, None], estimate.position, self._middle).float()
        if self._usual is None:
            return position, None
        if self._thresholds is None:
            return position, self._usual.expand(len(position))
        condition = self._thresholds.classify(estimate.range_m if self._by_range else estimate.excess_m)
        return position, torch.where(estimate.found, condition, self._usual)

    def _estimate(self, csi: ChannelSet) -> _Estimate:
        size = max(1, _CHUNK_VALUES // (csi.shape[1:].numel() * _OVERSAMPLING**3))
        parts = [self._estimate_some(part) for part in csi.split(size)]
        return _Estimate(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _estimate_some(self, csi: Tensor) -> _Estimate:
        paths = estimate_paths(csi, self._antennas, floor_db=self.first_path_db + 3)
        first = first_path(paths, self.first_path_db, search_back=_SEARCH_BACK if self._folds else None)[:, None]
        strongest = paths.power.argmax(dim=1, keepdim=True)
        delay, y, z = (values.gather(1, first)[:, 0] for values in paths[:3])
        later = torch.remainder(paths.delay.gather(1, strongest)[:, 0] - delay, 1.0)
        position, range_m = self._area.locate(
            delay * self._window_m,
            y,
            z if self._antennas[1] > 1 else None,
            self._window_m if self._folds else None,
        )
        return _Estimate(position, later * self._window_m, range_m, paths.power.amax(dim=1) > 0)


def _spread_rows(count: int, most: int) -> Tensor:
    """At most so many of the numbers 0 … count − 1, evenly spread whatever the order of the samples repeats."""
    if count <= most:
        return torch.arange(count)
    step = round(count * (5**0.5 - 1) / 2)
    while math.gcd(step, count) > 1:
        step += 1
    return (torch.arange(most) * step % count).sort().values
