"""The figures of a site's page: channels as the networks see them, shares of the conditions, delay spread and power.

They are drawn as the report's are: same settings, same palette, one colour, line style and marker for each condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from reports.drawing import INK, WIDTH, Figure, as_csv, drawing
from reports.site_map import CONDITION_COLOURS

if TYPE_CHECKING:
    from study.data.site_view import ExampleChannel, Profile, SiteView

__all__ = ["channels", "shares_over_time", "spread_and_power"]

_FLOOR_DB = -40.0
_MOST_POINTS = 300
_DISTANCE_BINS = 24
_LEAST_ROWS = 5  # for a median and its range

_LINES: Mapping[str, Any] = {"LOS": "solid", "DNLOS": (0, (5, 1.6)), "SNLOS": (0, (1.4, 1.2))}
_MARKERS: Mapping[str, str] = {"LOS": "o", "DNLOS": "^", "SNLOS": "s"}
_NAMES = tuple(CONDITION_COLOURS)


def channels(view: SiteView) -> Figure | None:
    """Angle-delay profiles of the example channels over the bandwidths; None if no channel has a path."""
    if not view.channels:
        return None
    columns = len(view.channels[0].profiles)
    rows: list[dict[str, object]] = []
    with drawing() as draw:
        canvas = Canvas(figsize=(WIDTH, 1.75 * len(view.channels) + 0.55), layout="constrained")
        images: list[AxesImage] = []
        grid = canvas.subplots(len(view.channels), columns, squeeze=False)
        for line, channel in enumerate(view.channels):
            for column, profile in enumerate(channel.profiles):
                axis = grid[line][column]
                images.append(_draw_profile(axis, profile, channel))
                rows.append(_profile_row(channel, profile))
                title = f"{_percent(profile.folded)} of the power folds back"
                axis.set_title(title, loc="left", fontsize=7, pad=2.5)
                if line == 0:
                    axis.annotate(
                        f"{profile.bandwidth_hz / 1e6:g} MHz", (0.5, 1.16), xycoords="axes fraction", ha="center",
                        va="bottom", fontsize=8.5, fontweight="bold", annotation_clip=False,
                    )  # fmt: skip
                if line == len(view.channels) - 1:
                    axis.set_xlabel("Delay [ns]")
                if column == 0:
                    axis.set_ylabel(f"{_NAMES[channel.condition]}\nBeam index")
                else:
                    axis.set_yticklabels([])
        bar = canvas.colorbar(images[0], ax=grid, aspect=40, pad=0.015)
        bar.set_label("Power relative to the panel's maximum [dB]")
        bar.outline.set_linewidth(0.5)
        svg, png = draw(canvas, "channels")
    subcarriers, beams = view.channels[0].profiles[0].power.shape[::-1]
    bandwidths = " / ".join(f"{profile.bandwidth_hz / 1e6:g}" for profile in view.channels[0].profiles)
    caption = (
        f"Angle-delay profiles of one channel for each condition (rows) at {bandwidths} MHz (columns) with "
        f"{subcarriers} subcarriers and {beams} antennas (8 × 8 in the y-z plane); all kept paths. "
        "Beam 8·y + z is a DFT beam: y = z = 4 looks along the normal of the array, y = 0 … 7 at direction cosines "
        "+1 … −¾ along y, and z likewise. "
        "The channel is the one of median received power of its condition in its scene: "
        + "; ".join(_channel_words(channel) for channel in view.channels)
        + ". Ring: delay modulo N/B and beam of the strongest path; paths that share a cell add up or cancel, "
        "so another cell may be brighter. "
        f"Below −{-_FLOOR_DB:g} dB everything has one colour. A wider band separates paths more finely, but sees a "
        "shorter window N/B: later paths fold back onto it."
    )
    alt = "Angle-delay profiles. " + " ".join(
        f"{_NAMES[channel.condition]} at {profile.bandwidth_hz / 1e6:g} MHz: strongest path at "
        f"{_folded_ns(profile):.0f} ns, beam {channel.beam}, {_percent(profile.folded)} of the power folds back."
        for channel in view.channels
        for profile in channel.profiles
    )
    return Figure("channels", caption, alt, svg, png, as_csv(pd.DataFrame(rows)))


def shares_over_time(view: SiteView) -> Figure:
    """The share of users in each condition over the scenes."""
    shares, times = view.rows.shares, view.rows.time_s
    block = -(-len(times) // _MOST_POINTS)
    starts = np.arange(0, len(times), block)
    counts = np.diff([*starts, len(times)])
    shares = np.add.reduceat(shares, starts, axis=0) / counts[:, None]
    times = np.add.reduceat(times, starts) / counts
    with drawing() as draw:
        canvas = Canvas(figsize=(WIDTH, 2.2), layout="constrained")
        axis = canvas.subplots()
        for index, name in enumerate(_NAMES):
            axis.plot(
                times, shares[:, index], color=CONDITION_COLOURS[name], linestyle=_LINES[name], marker=_MARKERS[name],
                markersize=4, markevery=max(1, len(times) // 12), label=name, linewidth=1.2,
            )  # fmt: skip
        axis.set(xlabel="Time of the scene [s]", ylabel="Share of users", ylim=(0, 1.02))
        axis.margins(x=0.01)
        _legend(canvas, axis)
        svg, png = draw(canvas, "shares")
    caption = "Share of users in each propagation condition, " + (
        "scene by scene." if block == 1 else f"mean over {block} scenes at a time."
    )
    conditions = view.summary["conditions"]
    alt = "Shares of the conditions over time. " + " ".join(
        f"{name}: {part['share']:.1%} on average, {part['lowest_scene']:.1%} to {part['highest_scene']:.1%} of a scene."
        for name, part in conditions.items()
    )
    data = pd.DataFrame({"time_s": times, **{name: shares[:, index] for index, name in enumerate(_NAMES)}})
    return Figure("shares", caption, alt, svg, png, as_csv(data))


def spread_and_power(view: SiteView) -> Figure | None:
    """Distribution of the delay spread, and received power over distance, of each condition; None without any path."""
    rows = view.rows
    if not rows.has_path.any():
        return None
    tables = []
    with drawing() as draw:
        canvas = Canvas(figsize=(WIDTH, 2.75), layout="constrained")
        left, right = canvas.subplots(1, 2)
        ends = []
        for name, own in _own_rows(view):
            colour, line, marker = CONDITION_COLOURS[name], _LINES[name], _MARKERS[name]
            values = rows.delay_spread_ns[own].astype(np.float64)
            levels = np.linspace(0, 0.99, 200)
            left.plot(np.quantile(values, levels), levels, color=colour, linestyle=line, label=name)
            marks = np.quantile(values, [0.5, 0.9])
            left.plot(marks, [0.5, 0.9], color=colour, linestyle="none", marker=marker, markersize=4.5)
            ends.append(float(np.quantile(values, 0.99)))
            table = power_over_distance(view, own)
            middle = table["distance_m"].to_numpy()
            right.fill_between(middle, table["p10_db"], table["p90_db"], color=colour, alpha=0.15, linewidth=0)
            right.plot(middle, table["median_db"], color=colour, linestyle=line, marker=marker, markersize=3.5)
            tables.append(table.assign(condition=name))
        reach = _distance(view)
        far = np.geomspace(max(float(reach.min()), 1.0), max(float(reach.max()), 2.0), 100)
        right.plot(
            far,
            free_space_db(far, view.site.carrier_hz),
            color=INK,
            linewidth=1.0,
            linestyle=(0, (1, 2.4)),
            label="free space",
        )
        left.set(
            xlabel="RMS delay spread [ns]", ylabel="Share of channels", ylim=(0, 1), xlim=(0, 1.04 * max(*ends, 1e-3))
        )
        right.set(xlabel="Distance to the base station [m]", ylabel="Received power [dB]")
        if far[-1] / far[0] > 5:
            right.set_xscale("log")
            round_numbers = [
                value
                for value in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
                if far[0] * 0.9 <= value <= far[-1] * 1.1
            ]
            right.set_xticks(round_numbers, [str(value) for value in round_numbers])
            right.minorticks_off()
        _legend(canvas, left, right)
        svg, png = draw(canvas, "spread_and_power")
    caption = (
        "Left: distribution of the rms delay spread over all channels of a condition, drawn to its 99th percentile "
        f"(the largest is {np.nanmax(rows.delay_spread_ns):,.0f} ns); markers: median and 90th percentile. Right: "
        "received power relative to the transmitted power over the distance to the base station: median (markers) and "
        "the range from the 10th to the 90th percentile (shade) of all channels in a distance bin; dotted: free space. "
        "Kept paths only."
    )
    words = []
    for name, own in _own_rows(view):
        spread, power = np.median(rows.delay_spread_ns[own]), 10 * np.log10(np.median(rows.power[own]))
        words.append(f"{name}: median delay spread {spread:.0f} ns, median received power {power:.1f} dB.")
    data = pd.concat(tables, ignore_index=True)
    return Figure(
        "spread_and_power", caption, "Delay spread and received power. " + " ".join(words), svg, png, as_csv(data)
    )


# ------------------------------------------------------------------------------------------------- data


def _own_rows(view: SiteView) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each condition that occurs, and its rows that have a path, [S, L]."""
    for index, name in enumerate(_NAMES):
        own = (view.rows.condition == index) & view.rows.has_path
        if own.any():
            yield name, own


