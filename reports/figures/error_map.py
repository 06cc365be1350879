"""Position errors over the street."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from reports.drawing import Figure, as_csv, drawing
from reports.figures.common import (
    Missing,
    errors_by_cell,
    grey_readable,
    join,
    left_out,
    legend,
    mean_of,
    mean_words,
    panels,
    reference,
    seeds_words,
    sentences,
    shortened,
    untrained_words,
    weights_words,
    without_mean,
)
from reports.figures.street import Street, site_of, street_of
from reports.results import Results, StudyCell
from reports.tables import distance_decimals

__all__ = ["error_map"]

_MAX_MAPS = 6
_COLUMNS = ["position", "x_m", "y_m", "error_m"]
_TOP_SHARE = 0.98


@dataclass(frozen=True)
class _Map:
    """One method: RMSE at each position over scenes and seeds; places [L, 2]."""

    cell: StudyCell
    runs: int
    position: NDArray[np.int64]
    place: NDArray[np.float64]
    rmse: NDArray[np.float64]
    samples: NDArray[np.int64]

    @property
    def overall(self) -> float:
        """RMSE over all samples."""
        return float(np.sqrt(np.average(self.rmse**2, weights=self.samples)))


def error_map(results: Results) -> Figure | Missing:
    """The RMSE at each position over test scenes and seeds, a map for each method, one colour scale."""
    name, cells, several = _configuration(results)
    maps = [
        found
        for cell, stored in errors_by_cell(results, without_mean(cells), _COLUMNS)
        if (found := _map(cell, [table for _, table in stored])) is not None
    ]
    untrained = untrained_words({"": cells}, "error_m")
    if not maps:
        return Missing(
            "error_map",
            "no errors of test samples with their positions are stored (errors/) of trials that learn to locate",
        )
    maps, more = _fitting(maps)
    site = site_of(results)
    street = street_of(np.concatenate([item.place for item in maps]), len(maps), site)
    trained = [item for item in maps if not reference(item.cell.method)] or maps
    top = float(np.quantile(np.concatenate([item.rmse for item in trained]), _TOP_SHARE)) or 1.0
    scale = Normalize(0.0, top)
    decimals = distance_decimals(results)
    with drawing() as draw:
        titles = [f"{shortened(item.cell.method)}, RMSE {item.overall:.{decimals}f} m" for item in maps]
        canvas, axes = street.canvas(titles, site, below=0.5)
        for item, strips in zip(maps, axes, strict=True):
            for axis in strips:
                _draw_users(axis, street, item, scale)
        _colour_bar(canvas, scale, beyond=any(item.rmse.max() > top for item in maps))
        legend(canvas, axes[0])
        svg, png = draw(canvas, "error_map")
    where = f" ({name}{', the configuration of the lowest error' if several else ''})" if name else ""
    caption = (
        (
            f"RMSE of localization at each position of the street over the test scenes and "
            f"{seeds_words((item.cell for item in trained), (item.runs for item in trained))}, a map for each "
            f"method{where}; darker is worse. One colour scale for all, up to the {_TOP_SHARE:.0%} quantile of the "
            f"trained methods{_beyond(maps, top, decimals)}."
        ).replace("%", " %")
        + mean_words(cells)
        + untrained
        + weights_words(results)
        + left_out(more, "method")
    )
    alt = f"Position errors over the street{where}. " + sentences(
        f"{item.cell.method}: median position {np.median(item.rmse):.{decimals}f} m, worst "
        f"{item.rmse.max():.{decimals}f} m at x {item.place[item.rmse.argmax(), 0]:.0f} m, "
        f"y {item.place[item.rmse.argmax(), 1]:.0f} m"
        for item in maps
    )
    data = pd.concat(
        [
            pd.DataFrame(
                {"configuration": name, "method": item.cell.method, "position": item.position,
                 "x_m": item.place[:, 0], "y_m": item.place[:, 1], "rmse_m": item.rmse, "samples": item.samples}
            )
            for item in maps
        ],
        ignore_index=True,
    )  # fmt: skip
    return Figure("error_map", caption, alt, svg, png, as_csv(data))


# ------------------------------------------------------------------------------------------------- data


def _configuration(results: Results) -> tuple[str, list[StudyCell], bool]:
    """Name and cells of the configuration of the lowest test RMSE; whether there are several."""
    shown, _ = panels(results, most=None)
    best: tuple[float, str] | None = None
    for name, cells in shown.items():
        for cell in cells:
            mean = mean_of(cell, "test_rmse_m")
            if not reference(cell.method) and mean is not None and (best is None or mean < best[0]):
                best = (mean, name)
    name = best[1] if best is not None else next(iter(shown), "")
    return name, shown.get(name, []), len(shown) > 1


def _map(cell: StudyCell, tables: Sequence[pd.DataFrame]) -> _Map | None:
    sums: pd.DataFrame | None = None
    runs = 0
    for table in tables:
        numbers = table[["x_m", "y_m", "error_m"]].to_numpy(dtype=np.float64, na_value=np.nan)
        good = (np.abs(numbers) < 1e7).all(1) & table["position"].notna().to_numpy()
        if not good.any():
            continue
        own = pd.DataFrame(
            {"x": numbers[good, 0], "y": numbers[good, 1], "square": numbers[good, 2] ** 2, "samples": 1},
            index=table["position"].to_numpy()[good].astype(np.int64),
        )
        own = own.groupby(level=0).sum()
        sums = own if sums is None else sums.add(own, fill_value=0.0)
        runs += 1
    if sums is None:
        return None
    count = sums["samples"].to_numpy()
    return _Map(
        cell, runs, sums.index.to_numpy(), sums[["x", "y"]].to_numpy() / count[:, None],
        np.sqrt(sums["square"].to_numpy() / count), count.astype(np.int64),
    )  # fmt: skip


def _fitting(maps: Sequence[_Map]) -> tuple[list[_Map], list[str]]:
    """Trained methods before references when there is no room for all; what is left out, by name."""
    ranked = sorted(maps, key=lambda item: reference(item.cell.method))[:_MAX_MAPS]
    shown = [item for item in maps if item in ranked]
    return shown, [item.cell.method for item in maps if item not in ranked]


# ------------------------------------------------------------------------------------------------- drawing


def _draw_users(axis: Axes, street: Street, item: _Map, scale: Normalize) -> None:
    """A layer of images: thousands of squares would make the page heavy. Worse ones lie above."""
    order = np.argsort(item.rmse, kind="stable")
    axis.scatter(
        item.place[order, 0], item.place[order, 1], s=(1.1 * street.marker_points) ** 2, c=item.rmse[order],
        cmap=grey_readable(), norm=scale, marker="s", linewidths=0, zorder=3, rasterized=True,
    )  # fmt: skip


def _colour_bar(canvas: Canvas, scale: Normalize, *, beyond: bool) -> None:
    from matplotlib.cm import ScalarMappable

    height = canvas.get_figheight()
    axis = canvas.add_axes((0.3, 0.36 / height, 0.4, 0.1 / height))
    bar = canvas.colorbar(
        ScalarMappable(scale, grey_readable()),
        cax=axis,
        orientation="horizontal",
        extend="max" if beyond else "neither",
    )
    bar.solids.set_rasterized(True)  # type: ignore[union-attr]
    bar.outline.set_linewidth(0.5)
    bar.set_label("RMSE at a position [m]")
    axis.grid(visible=False)


def _beyond(maps: Sequence[_Map], top: float, decimals: int) -> str:
    over = [item for item in maps if item.rmse.max() > top]
    if not over:
        return ""
    return f" ({top:.{decimals}f} m); beyond it lie positions of {join([item.cell.method for item in over])}"
