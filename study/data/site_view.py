"""What the page of a site shows, as arrays: some scenes, their vehicles, and some channels as the networks see them.

Shapes: S scenes, L positions, P paths kept per row, M = My · Mz beams, N subcarriers (delay bins).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from study.data.fingerprints import path_profile
from study.data.path_table import CONDITIONS, VehicleTable
from study.data.site import Site
from study.data.summary import BANDWIDTHS_HZ, SUBCARRIERS, SiteRows, read_rows, site_summary

__all__ = ["ANTENNAS", "ChosenScene", "ExampleChannel", "Profile", "SiteView", "beam_of", "choose_scenes", "view_site"]

ANTENNAS = (8, 8)
_MOST_SCENES = 12


@dataclass(frozen=True)
class ChosenScene:
    """A scene that is shown.

    Args:
        scene: its number.
        time_s: its time.
        reason: such as ``first`` or ``most DNLOS``; empty for those that fill the time between.
    """

    scene: int
    time_s: float
    reason: str


@dataclass(frozen=True)
class Profile:
    """One channel's angle-delay profile in one bandwidth.

    Args:
        bandwidth_hz: B.
        power: [M, N]; row my · Mz + mz, column bin · 1/B.
        strongest_bin: delay of the strongest path in bins, modulo N, −0.5 … N − 0.5.
        folded: share of the channel's power at delays of N/B and more.
    """

    bandwidth_hz: float
    power: NDArray[np.float32]
    strongest_bin: float
    folded: float


@dataclass(frozen=True)
class ExampleChannel:
    """A channel that stands for its propagation condition.

    Args:
        scene, position, condition: which one; the condition is an index into `CONDITIONS`.
        position_m: x, y, z.
        power_db: received power relative to the transmitted.
        strongest_delay_ns: delay of the strongest path.
        beam: row of the profiles that points at the strongest path.
        profiles: one for each of `BANDWIDTHS_HZ`.
    """

    scene: int
    position: int
    condition: int
    position_m: tuple[float, float, float]
    power_db: float
    strongest_delay_ns: float
    beam: int
    profiles: tuple[Profile, ...]


@dataclass(frozen=True)
class SiteView:
    """Everything that the page of a site shows."""

    site: Site
    rows: SiteRows
    summary: dict[str, Any]
    scenes: tuple[ChosenScene, ...]
    vehicles: VehicleTable
    channels: tuple[ExampleChannel, ...]


def view_site(site: Site) -> SiteView:
    """Read a site for its page; memory grows with the rows, not with their paths.

    Raises:
        DataError: the site cannot be read.
    """
    rows = read_rows(site)
    scenes = choose_scenes(rows)
    summary, vehicles = site_summary(site, rows), site.read_vehicles()
    return SiteView(site, rows, summary, scenes, vehicles, _examples(site, rows, scenes))


def choose_scenes(rows: SiteRows) -> tuple[ChosenScene, ...]:
    """The first, the middle, the last, the one with most DNLOS, and some between them, in time order."""
    count = len(rows.time_s)
    dynamic = rows.shares[:, CONDITIONS.index("DNLOS")]
    reasons: dict[int, list[str]] = {0: ["first"]}
    if count > 1:
        reasons.setdefault(count - 1, []).append("last")
    if count > 2:
        reasons.setdefault(count // 2, []).append("middle")
    if dynamic.max() > 0:
        reasons.setdefault(int(dynamic.argmax()), []).append("most DNLOS")
    # The first and the last are among these, so at most two come on top.
    between = np.linspace(0, count - 1, min(count, _MOST_SCENES - 2)).round().astype(int).tolist()
    return tuple(
        ChosenScene(scene, float(rows.time_s[scene]), ", ".join(reasons.get(scene, [])))
        for scene in sorted({*reasons, *between})
    )


def _examples(site: Site, rows: SiteRows, scenes: Sequence[ChosenScene]) -> tuple[ExampleChannel, ...]:
    """For each condition, the channel of median power; from the scene with most DNLOS if the condition occurs there."""
    order = sorted(scenes, key=lambda chosen: ("DNLOS" not in chosen.reason, chosen.scene))
    found: list[tuple[int, int, int]] = []
    for condition in range(len(CONDITIONS)):
        for chosen in order:
            power = rows.power[chosen.scene]
            own = np.flatnonzero((rows.condition[chosen.scene] == condition) & (power > 0))
            if len(own):
                ranked = own[np.argsort(power[own], kind="stable")]
                found.append((condition, chosen.scene, int(ranked[(len(ranked) - 1) // 2])))
                break
    return tuple(_example(site, rows, *each) for each in found)


def _example(site: Site, rows: SiteRows, condition: int, scene: int, position: int) -> ExampleChannel:
    table = site.read_paths([scene])
    arrays = (table.gain, table.delay_s, table.zenith_rad, table.azimuth_rad)
    paths = [torch.from_numpy(values[0, position][None]) for values in arrays]
    delay, zenith, azimuth = (float(values[0, 0]) for values in paths[1:])  # of the strongest path
    profiles = tuple(
        Profile(
            bandwidth_hz,
            path_profile(*paths, bandwidth_hz=bandwidth_hz, subcarriers=SUBCARRIERS, antennas=ANTENNAS)[0].numpy(),
            (delay * bandwidth_hz + 0.5) % SUBCARRIERS - 0.5,
            float(folded),
        )
        for bandwidth_hz, folded in zip(BANDWIDTHS_HZ, rows.beyond[scene, position], strict=True)
    )
    x, y, z = table.position_m[position].tolist()
    return ExampleChannel(
        scene=scene,
        position=position,
        condition=condition,
        position_m=(x, y, z),
        power_db=10 * math.log10(float(rows.power[scene, position])),
        strongest_delay_ns=delay * 1e9,
        beam=beam_of(zenith, azimuth, ANTENNAS),
        profiles=profiles,
    )


def beam_of(zenith_rad: float, azimuth_rad: float, antennas: tuple[int, int]) -> int:
    """The row of an angle-delay profile whose beam points nearest to a direction.

    Beam k of M antennas matches the direction cosine u where (k − M/2) / M + u/2 is whole, after Eq. (6).

    Args:
        zenith_rad: θ from the +z axis.
        azimuth_rad: φ from the +x axis.
        antennas: (My, Mz).
    """
    cosines = (math.sin(zenith_rad) * math.sin(azimuth_rad), math.cos(zenith_rad))
    y, z = (round(count / 2 * (1 - u)) % count for count, u in zip(antennas, cosines, strict=True))
    return y * antennas[1] + z
