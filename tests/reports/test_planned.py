"""Planned and actual: what a report says of a plan, whatever the plan says."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_factory import Store, full_study, spec

from reports import tables
from reports.build import build_report
from reports.clock import Clock, read_clock
from reports.figures import planned as planned_figure
from reports.planned import PlannedStudy, planned_study
from reports.results import load_results
from reports.tables import Table
from study.planning.record import PLAN_FILE, CellPlan, Plan, Spread

SCRIPT = "</script><script>alert(1)</script>"
RUNS = [
    {"time": "2026-03-01T10:00:00+00:00", "event": "run_started"},
    {"time": "2026-03-01T10:10:00+00:00", "event": "run_ended", "seconds": 600.0},
    {"time": "2026-03-01T11:00:00+00:00", "event": "run_started"},
    {"time": "2026-03-01T11:05:00+00:00", "event": "trial_finished"},
]


def write_plan(folder: Path, plan: Plan) -> None:
    (folder / PLAN_FILE).write_text(plan.model_dump_json(indent=1))


def around(median: float, width: float = 0.2) -> Spread:
    return Spread(median=median, low=median * (1 - width), high=median * (1 + 2 * width))


def plan_of(folder: Path, factor: float = 1.0, *, priced: bool = True, **changes: Any) -> Plan:
    """A plan of every cell of a study: 74 s for each trial that is trained, and 4 s for a reference."""
    results = load_results(folder)
    cells = []
    for cell in results.cells:
        seconds = factor * cell.planned * (4.0 if cell.method in ("MEAN", "KNN") else 74.0)
        cells.append(
            CellPlan(
                label=cell.name, method=cell.method, values={"method": cell.method, **cell.axes}, trials=cell.planned,
                seconds=around(seconds), basis="counted" if cell.method == "TL" else "measured",
            )
        )  # fmt: skip
    whole = math.fsum(cell.seconds.median for cell in cells)
    content: dict[str, Any] = {
        "study": results.spec.study, "spec_hash": "5d41402abc4b2a76", "made_at": "2026-03-01T09:58:00+00:00",
        "study_version": "0.1.0", "cluster": "cluster/gpu.yaml", "machines": ("2 × g5.2xlarge",), "slots": 4,
        "trials": sum(cell.trials for cell in cells), "seconds": around(whole, 0.1),
        "makespan_seconds": around(whole / 4, 0.1), "cells": tuple(cells),
        "cost": around(6.0, 0.1) if priced else None, "currency": "USD" if priced else None,
        "cost_note": "1.212 USD an hour" if priced else "no price is known for this node type",
        "energy_kwh": around(0.5, 0.1) if priced else None,
    }  # fmt: skip
    return Plan.model_validate(content | changes)


def log_runs(folder: Path, events: list[dict[str, Any]]) -> None:
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study of two configurations with its plan and two runs, of which the second was killed."""
    store = full_study(
        tmp_path_factory.mktemp("planned") / "study", paths=(10, 25), details=False,
        report={"tables": ["performance"], "figures": []},
    )  # fmt: skip
    write_plan(store.folder, plan_of(store.folder))
    log_runs(store.folder, RUNS)
    return store


def compared(folder: Path) -> PlannedStudy:
    found = planned_study(load_results(folder))
    assert isinstance(found, PlannedStudy), found
    return found


def built(table: Table | None) -> list[dict[str, Any]]:
    """The unrounded values of a table by column."""
    assert table is not None
    return [{c.name: cell.value for c, cell in zip(table.columns, row, strict=True)} for row in table.rows]


def texts(table: Table) -> list[list[str]]:
    return [[cell.full for cell in row] for row in table.rows]


# --- Laws -----------------------------------------------------------------------------------------------------------


def test_methods_add_up_to_all_and_all_is_the_plan(study: Store) -> None:
    *methods, total = built(tables.planned(load_results(study.folder)))
    assert total["Method"] == "All"
    for column in ("Trials", "Stored", "Planned", "Actual", "Planned share", "Actual share"):
        assert sum(row[column] for row in methods) == pytest.approx(total[column]), column
    whole = compared(study.folder)
    assert whole.complete
    for name in ("median", "low", "high"):
        assert getattr(whole.all.seconds, name) == pytest.approx(getattr(whole.plan.seconds, name)), name


