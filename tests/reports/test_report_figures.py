"""The figures of a report: what they show is what the study stored, and what cannot be shown says why."""

from __future__ import annotations

import io
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot
from store_factory import Store, full_study, spec

from reports.comparison import interval_of
from reports.drawing import WIDTH, Figure
from reports.figures import FIGURES, Missing, method_colours
from reports.figures.bars import _Entry, _scale
from reports.figures.cdf import _quantiles
from reports.figures.common import MAX_RUNS
from reports.figures.street import Site, site_of, street_of
from reports.results import Results, load_results
from reports.statistics import Interval
from study.spec.model import FigureName
from study.store import ERROR_SCHEMA

CLASSES = ["LOS", "DNLOS", "SNLOS"]
SCENES, POSITIONS = 6, 12
BOXES = [{"name": "house", "material": "brick", "box": [-5.0, 20.0, 6.0, 30.0, 0.0, 9.0]}]


def add_samples(store: Store, key: str, *, predicts: bool = True, classes: list[str] = CLASSES) -> pd.DataFrame:
    """Replace the test samples of a trial by ones of a street, and its row by what follows from them."""
    random = np.random.default_rng(int(key, 16) % 2**32)
    scene, position = (grid.ravel() for grid in np.meshgrid(range(SCENES), range(POSITIONS), indexing="ij"))
    x, y = 10.0 * (position % 6), 1.6 * (position // 6)
    error = random.gamma(1.5, 4.0, scene.size)
    condition = (scene + position) % len(classes)
    guessed = np.where(random.random(scene.size) < 0.7, condition, random.integers(0, len(classes), scene.size))
    columns = {
        "key": [key] * scene.size, "scene": scene, "position": position, "x_m": x, "y_m": y, "x_hat_m": x + error,
        "y_hat_m": y, "error_m": error, "condition": condition,
        "condition_hat": guessed if predicts else np.full(scene.size, -1),
    }  # fmt: skip
    table = pa.table({name: pa.array(columns[name]).cast(ERROR_SCHEMA.field(name).type) for name in ERROR_SCHEMA.names})
    pq.write_table(table, store.folder / "errors" / f"{key}.parquet")
    changes: dict[str, Any] = {"test_rmse_m": float(np.sqrt(np.mean(error**2)))}
    if predicts:
        counts = np.zeros((len(classes), len(classes)), dtype=int)
        np.add.at(counts, (condition, guessed), 1)
        changes |= {"classes": classes, "confusion": counts.ravel().tolist()}
        changes["test_accuracy"] = float(np.mean(condition == guessed))
    change_row(store, key, changes)
    return table.to_pandas()


def change_row(store: Store, key: str, changes: Mapping[str, Any]) -> None:
    path = store.folder / "trials" / f"{key}.parquet"
    table = pq.read_table(path)
    row = table.to_pylist()[0] | changes
    pq.write_table(pa.Table.from_pylist([row], schema=table.schema), path)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study of two normalizations with test samples of a street and a described site."""
    folder = tmp_path_factory.mktemp("street") / "study"
    axes = {"method": ["DCNN", "MDA", "HDA"], "system.normalization": ["antenna", "none"]}
    base = {"network": {"preset": "small"}, "training": {"epochs": 12}}
    store = Store(folder, spec(base=base, axes=axes, seeds=2, search=[], references=["MEAN", "KNN"]))
    site = json.loads((folder / "site.json").read_text())
    site |= {"static_boxes": BOXES, "base_station_m": [3.0, 5.0, 6.0]}
    (folder / "site.json").write_text(json.dumps(site))
    for normalization in ("antenna", "none"):
        for method in ("MEAN", "KNN", "DCNN", "MDA", "HDA"):
            for seed in range(1 if method in ("MEAN", "KNN") else 2):
                key = store.add(method, seed, system={"normalization": normalization}, epochs=12)
                add_samples(store, key, predicts=method != "DCNN")
    return store


@pytest.fixture(scope="module")
def results(street: Store) -> Results:
    return load_results(street.folder)


@pytest.fixture(scope="module")
def drawn(results: Results) -> dict[str, Figure]:
    figures = {name: draw(results) for name, draw in FIGURES.items() if name != "lambda_sweep"}
    assert all(isinstance(figure, Figure) for figure in figures.values()), figures
    return {name: figure for name, figure in figures.items() if isinstance(figure, Figure)}


def data_of(figure: Figure | Missing) -> Any:
    assert isinstance(figure, Figure), figure
    return pd.read_csv(io.StringIO(figure.data), keep_default_na=False, na_values=[""])


def samples_of(results: Results, method: str, normalization: str = "antenna") -> pd.DataFrame:
    """All stored test samples of one cell, straight from its files."""
    keys = [
        trial.key
        for cell in results.cells
        if cell.method == method and cell.axes["system.normalization"] == normalization
        for trial in cell.done
    ]
    assert keys
    return pd.concat([pq.read_table(results.folder / "errors" / f"{key}.parquet").to_pandas() for key in keys])


# --- All of them ----------------------------------------------------------------------------------------------------


def test_every_name_of_a_spec_is_a_figure() -> None:
    assert tuple(FIGURES) == get_args(FigureName)


def test_figures_are_well_formed_in_the_colours_of_their_methods(drawn: dict[str, Figure], results: Results) -> None:
    for name, figure in drawn.items():
        assert figure.name == name
        assert ET.fromstring(figure.svg).tag.endswith("svg")
        assert figure.png.startswith(b"\x89PNG")
        assert figure.caption.endswith(".")
        assert figure.alt_text.endswith(".")
        assert len(data_of(figure)) > 3
        assert len(figure.svg) < 400_000
    colours = method_colours(results.methods)
    for name in ("cdf", "bars", "learning_curves"):
        assert colours["HDA"] in drawn[name].svg
        assert colours["DCNN"] in drawn[name].svg
    assert pyplot.get_fignums() == []  # nothing is left in the state of pyplot


@pytest.mark.parametrize("name", ["condition_map", "confusion", "bars"])
def test_drawing_twice_gives_the_same(name: str, drawn: dict[str, Figure], results: Results) -> None:
    assert FIGURES[name](results) == drawn[name]


def test_without_data_every_figure_says_why(folder: Path) -> None:
    store = Store(folder, spec(search=[], references=[]))
    store.add("DCNN", 0, details=False, test_rmse_m=math.nan)
    for name, draw in FIGURES.items():
        found = draw(load_results(folder))
        assert isinstance(found, Missing), name
        assert found.name == name
        assert len(found.reason) > 20


def test_more_configurations_than_panels_are_named(folder: Path) -> None:
    full_study(folder, paths=tuple(range(5, 13)), seeds=1, references=[])
    results = load_results(folder)
    for name in ("lambda_sweep", "cdf"):
        figure = FIGURES[name](results)
        assert isinstance(figure, Figure)
        assert "Not shown: 2 further configurations (Paths 11; Paths 12)" in figure.caption
    assert len(data_of(FIGURES["bars"](results)).query("method == 'HDA'")) == 2 * 8  # on one axis there is room for 8


def test_more_seeds_than_are_read_are_told(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN"]}, search=[], references=[], claims=[], seeds=MAX_RUNS + 3))
    for seed in range(MAX_RUNS + 3):
        store.add("DCNN", seed)
    results = load_results(folder)
    for name in ("cdf", "learning_curves", "error_map"):
        figure = FIGURES[name](results)
        assert isinstance(figure, Figure)
        assert f"{MAX_RUNS} seeds (the first {MAX_RUNS} of {MAX_RUNS + 3})" in figure.caption
    assert data_of(FIGURES["error_map"](results))["samples"].sum() == MAX_RUNS * 600


# --- Each of them ---------------------------------------------------------------------------------------------------


def test_the_cdf_holds_the_quantiles_of_the_pooled_errors(drawn: dict[str, Figure], results: Results) -> None:
    data = data_of(drawn["cdf"]).query("method == 'HDA' and configuration == 'Normalization none'").set_index("share")
    pooled = samples_of(results, "HDA", "none")["error_m"]
    for share in (0.0, 0.5, 0.9, 1.0):
        assert data.loc[share, "error_m"] == pytest.approx(pooled.quantile(share))
    assert "1 % reaches up to" in drawn["cdf"].caption


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[float], share: float) -> None:
    ordered = np.sort(np.asarray(values, dtype=np.float32))
    expected = np.quantile(ordered.astype(np.float64), share)
    assert _quantiles(ordered, np.array([share]))[0] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_confusions_are_the_stored_counts_of_all_seeds(drawn: dict[str, Figure], results: Results) -> None:
    data = data_of(drawn["confusion"])
    assert set(data["method"]) == {"KNN", "MDA", "HDA"}  # MEAN answers all alike, DCNN does not predict
    assert data.groupby(["configuration", "method", "true"])["share_of_true"].sum().to_numpy() == pytest.approx(1.0)
    samples = samples_of(results, "HDA")
    for row in data.query("method == 'HDA' and configuration == 'Normalization antenna'").itertuples():
        chosen = samples[(samples["condition"] == CLASSES.index(row.true))]
        assert row.samples == (chosen["condition_hat"] == CLASSES.index(row.predicted)).sum()
        assert row.share_of_true == pytest.approx(row.samples / len(chosen))


def test_a_class_that_did_not_occur_has_no_recall(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["HDA"]}, search=[], references=[], claims=[], seeds=1))
    key = store.add("HDA", 0)
    change_row(store, key, {"classes": CLASSES, "confusion": [5, 1, 0, 2, 4, 0, 0, 0, 0]})
    figure = FIGURES["confusion"](load_results(folder))
    assert isinstance(figure, Figure)
    assert "SNLOS did not occur" in figure.alt_text
    assert data_of(figure).query("true == 'SNLOS'")["share_of_true"].isna().all()


def test_the_map_shows_the_scene_that_it_says(drawn: dict[str, Figure], results: Results) -> None:
    figure = drawn["condition_map"]
    data = data_of(figure)
    assert len(data) == POSITIONS
    assert set(data["method"]) == {"HDA"}
    (seed,), (scene,), (name,) = (set(data[column]) for column in ("seed", "scene", "configuration"))
    cells = {cell.label(): cell for cell in results.cells if cell.method == "HDA"}
    means = {label: np.mean([trial.number("test_accuracy") for trial in cell.done]) for label, cell in cells.items()}
    assert means[name] == max(means.values())
    (trial,) = (trial for trial in cells[name].done if trial.seed == seed)
    samples = pq.read_table(results.folder / "errors" / f"{trial.key}.parquet").to_pandas()
    right = samples["condition"] == samples["condition_hat"]
    ordered = right.groupby(samples["scene"]).mean().sort_values(kind="stable")
    assert scene == ordered.index[(len(ordered) - 1) // 2]
    wrong = int((data["condition"] != data["condition_hat"]).sum())
    assert wrong == int((~right[samples["scene"] == scene]).sum())
    assert f"test scene {scene}" in figure.caption
    assert f"wrong predictions, {wrong} of {POSITIONS}" in figure.caption
    assert "base station" in figure.svg


def test_errors_are_those_of_each_position(drawn: dict[str, Figure], results: Results) -> None:
    data = data_of(drawn["error_map"])
    assert "MEAN" not in set(data["method"])
    normalization = data["configuration"].unique().item().rpartition(" ")[2]
    lowest = min(
        (interval.mean, cell.axes["system.normalization"])
        for cell in results.cells
        if cell.method in ("DCNN", "MDA", "HDA") and (interval := interval_of(cell.done, "test_rmse_m")) is not None
    )
    assert normalization == lowest[1]
    samples = samples_of(results, "MDA", normalization)
    expected = samples.assign(square=samples["error_m"].astype(float) ** 2).groupby("position")["square"].mean() ** 0.5
    own = data.query("method == 'MDA'").set_index("position")
    assert own["rmse_m"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-6)
    assert (own["samples"] == 2 * SCENES).all()


def test_learned_weights_are_standard_deviations(drawn: dict[str, Figure], results: Results) -> None:
    data = data_of(drawn["learning_curves"]).query("configuration == 'Normalization antenna'")
    (cell,) = (c for c in results.cells if c.method == "HDA" and c.axes["system.normalization"] == "antenna")
    stored = [pq.read_table(results.folder / "epochs" / f"{trial.key}.parquet").to_pandas() for trial in cell.done]
    for series, column in (("sigma_position", "log_var_position"), ("sigma_condition", "log_var_condition")):
        own = data.query(f"method == 'HDA' and series == '{series}'")
        sigma = np.exp(np.stack([table[column] for table in stored]) / 2)
        assert own["mean"].to_numpy() == pytest.approx(sigma.mean(0))
        assert own["lowest"].to_numpy() == pytest.approx(sigma.min(0))
    assert "sigma_position" not in set(data.query("method == 'MDA'")["series"])
    assert set(data["method"]) == {"DCNN", "MDA", "HDA"}
    best = data.query("method == 'HDA' and series == 'best_epoch'")
    assert sorted(best["epoch"]) == sorted(trial.row["best_epoch"] for trial in cell.done)


def test_bars_are_the_means_and_intervals_of_the_cells(drawn: dict[str, Figure], results: Results) -> None:
    data = data_of(drawn["bars"]).set_index(["value", "method", "metric"])
    for cell in results.cells:
        for metric, bounds in (("test_rmse_m", (0.0, math.inf)), ("test_accuracy", (0.0, 1.0))):
            interval = interval_of(cell.done, metric, bounds)
            place = (cell.axes["system.normalization"], cell.method, metric)
            assert (place in data.index) == (interval is not None)
            if interval is not None:
                row = data.loc[place]
                assert (row["mean"], row["n"]) == (pytest.approx(interval.mean), interval.n)
                if interval.low is not None:
                    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_a_method_that_does_not_read_the_axis_is_a_line(folder: Path) -> None:
    axes = {"method": ["DCNN", "HDA"], "objective.knowledge_transfer": [True, False]}
    store = Store(folder, spec(axes=axes, search=[], references=[], claims=[], seeds=2))
    for seed in range(2):
        store.add("DCNN", seed)
        for transfer in (True, False):
            store.add("HDA", seed, objective={"knowledge_transfer": transfer})
    figure = FIGURES["bars"](load_results(folder))
    assert isinstance(figure, Figure)
    data = data_of(figure)
    assert data.query("method == 'DCNN'")["value"].isna().all()
    assert set(data.query("method == 'HDA'")["value"]) == {"yes", "no"}
    assert "Horizontal lines: DCNN" in figure.caption


def test_weights_on_an_axis_make_no_panels(folder: Path) -> None:
    """Of eleven λ the cell that validation selected is shown, as it is with a search."""
    axes = {"method": ["DCNN", "MDA"], "objective.lambda": [0.2, 0.5, 1.0], "system.paths": [10, 25]}
    store = Store(folder, spec(axes=axes, search=[], references=[], claims=[], seeds=2))
    for paths in (10, 25):
        for seed in range(2):
            store.add("DCNN", seed, system={"paths": paths})
            for weight in (0.2, 0.5, 1.0):
                lowest = (weight == 0.5) == (paths == 25)
                store.add(
                    "MDA", seed, system={"paths": paths}, objective={"lambda": weight}, test_rmse_m=7.0 + weight,
                    validation_rmse_m=5.0 + weight + (0 if lowest else 10),
                )  # fmt: skip
    results = load_results(folder)
    data = data_of(FIGURES["cdf"](results))
    assert set(data["configuration"]) == {"Paths 10", "Paths 25"}
    assert (data.groupby(["configuration", "method"]).size() == 101).all()
    figure = FIGURES["bars"](results)
    own = data_of(figure).query("method == 'MDA' and metric == 'test_rmse_m'").set_index("value")["mean"]
    assert own.to_dict() == pytest.approx({10: 7.2, 25: 7.5})
    assert isinstance(figure, Figure)
    told = "the one that the validation metric selected (MDA: λ = 0.2 with Paths 10; MDA: λ = 0.5 with Paths 25)."
    assert told in figure.caption


def test_a_search_over_several_settings_is_drawn(folder: Path) -> None:
    space = {"objective.lambda": {"grid": [0.0, 1.0, 0.5]}, "objective.gamma": {"float": [0.0, 5.0]}}
    search = {"when": {"method": "MDA"}, "space": space, "sampler": "tpe", "trials": 6, "seeds": 1}
    store = Store(folder, spec(search=[search]))
    for weight in (0.0, 0.5, 1.0):
        for gamma in (1.0, 2.5):
            store.add("MDA", 0, objective={"lambda": weight, "gamma": gamma})
    data = data_of(FIGURES["lambda_sweep"](load_results(folder))).query("metric == 'validation_rmse_m'")
    assert sorted(data["lambda"].dropna()) == [0.5, 0.5, 1.0, 1.0]  # λ = 0 trains no position


def test_the_ring_of_an_end_point_is_whole(folder: Path) -> None:
    """λ = 1 lies on the edge of the axes; what is cut off there has a clip path."""
    store = Store(folder, spec(seeds=1))
    for step in range(11):
        weight = round(0.1 * step, 10)
        store.add("MDA", 0, objective={"lambda": weight, "gamma": 2.0}, validation_rmse_m=9.0 - weight)
    figure = FIGURES["lambda_sweep"](load_results(folder))
    assert isinstance(figure, Figure)
    assert "selected λ = 1" in figure.alt_text
    svg = "{http://www.w3.org/2000/svg}"
    marked = [group for group in ET.fromstring(figure.svg).iter(f"{svg}g") if group.find(f"{svg}use") is not None]
    outline = re.search(r'<path id="([^"]+)" d="M 0 5 \s*C', figure.svg)  # of a circle of 10 points
    assert outline is not None
    link = "{http://www.w3.org/1999/xlink}href"
    rings = [group for group in marked if any(use.get(link) == f"#{outline[1]}" for use in group.iter(f"{svg}use"))]
    assert len(rings) == 1 + 2  # in the legend and both panels of errors; λ = 1 trains no conditions
    assert all(group.get("clip-path") is None for group in rings)


# --- What was not trained -------------------------------------------------------------------------------------------


def one_weight(folder: Path, weight: float) -> Results:
    """DCNN, KNN and MEAN beside MDA of one λ, with test samples; MEAN has the highest accuracy."""
    base = {"network": {"preset": "small"}, "training": {"epochs": 12}, "objective": {"lambda": weight}}
    axes = {"method": ["DCNN", "MDA"]}
    store = Store(folder, spec(base=base, axes=axes, search=[], references=["MEAN", "KNN"], claims=[], seeds=1))
    for method in ("MEAN", "KNN", "DCNN", "MDA"):
        key = store.add(method, 0, epochs=12)
        add_samples(store, key, predicts=method != "DCNN")
        if method == "MEAN":
            change_row(store, key, {"test_accuracy": 0.99})
    return load_results(folder)


def test_conditions_that_were_not_trained_are_not_shown(folder: Path) -> None:
    results = one_weight(folder, 1.0)
    words = "Not shown: condition prediction of MDA with λ = 1, which does not train it."
    figures = {name: FIGURES[name](results) for name in ("bars", "confusion", "condition_map", "cdf", "error_map")}
    for name in ("bars", "confusion", "condition_map"):
        figure = figures[name]
        assert isinstance(figure, Figure)
        assert words in figure.caption
    assert set(data_of(figures["confusion"])["method"]) == set(data_of(figures["condition_map"])["method"]) == {"KNN"}
    assert "MEAN is not shown" in figures["condition_map"].caption  # type: ignore[union-attr]
    rows = data_of(figures["bars"])
    assert set(rows.query("metric == 'test_accuracy'")["method"]) == {"MEAN", "KNN"}
    assert set(rows.query("metric == 'test_rmse_m'")["method"]) == {"MEAN", "KNN", "DCNN", "MDA"}
    for name in ("cdf", "error_map"):
        assert "MDA" in set(data_of(figures[name])["method"])
        assert "not train" not in figures[name].caption  # type: ignore[union-attr]
    for name in ("confusion", "error_map"):
        assert "MEAN is not shown" in figures[name].caption  # type: ignore[union-attr]


def test_positions_that_were_not_trained_are_not_shown(folder: Path) -> None:
    results = one_weight(folder, 0.0)
    for name in ("bars", "cdf", "error_map", "learning_curves"):
        figure = FIGURES[name](results)
        assert isinstance(figure, Figure)
        assert "Not shown: localization of MDA with λ = 0, which does not train it." in figure.caption
        rows = data_of(figure)
        assert "MDA" not in set((rows.query("metric == 'test_rmse_m'") if name == "bars" else rows)["method"])
    assert "MDA" in set(data_of(FIGURES["confusion"](results))["method"])


def test_a_sweep_shows_what_each_weight_trains(folder: Path) -> None:
    """With λ on an axis every point has run on all seeds and has its interval; nothing was searched or repeated."""
    weights = [0.0, 0.1, 0.5, 1.0]
    axes = {"method": ["MDA", "HDA"], "objective.lambda": weights}
    store = Store(folder, spec(axes=axes, search=[], references=[], claims=[], seeds=3))
    for seed in range(3):
        store.add("HDA", seed, details=False)
        for weight in weights:
            errors = {"test_rmse_m": 110.0 + seed, "validation_rmse_m": 110.0 + seed} if weight == 0 else {}
            store.add("MDA", seed, objective={"lambda": weight}, details=False, **errors)
    results = load_results(folder)
    figure = FIGURES["lambda_sweep"](results)
    assert isinstance(figure, Figure)
    points = data_of(figure).query("series == 'MDA'")
    shown = points.groupby("metric")["lambda"].apply(list).to_dict()
    assert shown["validation_rmse_m"] == shown["test_rmse_m"] == [0.1, 0.5, 1.0]
    assert shown["test_accuracy"] == [0.0, 0.1, 0.5]
    (cell,) = (cell for cell in results.cells if cell.axes["objective.lambda"] == 0.5)
    interval = interval_of(cell.done, "test_rmse_m")
    assert interval is not None
    (row,) = points.query("metric == 'test_rmse_m' and `lambda` == 0.5").itertuples()
    assert (row.low, row.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    texts = re.findall(r">([^<>]+)</text>", figure.svg)
    assert not {"20", "60", "100", "110", "120"} & set(texts[: texts.index("Test accuracy")])  # of two linear axes
    assert "Points: mean over 3 seeds, bars: 95 % intervals;" in figure.caption
    assert "errors at λ = 0 (no coordinates are trained) and the accuracy at λ = 1" in figure.caption
    assert not re.search("search|repeats|candidates|complete", figure.caption)


@pytest.mark.parametrize("repeats", [0, 2])
def test_the_caption_of_a_search_tells_what_is_drawn(repeats: int, folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["MDA"]}, references=[], claims=[]))
    for step in range(1, 11):
        weight = round(0.1 * step, 10)
        store.add("MDA", 0, objective={"lambda": weight}, details=False, validation_rmse_m=9.0 - weight)
    for seed in range(1, 1 + repeats):
        store.add("MDA", seed, objective={"lambda": 1.0}, details=False)
    figure = FIGURES["lambda_sweep"](load_results(folder))
    assert isinstance(figure, Figure)
    assert "Points: candidates of the search on 1 search seed; ring:" in figure.caption
    assert ("bar: its repeats on all seeds, mean and 95 % interval (n = 3)" in figure.caption) == (repeats == 2)
    assert "HDA" not in figure.caption
    assert "the study is not complete" in figure.caption  # λ = 0 is missing
    assert "λ = 0 (" not in figure.caption


def test_the_weights_of_the_losses_are_told(drawn: dict[str, Figure]) -> None:
    assert "the coordinates weigh 1/(2σ₁²) and the conditions 1/σ₂²." in drawn["learning_curves"].caption


@given(st.lists(st.tuples(st.sampled_from(["KNN", "MDA", "HDA"]), st.floats(0.1, 200.0), st.floats(0, 5)), min_size=1))
def test_an_axis_holds_every_trained_method(entries: list[tuple[str, float, float]]) -> None:
    """And what it does not hold is named; it starts above zero only where bars would all look alike."""
    built = [
        _Entry(method, 0, {"test_rmse_m": Interval(mean, max(mean - half, 0.0), mean + half, 3)})
        for method, mean, half in entries
    ]
    scale = _scale(built, "test_rmse_m", 1)
    low, high = scale.limits
    assert 0 <= low < high
    trained = [entry for entry in built if entry.method != "KNN"] or built
    for entry in built:
        interval = entry.intervals["test_rmse_m"]
        assert (low <= interval.mean <= high) != (entry in scale.beyond)
        if entry in trained:
            assert entry not in scale.beyond
            assert interval.high is not None
            assert interval.high <= high
    means = [entry.intervals["test_rmse_m"].mean for entry in trained]
    assert (scale.kind == "points") == (max(means) <= 2 * min(means))
    assert scale.kind != "bars" or low == 0


@pytest.mark.parametrize(("level", "zero"), [(9.0, False), (30.0, True)])
def test_an_axis_that_does_not_start_at_zero_says_so(level: float, zero: bool, folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "HDA"]}, search=[], references=["MEAN"], claims=[], seeds=2))
    store.add("MEAN", 0, details=False, test_rmse_m=110.8)
    for seed in range(2):
        store.add("DCNN", seed, details=False, test_rmse_m=level + 0.1 * seed)
        store.add("HDA", seed, details=False, test_rmse_m=8.0 + 0.1 * seed)
    figure = FIGURES["bars"](load_results(folder))
    assert isinstance(figure, Figure)
    assert ("The accuracy axis does not start at zero." in figure.caption) == zero
    assert ("The error and accuracy axes do not start at zero." in figure.caption) != zero
    assert "Beyond the error axis lies MEAN (110.80 m)." in figure.caption
    assert "110.80 ↑" in figure.svg


# --- The street -----------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=40),
    st.integers(1, 6),
    st.none() | st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
)
def test_a_map_has_one_scale_and_all_users(
    places: list[tuple[float, float]], maps: int, station: tuple[float, float] | None
) -> None:
    users = np.array(places)
    street = street_of(users, maps, Site(np.zeros((0, 4)), station))
    assert np.all((users > [street.x[0], street.y[0]]) & (users < [street.x[1], street.y[1]]))
    canvas, panels = street.canvas([""] * maps, Site(np.zeros((0, 4)), station))
    assert len(panels) == maps
    wide, high = canvas.get_size_inches()
    assert wide == WIDTH
    assert high < 10.7  # of A4
    for axis in (axis for strips in panels for axis in strips):
        box = axis.get_position()
        (left, right), (low, top) = axis.get_xlim(), axis.get_ylim()
        assert box.width * wide / (right - left) == pytest.approx(box.height * high / (top - low))
        assert -1e-9 <= box.x0 <= box.x1 <= 1 + 1e-9
        assert -1e-9 <= box.y0 <= box.y1 <= 1 + 1e-9


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"static_boxes": "none", "base_station_m": {}},
        {"static_boxes": [None, 3, {"box": [1, 2]}, {"box": [0, 1, 0, "1", 0, 1]}], "base_station_m": [1]},
        {"static_boxes": [{"box": [0, 1e300, 0, 1, 0, 1]}], "base_station_m": [True, 2, 3]},
    ],
)
def test_a_site_that_says_little_or_nonsense_has_no_buildings(
    description: dict[str, Any], results: Results, folder: Path
) -> None:
    Store(folder, spec())
    (folder / "site.json").write_text(json.dumps({"name": "x", **description}))
    site = site_of(Results(folder, results.spec, "x", ()))
    assert len(site.boxes) == 0
    assert site.station is None


def test_the_buildings_of_the_results_folder_are_drawn(results: Results) -> None:
    site = site_of(results)
    assert site.boxes.tolist() == [[-5.0, 20.0, 6.0, 30.0]]
    assert site.station == (3.0, 5.0)


# --- What a stranger may have stored --------------------------------------------------------------------------------


def _no_place(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(x_m=np.nan)


def _far(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(x_m=np.where(table["position"] == 0, 1e30, table["x_m"]))


def _one_place(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(x_m=0.0, y_m=0.0)


def _strange_classes(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(condition=99, condition_hat=-7)


@pytest.mark.parametrize("spoil", [_no_place, _far, _one_place, _strange_classes])
def test_odd_samples_are_left_out_or_said(spoil: Callable[[pd.DataFrame], pd.DataFrame], folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["HDA"]}, search=[], references=[], claims=[], seeds=1))
    key = store.add("HDA", 0)
    table = spoil(add_samples(store, key))
    pq.write_table(
        pa.Table.from_pandas(table, ERROR_SCHEMA, preserve_index=False), folder / "errors" / f"{key}.parquet"
    )
    results = load_results(folder)
    maps = {name: FIGURES[name](results) for name in ("error_map", "condition_map")}
    missing = {"error_map", "condition_map"} if spoil is _no_place else set()
    if spoil is _strange_classes:
        missing = {"condition_map"}
    assert {name for name, found in maps.items() if isinstance(found, Missing)} == missing
    if spoil is _far:
        assert 0 not in set(data_of(maps["error_map"])["position"])


def test_no_name_breaks_a_drawing(folder: Path) -> None:
    """Neither markup nor what XML has no place for."""
    store = Store(folder, spec(axes={"method": ["HDA"]}, search=[], references=[], claims=[], seeds=1))
    names = ["<b>LOS</b>", "\x1b]0;x\x07", "$x_{$" * 30]
    add_samples(store, store.add("HDA", 0), classes=names)
    for name in ("confusion", "condition_map"):
        figure = FIGURES[name](load_results(folder))
        assert isinstance(figure, Figure)
        ET.fromstring(figure.svg)
        assert "<b>" not in figure.svg
        assert not re.search(r"[\x00-\x08\x0e-\x1f]", figure.svg)