def _distance(view: SiteView) -> NDArray[np.float64]:
    """Distance of every user to the base station in metres, [L]."""
    away = view.rows.position_m.astype(np.float64) - np.asarray(view.site.base_station_m)
    result: NDArray[np.float64] = np.sqrt((away**2).sum(-1))
    return result


def power_over_distance(view: SiteView, own: NDArray[np.bool_]) -> pd.DataFrame:
    """Median, 10th and 90th percentile of the received power of some rows, by the distance of their users.

    Args:
        view: the site.
        own: which rows take part, [S, L].

    Returns:
        distance_m (median of the bin's rows), rows, median_db, p10_db, p90_db; bins of fewer than 5 rows are left out
        unless no bin has more.
    """
    place = np.broadcast_to(_distance(view), own.shape)[own]
    power = 10 * np.log10(view.rows.power[own].astype(np.float64))
    everywhere = _distance(view)
    edges = np.geomspace(max(everywhere.min(), 1e-3), everywhere.max() * (1 + 1e-9) + 1e-9, _DISTANCE_BINS + 1)
    number = np.clip(np.searchsorted(edges, place, side="right") - 1, 0, _DISTANCE_BINS - 1)
    grouped = pd.DataFrame({"bin": number, "distance_m": place, "power": power}).groupby("bin")
    table = pd.DataFrame(
        {
            "distance_m": grouped["distance_m"].median(),
            "rows": grouped.size(),
            "median_db": grouped["power"].median(),
            "p10_db": grouped["power"].quantile(0.1),
            "p90_db": grouped["power"].quantile(0.9),
        }
    ).reset_index(drop=True)
    enough = table["rows"] >= _LEAST_ROWS
    return table[enough].reset_index(drop=True) if enough.any() else table