def test_values_of_an_axis_add_up_to_all(study: Store) -> None:
    results = load_results(study.folder)
    total = built(tables.planned(results))[-1]
    rows = built(tables.planned_axes(results))
    assert [(row["Axis"], row["Value"]) for row in rows] == [
        ("Search", "λ for MDA"), ("Search", "nothing searched"), ("Paths", "10"), ("Paths", "25"),
    ]  # fmt: skip
    for axis in ("Search", "Paths"):
        for column in ("Trials", "Stored", "Planned", "Actual", "Planned share", "Actual share"):
            own = [row[column] for row in rows if row["Axis"] == axis]
            assert sum(own) == pytest.approx(total[column]), (axis, column)
    caption = tables.planned_axes(results)
    assert caption is not None
    assert f"takes {rows[0]['Planned share']:.0f} % of the planned time" in caption.caption


@given(
    parts=st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(0, 0.99), st.floats(0, 5)), min_size=1, max_size=12),
    together=st.floats(0, 1),
)
def test_intervals_lie_between_independent_and_equal_parts(
    parts: list[tuple[float, float, float]], together: float
) -> None:
    from reports.planned import _summed, _together

    spreads = [Spread(median=m, low=m * (1 - low), high=m * (1 + high)) for m, low, high in parts]
    whole = _summed(spreads, (together, together))
    assert whole.median == pytest.approx(sum(part.median for part in spreads))
    assert whole.low >= sum(part.low for part in spreads) - 1e-6 * whole.median
    assert whole.high <= sum(part.high for part in spreads) + 1e-6 * whole.median
    again = _summed(spreads, _together(spreads, whole))
    assert (again.low, again.high) == pytest.approx((whole.low, whole.high), rel=1e-6, abs=1e-6 * whole.median)


def test_what_is_missing_is_not_compared(study: Store, folder: Path) -> None:
    """Taken away at random or not: a plan that is right by trial is right of any part of the study."""
    store = full_study(folder, paths=(10, 25), details=False, report={"tables": [], "figures": []})
    for path in sorted((folder / "trials").glob("*.parquet"))[::2]:
        path.unlink()
    left = load_results(folder)
    write_plan(folder, plan_of(study.folder))
    part, whole = compared(store.folder), compared(study.folder)
    assert not part.complete
    assert part.all.seconds.median == pytest.approx(whole.all.seconds.median)
    assert part.all.timed == len(left.trials)
    trained = sum(trial.method not in ("MEAN", "KNN") for trial in left.trials)
    assert part.all.expected.median == pytest.approx(74 * trained + 4 * (len(left.trials) - trained))
    assert part.share == pytest.approx(part.all.expected.median / part.all.seconds.median)
    table = tables.planned(left)
    assert table is not None
    row = built(table)[-1]
    assert row["Actual ÷ planned"] == pytest.approx(100 * row["Actual"] / row["Planned so far"])
    assert "times its stored trials" in table.caption
    totals = built(tables.planned_totals(left))
    assert "Planned so far" in totals[0]


# --- Verdicts, clock, money -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "word"), [(1.0, "inside"), (0.5, "above"), (2.0, "below")])
def test_an_actual_time_lies_inside_above_or_below(study: Store, folder: Path, factor: float, word: str) -> None:
    full_study(folder, paths=(10, 25), details=False, report={"tables": [], "figures": []})
    write_plan(folder, plan_of(folder, factor))
    results = load_results(folder)
    rows = built(tables.planned(results))
    assert rows[-1]["Interval"] == word
    assert rows[-1]["Basis"] == "counted"  # the worst of its parts
    assert {row["Method"]: row["Basis"] for row in rows}["HDA"] == "measured"
    page = build_report(folder).html.read_text(encoding="utf-8")
    assert re.search(rf'<span class="mark {word}"><svg [^>]*><path [^>]*/></svg>{word}</span>', page)


def test_money_and_energy_are_those_of_the_actual_time(study: Store) -> None:
    rows = {row["What"]: row for row in built(tables.planned_totals(load_results(study.folder)))}
    seconds = 600.0 + 300.0  # a run that was killed counts to its last event
    plan = compared(study.folder).plan
    share = 100 * seconds / plan.makespan_seconds.median
    assert rows["Time on the clock"]["Actual ÷ planned"] == pytest.approx(share)
    assert rows["Money"]["Actual"] == pytest.approx(6.0 * share / 100)
    assert rows["Money"]["Unit"] == "USD"
    assert rows["Energy"]["Actual"] == pytest.approx(0.5 * share / 100)
    table = tables.planned_totals(load_results(study.folder))
    assert table is not None
    assert any(note.startswith("1 of 2 runs has no end") for note in table.notes)


