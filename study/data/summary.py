"""What is in a site, in numbers.

    read_rows             some numbers of every channel; the paths go through memory some scenes at a time
    site_summary          everything that `study data info` tells, for JSON
    summary_facts         the same in words, for a terminal and for the site's page
    power_beyond_window   how much of each channel the delay window of a system cannot tell apart

Shapes: S scenes, L positions, P paths kept per row, W delay windows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data.path_table import CONDITIONS, PathTable
from study.data.site import Site

__all__ = [
    "BANDWIDTHS_HZ",
    "SUBCARRIERS",
    "SiteRows",
    "power_beyond_window",
    "read_rows",
    "site_summary",
    "summary_facts",
]

# The systems whose delay windows are told: N subcarriers over each bandwidth see delays modulo N / B.
SUBCARRIERS = 64
BANDWIDTHS_HZ = (20e6, 100e6, 500e6)

# Rows in memory at once; 25 paths a row and the intermediate results take about 4 kB.
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class SiteRows:
    """What is kept of every row of a site: about 50 bytes instead of all its paths.

    Spreads are weighted by power; those of rows without a path are NaN.

    Args:
        time_s: time of each scene, float64 [S].
        position_m: user positions, float32 [L, 3].
        condition: index into `CONDITIONS`, int8 [S, L].
        paths: kept paths, int16 [S, L].
        paths_found: paths before the table kept the strongest, int16 [S, L].
        power: received power over transmitted power, Σ|α_p|² of the kept paths, float32 [S, L].
        dropped_power: share of power in the paths that were not kept, float32 [S, L].
        delay_spread_ns: rms delay spread, float32 [S, L].
        azimuth_spread_deg: circular spread √(−2 ln r) of the departure azimuth, float32 [S, L].
        zenith_spread_deg: rms spread of the departure zenith, float32 [S, L].
        strongest_delay_ns: delay of the strongest path, float32 [S, L].
        beyond: share of power at delays that `SUBCARRIERS` over each of `BANDWIDTHS_HZ` fold back, float32 [S, L, W].
    """

    time_s: NDArray[np.float64]
    position_m: NDArray[np.float32]
    condition: NDArray[np.int8]
    paths: NDArray[np.int16]
    paths_found: NDArray[np.int16]
    power: NDArray[np.float32]
    dropped_power: NDArray[np.float32]
    delay_spread_ns: NDArray[np.float32]
    azimuth_spread_deg: NDArray[np.float32]
    zenith_spread_deg: NDArray[np.float32]
    strongest_delay_ns: NDArray[np.float32]
    beyond: NDArray[np.float32]

    @property
    def has_path(self) -> NDArray[np.bool_]:
        """Which rows receive anything, [S, L]."""
        result: NDArray[np.bool_] = self.power > 0
        return result

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each condition in each scene, [S, 3]."""
        return np.stack([(self.condition == index).mean(1) for index in range(len(CONDITIONS))], 1)


def read_rows(site: Site, at_once: int | None = None) -> SiteRows:
    """Read a site once, some scenes at a time, and keep some numbers of every row.

    Args:
        site: the site.
        at_once: scenes in memory at a time; by default as many as make some ten thousand rows. The result does not
            depend on it.

    Raises:
        DataError: the site cannot be read.
    """
    count = max(1, _ROWS_AT_ONCE // site.positions) if at_once is None else at_once
    parts = [_rows_of(table) for table in site.read_scenes(count)]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(SiteRows)
        if field.name != "position_m"
    }
    return SiteRows(position_m=parts[0].position_m, **joined)