def free_space_db(distance_m: NDArray[np.float64], carrier_hz: float) -> NDArray[np.float64]:
    """Received power between isotropic antennas in free space, relative to the transmitted."""
    result: NDArray[np.float64] = 20 * np.log10(speed_of_light / carrier_hz / (4 * np.pi * distance_m))
    return result


def _folded_ns(profile: Profile) -> float:
    return profile.strongest_bin / profile.bandwidth_hz * 1e9


def _profile_row(channel: ExampleChannel, profile: Profile) -> dict[str, object]:
    beam, bin_number = np.unravel_index(int(profile.power.argmax()), profile.power.shape)
    return {
        "condition": _NAMES[channel.condition], "scene": channel.scene, "position": channel.position,
        "bandwidth_mhz": profile.bandwidth_hz / 1e6, "strongest_delay_ns": _folded_ns(profile),
        "strongest_beam": channel.beam, "peak_delay_ns": int(bin_number) / profile.bandwidth_hz * 1e9,
        "peak_beam": int(beam), "folded_power": profile.folded,
    }  # fmt: skip


def _percent(share: float) -> str:
    """Whole per cent; what is there is never 0 % and what is missing never 100 %."""
    if 0 < share < 0.005:
        return "less than 1 %"
    return f"{min(share, 0.99) if share < 1 else share:.0%}".replace("%", " %")


def _channel_words(channel: ExampleChannel) -> str:
    x, y, _ = channel.position_m
    return (
        f"{_NAMES[channel.condition]} scene {channel.scene}, position {channel.position} (x {x:.1f} m, y {y:.1f} m), "
        f"{channel.power_db:.1f} dB, strongest path at {channel.strongest_delay_ns:,.0f} ns"
    ).replace("-", "−")


# ------------------------------------------------------------------------------------------------- drawing


def _draw_profile(axis: Axes, profile: Profile, channel: ExampleChannel) -> AxesImage:
    power = profile.power.astype(np.float64)
    decibel = 10 * np.log10(np.maximum(power / power.max(), 1e-12))
    beams, bins = power.shape
    step = 1e9 / profile.bandwidth_hz
    image = axis.imshow(
        decibel, cmap="viridis", vmin=_FLOOR_DB, vmax=0, origin="lower", aspect="auto", interpolation="none",
        extent=(-step / 2, (bins - 0.5) * step, -0.5, beams - 0.5),
    )  # fmt: skip
    # A white ring on a black one stands out from every colour of the image.
    for colour, width in (("black", 2.4), ("white", 1.0)):
        axis.plot(
            [_folded_ns(profile)], [channel.beam], marker="o", markersize=9, fillstyle="none", linestyle="none",
            color=colour, markeredgewidth=width,
        )  # fmt: skip
    axis.grid(visible=False)
    axis.set_yticks([0, beams // 4, beams // 2, 3 * beams // 4, beams - 1])
    axis.locator_params(axis="x", nbins=4)
    return image


def _legend(canvas: Canvas, *axes: Axes) -> None:
    handles = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    canvas.legend(
        [handle for handle, _ in handles], [label for _, label in handles], loc="outside upper left", ncols=4,
        frameon=False, handlelength=3.4, columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip
