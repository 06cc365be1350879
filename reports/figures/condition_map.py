"""Fig. 3: true and predicted propagation conditions in the street."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from reports.drawing import INK, Figure, as_csv, drawing
from reports.figures.common import (
    Missing,
    legend,
    mean_of,
    mean_words,
    panels,
    predicting,
    shortened,
    trained_for,
    untrained_words,
    weights_words,
)
from reports.figures.street import Street, site_of, street_of
from reports.results import Results, StudyCell, Trial
from reports.site_map import CONDITION_COLOURS

__all__ = ["condition_map"]

_COLUMNS = ["scene", "position", "x_m", "y_m", "x_hat_m", "y_hat_m", "condition", "condition_hat"]
# As on the page of a site; what is not line of sight is one class where a study has two.
_LOOKS: Mapping[str, tuple[str, str]] = {
    "LOS": (CONDITION_COLOURS["LOS"], "o"),
    "DNLOS": (CONDITION_COLOURS["DNLOS"], "^"),
    "SNLOS": (CONDITION_COLOURS["SNLOS"], "s"),
    "NLOS": (CONDITION_COLOURS["DNLOS"], "^"),
}
_OTHER_LOOKS = (("#56b4e9", "D"), ("#009e73", "v"), ("#e69f00", "P"))


@dataclass(frozen=True)
class _Scene:
    """One test scene of one trial: ``table`` has a row for each user."""

    configuration: str
    trial: Trial
    scene: int
    accuracy: float
    classes: tuple[str, ...]
    all_occur: bool
    table: pd.DataFrame


def condition_map(results: Results) -> Figure | Missing:
    """True beside predicted conditions of one test scene, for the best method that predicts them."""
    methods = predicting(results)
    if not methods:
        return Missing(
            "condition_map", "no method of the study is trained to predict propagation conditions, or none has finished"
        )
    chosen = _choose(results, methods)
    if chosen is None:
        return Missing("condition_map", "no predicted conditions of test samples are stored (errors/)")
    site = site_of(results)
    table, method = chosen.table, chosen.trial.method
    street = street_of(table[["x_m", "y_m"]].to_numpy(dtype=np.float64), 2, site)
    wrong = (table["condition"] != table["condition_hat"]).to_numpy()
    with drawing() as draw:
        canvas, maps = street.canvas(["True conditions", f"Predicted by {shortened(method)}"], site)
        for strips, column in zip(maps, ("condition", "condition_hat"), strict=True):
            for axis in strips:
                _draw_users(axis, street, table, table[column].to_numpy(), chosen.classes)
                if column == "condition_hat":
                    _draw_wrong(axis, street, table[wrong])
        legend(canvas, [axis for strips in reversed(maps) for axis in strips], [*chosen.classes, "wrong prediction"])
        svg, png = draw(canvas, "condition_map")
    counts = {
        name: [int((table[column] == number).sum()) for column in ("condition", "condition_hat")]
        for number, name in enumerate(chosen.classes)
    }
    caption = (
        f"The street from above in test scene {chosen.scene}: true conditions and those that {method} predicted "
        f"(seed {chosen.trial.seed}{f', {chosen.configuration}' if chosen.configuration else ''}), both at the true "
        f"places of the users. Rings: wrong predictions, {int(wrong.sum())} of {len(table)}. The scene is the one of "
        f"median accuracy ({chosen.accuracy:.1%}) among the test scenes"
        f"{' in which every condition occurs' if chosen.all_occur else ''}; {method} is "
        f"{'the method with self-learned weights' if method == 'HDA' else 'the most accurate method'}, of its seeds "
        f"the one of median accuracy{' in its most accurate configuration' if chosen.configuration else ''}."
    ).replace("%", " %")
    if method != "HDA":  # with HDA in it, no other method was a candidate
        shown = panels(results)[0]
        caption += mean_words(cell for cells in shown.values() for cell in cells) if method != "MEAN" else ""
        caption += untrained_words(shown, "test_accuracy")
    caption += weights_words(results, [method])
    alt = (
        f"Conditions of {len(table)} users in test scene {chosen.scene}, true and predicted by {method}: "
        + ", ".join(f"{name} {true} and {predicted}" for name, (true, predicted) in counts.items())
        + f"; {int(wrong.sum())} predictions are wrong."
    )
    names = dict(enumerate(chosen.classes))
    data = table.assign(
        configuration=chosen.configuration, method=method, seed=chosen.trial.seed,
        condition=table["condition"].map(names), condition_hat=table["condition_hat"].map(names),
    )[["configuration", "method", "seed", *_COLUMNS]]  # fmt: skip
    return Figure("condition_map", caption, alt, svg, png, as_csv(data))


# ------------------------------------------------------------------------------------------------- choice


def _choose(results: Results, methods: Sequence[str]) -> _Scene | None:
    """HDA, or the most accurate method; its most accurate configuration; its seed and scene of median accuracy."""
    for name, cell in _ranked(results, methods):
        done = sorted(
            ((accuracy, trial.seed, trial) for trial in trained_for(cell.done, "test_accuracy")
             if (accuracy := trial.number("test_accuracy")) is not None),
            key=lambda entry: entry[:2],
        )  # fmt: skip
        # The median first; should its samples not be stored, the others.
        middle = (len(done) - 1) // 2
        for _, _, trial in sorted(done, key=lambda entry: abs(done.index(entry) - middle)):
            table = results.errors(trial.key, _COLUMNS)
            scene = None if table is None else _scene(name, trial, table)
            if scene is not None:
                return scene
    return None


def _ranked(results: Results, methods: Sequence[str]) -> list[tuple[str, StudyCell]]:
    """At most one cell of each method, best first; MEAN, which answers every sample alike, after all others."""
    best: dict[str, tuple[float, str, StudyCell]] = {}
    for name, cells in panels(results, most=None)[0].items():
        for cell in cells:
            accuracy = mean_of(cell, "test_accuracy")
            if accuracy is not None and (cell.method not in best or accuracy > best[cell.method][0]):
                best[cell.method] = (accuracy, name, cell)
    order = sorted(
        best, key=lambda method: (method != "HDA", method == "MEAN", -best[method][0], methods.index(method))
    )
    return [best[method][1:] for method in order]


def _scene(name: str, trial: Trial, table: pd.DataFrame) -> _Scene | None:
    classes = tuple(str(item) for item in trial.row.get("classes") or ()) or tuple(CONDITION_COLOURS)
    numbers = table[["x_m", "y_m"]].to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(numbers).all(1) & (np.abs(numbers) < 1e7).all(1)
    for column in ("condition", "condition_hat"):
        known &= table[column].between(0, len(classes) - 1).fillna(value=False).to_numpy(dtype=bool)
    table = table[known & table["scene"].notna().to_numpy()]
    if table.empty:
        return None
    grouped = table.assign(right=table["condition"] == table["condition_hat"]).groupby("scene")
    accuracy, occurring = grouped["right"].mean(), grouped["condition"].nunique()
    full = occurring == table["condition"].nunique()
    candidates = accuracy[full] if full.any() else accuracy
    ordered = candidates.sort_values(kind="stable")
    scene = ordered.index[(len(ordered) - 1) // 2]
    return _Scene(
        name, trial, int(scene), float(ordered[scene]), classes, bool(full.any()),
        table[table["scene"] == scene].sort_values("position"),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- drawing


def _draw_users(
    axis: Axes, street: Street, table: pd.DataFrame, conditions: np.ndarray, classes: Sequence[str]
) -> None:
    """A layer of images: thousands of shapes would make the page heavy."""
    size = street.marker_points
    for number, name in enumerate(classes):
        own = table[conditions == number]
        colour, marker = _LOOKS.get(name, _OTHER_LOOKS[number % len(_OTHER_LOOKS)])
        area = (1.15 * size if marker == "^" else 0.92 * size if marker == "s" else size) ** 2
        axis.scatter(
            own["x_m"], own["y_m"], s=area, c=colour, marker=marker, linewidths=0, zorder=3, rasterized=True,
            label=shortened(name),
        )  # fmt: skip


def _draw_wrong(axis: Axes, street: Street, wrong: pd.DataFrame) -> None:
    size = street.marker_points
    axis.scatter(
        wrong["x_m"], wrong["y_m"], s=(1.25 * size + 1.8) ** 2, facecolors="none", edgecolors=INK,
        linewidths=float(np.clip(0.2 * size, 0.5, 0.9)), zorder=4, rasterized=True, label="wrong prediction",
    )  # fmt: skip