def _rows_of(table: PathTable) -> SiteRows:
    power = _power(table)
    total = power.sum(-1)
    some = total > 0
    share = np.divide(power, total[..., None], out=power, where=some[..., None])  # 0 in rows without a path

    def rms(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = (share * values).sum(-1, keepdims=True)
        spread: NDArray[np.float64] = np.sqrt((share * (values - mean) ** 2).sum(-1))
        return spread

    def where_some(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.where(some, values, np.nan).astype(np.float32)

    delay_ns = table.delay_s.astype(np.float64) * 1e9
    azimuth = table.azimuth_rad.astype(np.float64)
    # Circular, so that −π and π are neighbours.
    resultant = np.hypot((share * np.cos(azimuth)).sum(-1), (share * np.sin(azimuth)).sum(-1))
    beyond = [power_beyond_window(table, SUBCARRIERS, bandwidth) for bandwidth in BANDWIDTHS_HZ]
    return SiteRows(
        time_s=table.time_s,
        position_m=table.position_m,
        condition=table.condition,
        paths=table.paths,
        paths_found=table.paths_found,
        power=total.astype(np.float32),
        dropped_power=table.dropped_power,
        delay_spread_ns=where_some(rms(delay_ns)),
        azimuth_spread_deg=where_some(np.rad2deg(np.sqrt(-2 * np.log(np.clip(resultant, 1e-12, 1))))),
        zenith_spread_deg=where_some(np.rad2deg(rms(table.zenith_rad.astype(np.float64)))),
        strongest_delay_ns=where_some(delay_ns[..., 0]),
        beyond=np.stack(beyond, -1).astype(np.float32),
    )


def _power(table: PathTable) -> NDArray[np.float64]:
    """|α_p|², [S, L, P]; padding has none."""
    return table.gain.real.astype(np.float64) ** 2 + table.gain.imag.astype(np.float64) ** 2


def power_beyond_window(table: PathTable, subcarriers: int, bandwidth_hz: float) -> NDArray[np.float64]:
    """Share of each channel's power at delays of N / bandwidth and more, which fold back or are dropped, [S, L].

    A row without paths has none.
    """
    power = _power(table)
    total = power.sum(-1)
    power[table.delay_s * (bandwidth_hz / subcarriers) < 1] = 0
    late = power.sum(-1)
    share: NDArray[np.float64] = np.divide(late, total, out=np.zeros_like(total), where=total > 0)
    return share


# --- In numbers ---------------------------------------------------------------------------------------------------


def site_summary(site: Site, rows: SiteRows | None = None) -> dict[str, Any]:
    """What is in a site, in numbers that JSON can hold; spreads are over rows that have a path.

    Args:
        site: the site.
        rows: what `read_rows` gave, if it was read already.

    Raises:
        DataError: the site cannot be read.
    """
    rows = read_rows(site) if rows is None else rows
    some, shares = rows.has_path, rows.shares
    power_db = _decibel(rows.power)

    def condition(index: int) -> dict[str, Any]:
        own = some & (rows.condition == index)
        return {
            "share": float(shares[:, index].mean()),
            "lowest_scene": float(shares[:, index].min()),
            "highest_scene": float(shares[:, index].max()),
            "received_power_db": _spread(power_db[own]),
            "rms_delay_spread_ns": _spread(rows.delay_spread_ns[own]),
        }

    return {
        "name": site.name,
        "folder": str(site.folder),
        "carrier_hz": site.carrier_hz,
        "base_station_m": list(site.base_station_m),
        "positions": site.positions,
        "scenes": site.scenes,
        "max_paths": site.max_paths,
        "scene_spacing_s": _spread(np.diff(rows.time_s)),
        "position_range_m": [rows.position_m.min(0).tolist(), rows.position_m.max(0).tolist()],
        "paths_per_row": _spread(rows.paths),
        "paths_found_per_row": _spread(rows.paths_found),
        "rows_without_paths": float((~some).mean()),
        "conditions": {name: condition(index) for index, name in enumerate(CONDITIONS)},
        "condition_source": site.metadata["condition_source"],
        "rms_delay_spread_ns": _spread(rows.delay_spread_ns[some]),
        "azimuth_spread_deg": _spread(rows.azimuth_spread_deg[some]),
        "zenith_spread_deg": _spread(rows.zenith_spread_deg[some]),
        "strongest_path_delay_ns": _spread(rows.strongest_delay_ns[some]),
        "dropped_power": _spread(rows.dropped_power),
        "delay_window": [
            {
                "subcarriers": SUBCARRIERS,
                "bandwidth_mhz": bandwidth / 1e6,
                "window_ns": SUBCARRIERS / bandwidth * 1e9,
                "power_beyond": float(rows.beyond[..., number].mean(dtype=np.float64)),
                "rows_with_power_beyond": float((rows.beyond[..., number] > 0).mean()),
            }
            for number, bandwidth in enumerate(BANDWIDTHS_HZ)
        ],
        "solver": dict(site.metadata["solver"]),
        "precision": site.metadata["precision"],
        "data_hash": site.data_hash,
        "size_bytes": sum(file.stat().st_size for file in site.folder.rglob("*") if file.is_file()),
    }


def _decibel(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """10 lg of a power; NaN of none."""
    return 10 * np.log10(power, out=np.full_like(power, np.nan), where=power > 0)


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


# --- In words -----------------------------------------------------------------------------------------------------


def summary_facts(summary: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """A summary in words, as heading → (what, how much): what a terminal and the site's page show."""
    return {
        "Site": _site_facts(summary),
        "Propagation conditions": _condition_facts(summary),
        "Channels": _channel_facts(summary),
        f"Power beyond the delay window N/B, N = {SUBCARRIERS} subcarriers": _window_facts(summary),
        "How it was made": _origin_facts(summary),
    }


def _site_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    low, high = summary["position_range_m"]
    extent = ", ".join(f"{axis} {_range(*pair)}" for axis, pair in zip("xyz", zip(low, high, strict=True), strict=True))
    spacing = summary["scene_spacing_s"]
    apart = ""
    if spacing is not None:
        even = spacing["max"] - spacing["min"] < 1e-6 * spacing["max"]
        apart = f", {spacing['median']:g} s apart"
        apart += "" if even else f" in the median ({spacing['min']:g} … {spacing['max']:g} s)"
    rows = summary["positions"] * summary["scenes"]
    return [
        ("Carrier", f"{summary['carrier_hz'] / 1e9:g} GHz"),
        ("Base station", f"({', '.join(f'{value:g}' for value in summary['base_station_m'])}) m"),
        ("Positions", f"{summary['positions']:,}: {extent} m"),
        ("Scenes", f"{summary['scenes']:,}{apart}"),
        ("Channels", f"{rows:,} (every position in every scene)"),
    ]


def _condition_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    for name, part in summary["conditions"].items():
        text = f"{_percent(part['share'])} of all channels"
        low, high = _percent(part["lowest_scene"]), _percent(part["highest_scene"])
        if summary["scenes"] > 1:
            text += f", {low} of every scene" if low == high else f", {low} … {high} of a scene"
        facts.append((name, text))
    return [*facts, ("Source", summary["condition_source"])]


def _channel_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    power = [
        f"{name} {_decibels(part['received_power_db'])}"
        for name, part in summary["conditions"].items()
        if part["received_power_db"] is not None
    ]
    kept = f"{_spread_words(summary['paths_per_row'], '', 0)}; at most {summary['max_paths']} are kept"
    dropped = summary["dropped_power"]
    facts = [
        ("Paths per channel", kept),
        ("Paths found", _spread_words(summary["paths_found_per_row"], "", 0)),
        ("Power of dropped paths", f"median {_percent(dropped['median'])}, at most {_percent(dropped['max'])}"),
        ("RMS delay spread", _spread_words(summary["rms_delay_spread_ns"], " ns", 0)),
        ("Azimuth spread", _spread_words(summary["azimuth_spread_deg"], "°", 1)),
        ("Zenith spread", _spread_words(summary["zenith_spread_deg"], "°", 1)),
        ("Delay of the strongest path", _spread_words(summary["strongest_path_delay_ns"], " ns", 0)),
        (
            "Median received power",
            ", ".join(power) + " relative to the transmitted power" if power else "no channel has a path",
        ),
    ]
    if summary["rows_without_paths"] > 0:
        facts.append(("Channels without a path", _percent(summary["rows_without_paths"])))
    return facts


def _window_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"{window['bandwidth_mhz']:g} MHz",
            f"{_percent(window['power_beyond'])} of the power lies beyond {_number(window['window_ns'], 0)} ns, "
            f"in {_percent(window['rows_with_power_beyond'])} of the channels",
        )
        for window in summary["delay_window"]
    ]


def _origin_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    solver = [
        (f"Solver: {key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in summary["solver"].items()
    ]
    return [
        *solver,
        ("Precision", summary["precision"]),
        ("Data hash", summary["data_hash"]),
        ("Size on disk", f"{summary['size_bytes'] / 1e6:.1f} MB"),
        ("Folder", summary["folder"]),
    ]


def _spread_words(spread: Mapping[str, float] | None, unit: str, decimals: int) -> str:
    if spread is None:
        return "no channel has a path"
    low, median, p90, high = (_number(spread[key], decimals) for key in ("min", "median", "p90", "max"))
    return f"median {median}{unit}, 90th percentile {p90}{unit}, range {low} … {high}{unit}"


def _range(low: float, high: float) -> str:
    first, last = _number(low, 1), _number(high, 1)
    return first if first == last else f"{first} … {last}"


def _number(value: float, decimals: int) -> str:
    """With digit groups and a true minus sign; 0 is never −0."""
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "−")


def _decibels(spread: Mapping[str, float]) -> str:
    return f"{_number(spread['median'], 1)} dB"


def _percent(share: float) -> str:
    """Two digits at least: ``14.4 %``, ``0.016 %``, ``0 %``."""
    percent = 100 * share
    if percent == 0 or percent == 100:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"