def test_without_a_price_the_plan_says_why(study: Store, folder: Path) -> None:
    full_study(folder, details=False, report={"tables": [], "figures": []})
    write_plan(folder, plan_of(folder, priced=False))
    table = tables.planned_totals(load_results(folder))
    assert [row["What"] for row in built(table)] == ["Time on the clock"]
    assert table is not None
    assert "No price: no price is known for this node type." in table.notes
    assert "The time on the clock is not known: there is no events.jsonl." in table.notes
    assert table.rows[0][3].text == "— not known"


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (RUNS, Clock(900.0, 2, 1)),
        (RUNS[:2], Clock(600.0, 1, 0)),
        ([RUNS[0], RUNS[3]], Clock(3900.0, 1, 1)),
        ([RUNS[0], {**RUNS[1], "seconds": "long"}], Clock(600.0, 1, 0)),  # the times of its events
        ([RUNS[0], {**RUNS[1], "seconds": -1e308}], Clock(600.0, 1, 0)),
        ([{**RUNS[0], "time": 7}, {**RUNS[1], "seconds": None}], Clock(0.0, 1, 0)),
        ([RUNS[3], RUNS[0]], Clock(0.0, 1, 1)),  # nothing before a run is of it
        ([RUNS[2], RUNS[1] | {"seconds": None}], Clock(0.0, 1, 0)),  # the clock was set back
        ([{"time": "2026-03-01T10:00:00", "event": "run_started"}, {**RUNS[1], "seconds": None}], Clock(600.0, 1, 0)),
    ],
)
def test_the_clock_is_that_of_all_runs(tmp_path: Path, events: list[dict[str, Any]], expected: Clock) -> None:
    log_runs(tmp_path, events)
    assert read_clock(tmp_path) == expected


def test_a_log_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_clock(tmp_path) == "there is no events.jsonl"
    path.write_text("[" * 100_000 + "\n", encoding="utf-8")
    assert read_clock(tmp_path) == "no run is in events.jsonl"
    path.write_text("", encoding="utf-8")
    assert read_clock(tmp_path) == "no run is in events.jsonl"
    path.unlink()
    os.mkfifo(path)
    assert read_clock(tmp_path) == "events.jsonl cannot be read: it is not a plain file"


# --- Plans that are missing, damaged, of another study or of a stranger ---------------------------------------------


def test_without_a_plan_the_report_says_so(folder: Path) -> None:
    full_study(folder, details=False, report={"tables": [], "figures": []})
    report = build_report(folder)
    for file in (report.html, report.markdown):
        text = file.read_text(encoding="utf-8")
        assert "No plan was made before the run." in text
        assert "Planned and actual" not in text


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "Invalid JSON"),
        (lambda path: path.write_text("{}"), "Field required"),
        (lambda path: path.write_text(path.read_text().replace('"slots": 4', f'"{SCRIPT}": 4')), "slots: Field"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "a link"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a plain file"),
    ],
)
def test_a_damaged_plan_is_a_warning(folder: Path, spoil: Callable[[Path], object], reason: str) -> None:
    full_study(folder, details=False, report={"tables": [], "figures": []})
    write_plan(folder, plan_of(folder))
    spoil(folder / "plan.json")
    report = build_report(folder)
    for file in (report.html, report.markdown):
        text = file.read_text(encoding="utf-8")
        assert "The damaged plan.json was left out" in text
        assert reason in text
        assert "<script>alert" not in text
        assert 'id="table-planned"' not in text


def rescaled(plan: Plan, **changes: Any) -> Plan:
    return plan.model_copy(update={"cells": tuple(cell.model_copy(update=changes) for cell in plan.cells)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plan: rescaled(plan, label="other"), "of another study"),
        (lambda plan: rescaled(plan, trials=0), "of another study"),
        (lambda plan: plan.model_copy(update={"cells": ()}), "of another study"),
        (lambda plan: rescaled(plan, seconds=around(1e300)), "no study can take"),
        (lambda plan: plan.model_copy(update={"slots": 10**400}), "no study can take"),
        (lambda plan: rescaled(plan, seconds=around(1e-300)), "do not add up"),
        (lambda plan: plan.model_copy(update={"seconds": around(0.0)}), "do not add up"),
    ],
)
def test_a_plan_that_cannot_be_compared_says_why(folder: Path, change: Callable[[Plan], Plan], reason: str) -> None:
    full_study(folder, details=False, report={"tables": [], "figures": []})
    results = load_results(folder)
    results.__dict__["plan"] = change(plan_of(folder))
    assert reason in str(planned_study(results))
    assert reason in tables.cost(results).caption
    assert tables.planned(results) is None
    assert tables.planned_axes(results) is None
    assert tables.planned_totals(results) is None
    assert planned_figure(results) is None


