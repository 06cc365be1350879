"""What is in a site, in numbers.

    site_summary          everything that `study data info` prints
    power_beyond_window   how much of each channel the delay window of a system cannot tell apart

Shapes: S scenes, L positions, P paths kept per row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.path_table import CONDITIONS, PathTable
from study.data.site import Site

__all__ = ["power_beyond_window", "site_summary"]

# Bandwidths at which the summary says how much power falls outside the delay window of 64 subcarriers.
_SUMMARY_BANDWIDTHS_HZ = (20e6, 100e6, 500e6)
_SUMMARY_SUBCARRIERS = 64


def site_summary(site: Site) -> dict[str, Any]:
    """What is in a site, in numbers that JSON can hold; spreads are over rows that have a path.

    Raises:
        DataError: the site cannot be read.
    """
    table = site.read_paths()
    valid = table.valid
    power = np.where(valid, np.abs(table.gain.astype(np.complex128)) ** 2, 0.0)  # [S, L, P]
    total = power.sum(-1)
    some = total > 0
    share = power[some] / total[some][:, None]  # [rows with a path, P]
    delay_ns = table.delay_s[some].astype(np.float64) * 1e9
    mean_ns = (share * delay_ns).sum(-1)
    spread_ns = np.sqrt(np.maximum((share * (delay_ns - mean_ns[:, None]) ** 2).sum(-1), 0))
    # Circular spread, so that −π and π are neighbours.
    resultant = np.clip(np.abs((share * np.exp(1j * table.azimuth_rad[some])).sum(-1)), 1e-12, 1)
    azimuth_deg = np.rad2deg(np.sqrt(-2 * np.log(resultant)))
    shares = np.stack([(table.condition == index).mean(1) for index in range(len(CONDITIONS))], 1)  # [S, 3]
    return {
        "name": site.name,
        "folder": str(site.folder),
        "carrier_hz": site.carrier_hz,
        "base_station_m": list(site.base_station_m),
        "positions": site.positions,
        "scenes": site.scenes,
        "max_paths": site.max_paths,
        "scene_spacing_s": _spread(np.diff(table.time_s)),
        "position_range_m": [table.position_m.min(0).tolist(), table.position_m.max(0).tolist()],
        "paths_per_row": _spread(table.paths),
        "paths_found_per_row": _spread(table.paths_found),
        "rows_without_paths": float((~some).mean()),
        "conditions": {
            name: {
                "share": float(shares[:, index].mean()),
                "lowest_scene": float(shares[:, index].min()),
                "highest_scene": float(shares[:, index].max()),
            }
            for index, name in enumerate(CONDITIONS)
        },
        "condition_source": site.metadata["condition_source"],
        "rms_delay_spread_ns": _spread(spread_ns),
        "azimuth_spread_deg": _spread(azimuth_deg),
        "strongest_path_delay_ns": _spread(delay_ns[:, 0]),
        "dropped_power": _spread(table.dropped_power),
        "delay_window": [_delay_window(table, _SUMMARY_SUBCARRIERS, bandwidth) for bandwidth in _SUMMARY_BANDWIDTHS_HZ],
        "solver": dict(site.metadata["solver"]),
        "precision": site.metadata["precision"],
        "data_hash": site.data_hash,
        "size_bytes": sum(file.stat().st_size for file in site.folder.rglob("*") if file.is_file()),
    }


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    """Minimum, median, 90th percentile and maximum; None of nothing."""
    if values.size == 0:
        return None
    numbers = np.asarray(values, np.float64)
    return {
        "min": float(numbers.min()),
        "median": float(np.median(numbers)),
        "p90": float(np.percentile(numbers, 90)),
        "max": float(numbers.max()),
    }


def power_beyond_window(table: PathTable, subcarriers: int, bandwidth_hz: float) -> NDArray[np.float64]:
    """Share of each channel's power at delays of N / bandwidth and more, which fold back or are dropped, [S, L].

    A row without paths has none.
    """
    power = np.abs(table.gain.astype(np.complex128)) ** 2
    late = np.where(table.delay_s * (bandwidth_hz / subcarriers) >= 1, power, 0.0).sum(-1)
    total = power.sum(-1)
    share: NDArray[np.float64] = np.divide(late, total, out=np.zeros_like(total), where=total > 0)
    return share


def _delay_window(table: PathTable, subcarriers: int, bandwidth_hz: float) -> dict[str, Any]:
    """How much power lies beyond the delays that the subcarriers can tell apart."""
    beyond = power_beyond_window(table, subcarriers, bandwidth_hz)
    return {
        "subcarriers": subcarriers,
        "bandwidth_mhz": bandwidth_hz / 1e6,
        "window_ns": subcarriers / bandwidth_hz * 1e9,
        "power_beyond": float(beyond.mean()),
        "rows_with_power_beyond": float((beyond > 0).mean()),
    }
