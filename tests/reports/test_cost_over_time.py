"""Time against cost over cluster sizes: what `study plan --figure` writes."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest

from reports.drawing import Figure, write_figure
from reports.figures.cost_over_time import ClusterPoint, draw_cost_over_time
from study.errors import ResultsError
from study.planning.record import Spread


def point(
    machines: int, *, label: str = "cluster/gpu.yaml", priced: bool = True, chosen: bool = False, hours: float = 40.0
) -> ClusterPoint:
    took = Spread(median=hours, low=0.9 * hours, high=1.2 * hours).times(1 / machines)
    cost = took.times(1.2 * machines) if priced else None
    return ClusterPoint(label, machines, took.times(3600), cost, took.times(machines), chosen)


def texts_of(figure: Figure) -> list[str]:
    return [
        "".join(element.itertext()) for element in ET.fromstring(figure.svg).iter() if element.tag.endswith("}text")
    ]


def draw(points: list[ClusterPoint], **limits: float | None) -> Figure:
    return draw_cost_over_time(points, **{"deadline_s": None, "budget": None, **limits}, currency="EUR")  # type: ignore[arg-type]


def test_points_curves_and_limits_are_drawn_and_told() -> None:
    points = [point(8, chosen=True), point(1), point(2), point(4, label="b.yaml", hours=70)]
    figure = draw(points, deadline_s=8 * 3600, budget=60)
    shown = texts_of(figure)
    for words in ("1", "2", "4", "8", "cluster/gpu.yaml", "b.yaml", "proposed", "deadline 8 h", "budget 60 EUR",
                  "Cost [EUR]", "Time on the clock [h]"):  # fmt: skip
        assert words in shown, words
    assert "the deadline of 8 h and the budget of 60 EUR" in figure.caption
    assert "time axis is logarithmic" in figure.caption
    assert "cluster/gpu.yaml, 8 machines: 5.00 h, 48.0 EUR, proposed." in figure.alt_text
    assert figure.png.startswith(b"\x89PNG")
    data = pd.read_csv(io.StringIO(figure.data))
    assert data["machines"].tolist() == [1, 2, 8, 4]  # by curve, then by size
    assert data["seconds_median"][0] == pytest.approx(40 * 3600)
    assert data["cost_high"].tolist() == pytest.approx([57.6, 57.6, 57.6, 100.8])
    assert draw(points, deadline_s=8 * 3600, budget=60) == figure


def test_without_every_price_it_is_node_hours() -> None:
    figure = draw([point(1), point(2, priced=False)], budget=60)
    assert "Cost [node-hours]" in texts_of(figure)
    assert not any("budget" in text for text in texts_of(figure))
    assert "not every price is known. The budget is not shown" in figure.caption


def test_values_that_a_logarithm_does_not_have_are_drawn() -> None:
    none = Spread(median=0.0, low=0.0, high=0.0)
    figure = draw([ClusterPoint("a", 1, none, none, none, False), point(1)], deadline_s=0.0, budget=0.0)
    assert "logarithmic" not in figure.caption
    with pytest.raises(ValueError, match="no points"):
        draw([])


def test_names_are_no_markup() -> None:
    figure = draw([point(1, label="</svg><script>alert(1)</script> $x$ " + "y" * 200)])
    ET.fromstring(figure.svg)
    assert "<script>" not in figure.svg


def test_a_figure_is_written_by_its_suffix(tmp_path: Path) -> None:
    figure = draw([point(1)])
    for name, start in (("a.svg", b"<svg"), ("b.PNG", b"\x89PNG")):
        write_figure(figure, tmp_path / name)
        write_figure(figure, tmp_path / name)  # an earlier one is replaced
        assert (tmp_path / name).read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.PNG"]


@pytest.mark.parametrize("name", ["figure.pdf", "figure", "figure.svg.gz"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResultsError) as caught:
        write_figure(draw([point(1)]), tmp_path / name)
    assert ".svg or .png" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    figure = draw([point(1)])
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for name in ("folder.svg", "missing/a.svg", "file/a.svg"):
        with pytest.raises(ResultsError, match="cannot be written"):
            write_figure(figure, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.svg"]