def test_a_plan_of_nothing_is_no_reason_to_stop(folder: Path) -> None:
    full_study(folder, details=False, report={"tables": [], "figures": []})
    none = around(0.0)
    plan = rescaled(plan_of(folder), seconds=none)
    write_plan(folder, plan.model_copy(update={"seconds": none, "makespan_seconds": none, "cost": none}))
    log_runs(folder, RUNS)
    text = build_report(folder).markdown.read_text(encoding="utf-8")
    assert "Planned and actual" in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_what_only_one_of_them_has_is_left_out_and_told(folder: Path) -> None:
    full_study(folder, details=False, report={"tables": [], "figures": []})
    plan = plan_of(folder)
    renamed = [cell.model_copy(update={"label": "gone"}) if cell.method == "HDA" else cell for cell in plan.cells]
    write_plan(folder, plan.model_copy(update={"cells": tuple(renamed)}))
    table = tables.planned(load_results(folder))
    assert table is not None
    assert "HDA" not in [row["Method"] for row in built(table)]
    assert "Left out: 1 cell with 3 stored trials that the plan does not have." in table.notes
    assert any(note.startswith("Left out: 1 planned cell that the study") for note in table.notes)


def test_no_text_of_a_plan_is_markup(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN"]}, search=[], claims=[], report={"tables": [], "figures": []}))
    for seed in range(3):
        store.add("DCNN", seed, details=False)
    nasty = f"=1+1 {SCRIPT} | [x](javascript:alert(1)) \x1b[31m \u202e"
    plan = plan_of(folder, study=nasty, made_at=nasty, study_version=nasty, cluster=nasty, currency=nasty,
                   machines=(nasty,) * 50, cost_note=nasty, notes=("y" * 10**6, nasty, *["z"] * 10**4))  # fmt: skip
    write_plan(folder, plan)
    log_runs(folder, RUNS)
    report = build_report(folder)
    for file in (report.html, report.markdown):
        text = file.read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert not {"\x1b", "\u202e"} & set(text)
        assert len(text) < 500_000
    assert not re.search(r"(?<!\\)\]\(javascript:", report.markdown.read_text(encoding="utf-8"))
    for path in report.tables:
        if path.suffix == ".csv":
            for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))):
                assert not any(field.startswith(("=", "@")) for field in row), path


# --- Renderings and figure ------------------------------------------------------------------------------------------


def test_page_and_markdown_have_the_same_numbers(study: Store, tmp_path: Path) -> None:
    report = build_report(study.folder, tmp_path / "report")
    page, markdown = (file.read_text(encoding="utf-8") for file in (report.html, report.markdown))
    results = load_results(study.folder)
    for build in (tables.planned, tables.planned_totals, tables.planned_axes):
        table = build(results)
        assert table is not None
        place = page[page.index(f'id="table-{table.name}"') :]
        body = place[place.index("<tbody>") : place.index("</tbody>")]
        shown = [
            [re.sub(r"<[^>]+>", "", cell).split() for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL)]
            for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        ]
        assert shown == [[re.sub(r"[()]", "", text).split() for text in row] for row in texts(table)]
        for row in texts(table):
            assert "| " + " | ".join(map(tables.escape_markdown, row)) + " |" in markdown


def test_the_figure_has_the_numbers_of_the_table(study: Store, tmp_path: Path) -> None:
    results = load_results(study.folder)
    figure = planned_figure(results)
    assert figure is not None
    assert ET.fromstring(figure.svg).tag.endswith("svg")
    assert figure.png.startswith(b"\x89PNG")
    data = pd.read_csv(io.StringIO(figure.data)).set_index("method")
    sums = compared(study.folder).by_method
    assert list(data.index) == list(sums)
    for method, own in sums.items():
        assert data["planned_s"][method] == pytest.approx(own.expected.median)
        assert data["actual_s"][method] == pytest.approx(own.actual)
        assert data["interval"][method] == own.verdict
        assert f"{method}: planned" in figure.alt_text
    kept = sum(own.verdict == "inside" for own in sums.values())
    assert f"{kept} of {len(sums)} " in figure.caption
    # Whatever the spec asks for; it stands with the tables of what the study cost.
    report = build_report(study.folder, tmp_path / "report")
    assert [path.stem for path in report.figures] == ["planned"] * 3
    page = report.html.read_text(encoding="utf-8")
    order = ("table-cost", "table-planned", "figure-planned", "table-planned_totals", "table-planned_axes", "method")
    places = [page.index(f'id="{name}"') for name in order]
    assert places == sorted(places)
