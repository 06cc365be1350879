from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from store_factory import HASH, Store, full_study, spec

from reports import tables
from reports.headline import headline, remarks
from reports.results import load_results
from reports.statistics import mean_interval
from reports.tables import Cell, Column, Table, si_count
from reports.tables.judgement import beaten_by


class Rows(HTMLParser):
    """The text of the body cells of the first table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.body = self.cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.body = self.body or tag == "tbody"
        if self.body and tag == "tr":
            self.rows.append([])
        if self.body and tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cell = False
        if tag == "tbody":
            self.body = False

    def handle_data(self, data: str) -> None:
        if self.body and self.cell:
            self.rows[-1][-1] += data


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def all_tables(store: Store) -> list[Table]:
    results = load_results(store.folder)
    built = [build(results) for build in tables.TABLES.values()]
    return [*(table for table in built if table is not None), tables.cost(results), tables.trial_list(results)]


def row_of(table: Table, *start: str) -> dict[str, Cell]:
    (row,) = (row for row in table.rows if [cell.text for cell in row[: len(start)]] == list(start))
    return {column.name: cell for column, cell in zip(table.columns, row, strict=True)}


def unfinished(folder: Path) -> Store:
    store = Store(folder, spec())
    store.add("KNN", 0)
    store.add("DCNN", 0)
    for seed in (1, 2):
        store.add("DCNN", seed, state="diverged")
    for seed in range(3):
        store.add("TL", seed, state="diverged")
    store.add("RDA", 0, state="failed")
    store.add("RDA", 1, state="out_of_memory")
    for step in range(4):
        store.add("MDA", 0, objective={"lambda": step / 10}, state="pruned" if step == 2 else "done")
    return store


def test_every_rendering_carries_the_same_numbers_in_the_same_order(finished: Store) -> None:
    for table in all_tables(finished):
        parser = Rows()
        parser.feed(tables.to_html(table))
        body = tables.to_markdown(table).split("\n\n", 1)[1].split("\n\n")[0].splitlines()[2:]
        buffer = io.StringIO()
        Console(file=buffer, width=400, color_system=None).print(tables.to_terminal(table, width=400))
        printed = buffer.getvalue()
        printed = printed[printed.index("─") : printed.rindex(table.caption[:20])]
        everything: list[str] = []
        for html_row, markdown_row, row in zip(parser.rows, body, table.rows, strict=True):
            expected = [number for cell in row for number in numbers(cell.full)]
            assert [number for text in html_row for number in numbers(text)] == expected
            assert numbers(markdown_row) == expected
            # A terminal shows an interval on the line below its mean.
            everything += [number for cell in row for number in numbers(cell.text)]
            everything += [number for cell in row for number in numbers(cell.interval or "")]
        assert numbers(printed) == everything


@pytest.mark.parametrize("name", ["performance", "manual_optimum"])
def test_the_main_tables_fit_a_terminal_of_eighty_columns(finished: Store, name: str) -> None:
    (table,) = (table for table in all_tables(finished) if table.name == name)
    buffer = io.StringIO()
    Console(file=buffer, width=80, color_system=None).print(tables.to_terminal(table))
    printed = buffer.getvalue()
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    left_out = re.findall(r"Not shown here: (.*)\.", " ".join(printed.split()))
    for row in table.rows:
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            if left_out and column.name in left_out[0].split("; "):
                assert column.extra  # nothing but what is beside the point
                continue
            assert cell.text.replace(" of ", "/") in printed
            assert (cell.interval or "").replace(" – ", "–") in printed


def test_csv_carries_the_unrounded_numbers(finished: Store) -> None:
    for table in all_tables(finished):
        rows = list(csv.reader(io.StringIO(tables.to_csv(table))))
        assert len(rows) == len(table.rows) + 1
        for fields, row in zip(rows[1:], table.rows, strict=True):
            remaining = iter(fields)
            for column, cell in zip(table.columns, row, strict=True):
                field = next(remaining)
                if isinstance(cell.value, float):
                    assert float(field) == pytest.approx(cell.value, rel=1e-10)
                if column.spread:
                    limits = [next(remaining), next(remaining), next(remaining)]
                    if cell.low is not None:
                        assert float(limits[0]) == pytest.approx(cell.low, rel=1e-10)
                        assert limits[2] == str(cell.n)
            assert next(remaining, None) is None


def test_performance_shows_mean_interval_and_seeds(finished: Store) -> None:
    results = load_results(finished.folder)
    table = tables.performance(results)
    assert [row[0].text for row in table.rows] == ["MEAN", "KNN", "DCNN", "TL", "RDA", "MDA", "HDA"]
    (cell,) = (cell for cell in results.cells if cell.method == "HDA")
    expected = mean_interval([trial.row["test_rmse_m"] for trial in cell.trials])
    assert expected is not None
    shown = row_of(table, "HDA")
    assert shown["RMSE"].full == f"{expected.mean:.2f} ({expected.low:.2f} – {expected.high:.2f})"
    assert (shown["RMSE"].value, shown["RMSE"].n) == (expected.mean, 3)
    assert shown["Seeds"].text == "3 of 3"
    assert shown["Seeds"].keys == tuple(trial.key for trial in cell.trials)
    assert shown["Best epoch"].text.endswith(" of 40")
    assert row_of(table, "DCNN")["Accuracy"].text == "–"
    assert row_of(table, "KNN")["RMSE"].interval is None
    for words in (
        "canyon_small",
        "50 training, 20 validation, 50 test scenes",
        "lowest mean validation RMSE",
        "3 seeds",
    ):
        assert words in table.caption


def test_holes_say_what_is_missing(folder: Path) -> None:
    table = tables.performance(load_results(unfinished(folder).folder))
    assert row_of(table, "MEAN")["RMSE"].text == "— not run"
    assert row_of(table, "HDA")["RMSE"].text == "— not run"
    assert row_of(table, "TL")["RMSE"].text == "— diverged ×3"
    assert "failed ×1" in row_of(table, "RDA")["RMSE"].text
    assert row_of(table, "RDA")["Not finished"].text == "failed ×1, out of memory ×1, 1 seed not run"
    partial = row_of(table, "DCNN")
    assert partial["Seeds"].text == "1 of 3"
    assert partial["Not finished"].text == "diverged ×2"
    assert partial["RMSE"].interval is None
    assert row_of(table, "MDA")["Not finished"].text == "pruned ×1, 2 seeds not run, 4 of 11 candidates run"
    assert all(row_of(table, method)["RMSE"].hole for method in ("MEAN", "TL", "RDA", "HDA"))


def test_a_search_without_a_finished_candidate_has_no_winner(folder: Path) -> None:
    store = Store(folder, spec())
    store.add("MDA", 0, objective={"lambda": 0.1}, state="diverged")
    row = row_of(tables.performance(load_results(store.folder)), "MDA")
    assert row["RMSE"].text == "— no candidate finished"


def test_manual_optimum_counts_search_and_repeats(finished: Store) -> None:
    results = load_results(finished.folder)
    table = tables.manual_optimum(results)
    assert table is not None
    learned, manual = (
        {column.name: cell for column, cell in zip(table.columns, row, strict=True)} for row in table.rows
    )
    assert (learned["Trials"].value, manual["Trials"].value) == (3, 13)
    assert learned["λ"].text == "learned"
    (cell,) = (cell for cell in results.cells if cell.method == "MDA")
    assert cell.winner is not None
    assert manual["λ"].value == cell.winner.values["objective.lambda"]
    assert manual["γ"].text == "2"
    seconds = {
        method: sum(trial.row["train_seconds"] for trial in results.trials if trial.method == method)
        for method in ("MDA", "HDA")
    }
    assert manual["Cost"].value == pytest.approx(seconds["MDA"] / seconds["HDA"])


def test_a_weight_on_an_axis_counts_as_a_search(folder: Path) -> None:
    weights = [0.1, 0.5, 0.9]
    # λ means nothing to HDA: its trials are one cell, whatever the axis says.
    store = Store(folder, spec(axes={"method": ["MDA", "HDA"], "objective.lambda": weights}, search=[], references=[]))
    for seed in range(3):
        store.add("HDA", seed)
        for weight in weights:
            store.add("MDA", seed, objective={"lambda": weight})
    table = tables.manual_optimum(load_results(folder))
    assert table is not None
    assert [row[0].text for row in table.rows] == ["HDA, self-weighted", "MDA, manual optimum"]
    assert [row_of(table, row[0].text)["Trials"].value for row in table.rows] == [3, 9]


def test_costs_count_every_trial_and_the_time_without_result(folder: Path) -> None:
    results = load_results(unfinished(folder).folder)
    table = tables.cost(results)
    total = row_of(table, "All")
    assert (total["Planned"].value, total["Stored"].value, total["Done"].value) == (27, 13, 5)
    assert (total["Diverged"].value, total["Pruned"].value) == (5, 1)
    lost = sum(trial.row["trial_seconds"] for trial in results.trials if trial.state != "done")
    scale = 60 if table.columns[-1].unit == "min" else 1
    assert total["Without result"].value == pytest.approx(lost / scale)


def test_headline_compares_hda_with_the_manual_optimum(finished: Store) -> None:
    sentence = headline(load_results(finished.folder))
    assert re.fullmatch(
        r"HDA reached [\d.]+ m \([\d.]+ – [\d.]+, n = 3\); manual-optimum MDA [\d.]+ m \([\d.]+ – [\d.]+, n = 3\) "
        r"after 13 trials against 3 \([\d.]+ × the training time\); the intervals (do not )?overlap\.",
        sentence,
    )


@pytest.mark.parametrize(("shift", "words"), [(0.0, "the intervals overlap"), (20.0, "the intervals do not overlap")])
def test_headline_says_whether_intervals_overlap(folder: Path, shift: float, words: str) -> None:
    store = Store(folder, spec(search=[], references=[]))
    for seed in range(3):
        store.add("HDA", seed, test_rmse_m=8.0 + seed / 10)
        store.add("MDA", seed, test_rmse_m=8.0 + seed / 10 + shift, objective={"lambda": 0.5})
    sentence = headline(load_results(folder))
    assert words in sentence
    assert "MDA with fixed weights" in sentence


def test_headline_of_five_seeds_gives_the_paired_difference(folder: Path) -> None:
    store = Store(folder, spec(search=[], references=[], seeds=5))
    for seed in range(5):
        store.add("HDA", seed, test_rmse_m=8.0 + seed, details=False)
        store.add("MDA", seed, test_rmse_m=8.5 + seed + seed / 100, objective={"lambda": 0.5}, details=False)
    words = headline(load_results(folder))
    assert re.search(r"; paired over 5 seeds, MDA − HDA is \+0\.52 m \(\+0\.50 to \+0\.54, p < 0\.001\)\.$", words)


def test_headline_over_configurations_with_one_seed_says_so(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["MDA", "HDA"], "system.paths": [10, 25]}, search=[], seeds=1))
    for paths in (10, 25):
        for method in ("MDA", "HDA"):
            store.add(method, 0, system={"paths": paths}, details=False)
    assert "2 system configurations (on one seed, no interval)" in headline(load_results(folder))


def test_headline_of_an_unfinished_study_says_so_and_quotes_no_cost(folder: Path) -> None:
    store = unfinished(folder)
    store.add("HDA", 0)
    sentence = headline(load_results(folder))
    assert sentence.startswith("So far, HDA reached")
    assert "single seed" in sentence
    assert "training time" not in sentence


def test_headline_over_several_configurations(folder: Path) -> None:
    full_study(folder, paths=(10, 25), details=False)
    sentence = headline(load_results(folder))
    assert "of 2 system configurations" in sentence
    assert "where errors were lowest (Paths 25)" in sentence


def test_headline_without_the_pair_names_the_best_method_and_the_reference(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "TL"]}, search=[]))
    store.add("KNN", 0, test_rmse_m=15.5)
    store.add("DCNN", 0, test_rmse_m=9.0)
    store.add("TL", 0, test_rmse_m=9.5)
    sentence = headline(load_results(folder))
    assert sentence.startswith("So far, the lowest mean test RMSE, 9.00 m (n = 1), is that of DCNN; with fewer than 5")
    assert "the best reference, KNN, 15.50 m" in sentence


def test_headline_without_any_result_says_so(folder: Path) -> None:
    Store(folder, spec()).add("DCNN", 0, state="failed")
    assert headline(load_results(folder)) == "No trial of this study has a result yet (1 failed)."


def test_complexity_prints_counts_as_the_paper_does(finished: Store) -> None:
    table = tables.complexity(load_results(finished.folder))
    assert table is not None
    row = row_of(table, "DCNN")
    assert row["Parameters, training"].text == "207.378 K"
    assert row["MACs per sample, training"].text == "33.706 M"
    assert row["FLOPs per sample, training"].value == 2 * 33_706_144
    assert row["Best epoch"].text.endswith(" of 40")
    assert any("branches: shared" in note for note in table.notes)


def test_complexity_shows_what_did_not_finish(folder: Path) -> None:
    table = tables.complexity(load_results(unfinished(folder).folder))
    assert table is not None
    assert row_of(table, "TL")["Best epoch"].text == "— diverged ×3"
    assert row_of(table, "DCNN")["Not finished"].text == "diverged ×2"


def five_seeds(folder: Path, shifts: dict[str, list[float]]) -> Table:
    axes = {"method": list(shifts)}
    store = Store(folder, spec(axes=axes, search=[], references=["KNN", "MODEL"], seeds=5, claims=[]))
    store.add("KNN", 0, test_rmse_m=15.0, details=False)
    store.add("MODEL", 0, test_rmse_m=30.0, details=False)
    for method, values in shifts.items():
        for seed, shift in enumerate(values):
            store.add(method, seed, test_rmse_m=10.0 + seed + shift, details=False)
    return tables.performance(load_results(folder))


def test_bold_is_what_no_other_row_is_significantly_better_than(folder: Path) -> None:
    table = five_seeds(
        folder,
        {"DCNN": [3.0, 3.1, 2.9, 3.0, 3.1], "TL": [0.1, -0.2, 0.2, -0.1, 0.1], "HDA": [0.0] * 5},
    )
    best = {
        row[0].text: cell.best
        for row in table.rows
        for c, cell in zip(table.columns, row, strict=True)
        if c.name == "RMSE"
    }
    assert best == {"KNN": False, "MODEL": False, "DCNN": False, "TL": True, "HDA": True}
    assert "Bold: among the networks with 5 or more finished seeds" in table.caption
    assert "References stand apart and are never bold." in table.caption
    markdown = tables.to_markdown(table)
    assert re.search(r"^\| HDA \| \*\*12\.0\*\* \(", markdown, re.MULTILINE)
    assert re.search(r"^\| DCNN \| 15\.0 \(", markdown, re.MULTILINE)
    assert "<b>12.0</b>" in tables.to_html(table)
    buffer = io.StringIO()
    Console(file=buffer, width=80, force_terminal=True, color_system="standard").print(tables.to_terminal(table))
    assert "\x1b[1m12.0" in buffer.getvalue()
    assert "\x1b[1m15.0" not in buffer.getvalue()


def best_of(table: Table, column: str) -> dict[str, bool]:
    number = [item.name for item in table.columns].index(column)
    return {row[0].text: row[number].best for row in table.rows}


def test_a_row_loses_bold_by_a_test_alone(folder: Path) -> None:
    # HDA has a lower mean and 4 seeds: it is no candidate, and takes nothing from the others.
    table = five_seeds(folder / "four", {"DCNN": [0.0] * 5, "TL": [3.0, 3.1, 2.9, 3.0, 3.1], "HDA": [-5.0] * 4})
    assert best_of(table, "RMSE") == {"KNN": False, "MODEL": False, "DCNN": True, "TL": False, "HDA": False}
    # A constant reference far below every network is never bold, and takes nothing either.
    store = Store(
        folder / "knn", spec(axes={"method": ["DCNN", "TL"]}, search=[], references=["KNN"], seeds=5, claims=[])
    )
    store.add("KNN", 0, test_rmse_m=1.0, details=False)
    for seed in range(5):
        store.add("DCNN", seed, test_rmse_m=10.0 + seed / 100, details=False)
        store.add("TL", seed, test_rmse_m=12.0 + seed / 90, details=False)
    table = tables.performance(load_results(store.folder))
    assert best_of(table, "RMSE") == {"KNN": False, "DCNN": True, "TL": False}


@given(
    st.lists(
        st.lists(st.floats(1.0, 100.0), min_size=5, max_size=8).map(lambda values: dict(enumerate(values))),
        min_size=2,
        max_size=5,
    )
)
def test_the_lowest_mean_over_common_seeds_is_never_beaten(rows: list[dict[int, float]]) -> None:
    size = min(map(len, rows))
    rows = [{seed: row[seed] for seed in range(size)} for row in rows]
    beaten = beaten_by(rows, lower=True)
    assert not beaten[min(range(len(rows)), key=lambda number: (sum(rows[number].values()), number))]
    assert not any(i in beaten[j] and j in beaten[i] for i in range(len(rows)) for j in range(len(rows)))
    assert beaten_by([{seed: -value for seed, value in row.items()} for row in rows], lower=False) == beaten


def test_what_is_not_trained_is_no_result(folder: Path) -> None:
    weights = [0.0, 0.4, 1.0]
    axes = {"method": ["MDA", "HDA"], "objective.lambda": weights}
    store = Store(folder, spec(axes=axes, search=[], references=[], seeds=5, claims=[]))
    for seed in range(5):
        store.add("HDA", seed, test_rmse_m=9.0 + seed / 10, test_accuracy=0.80 + seed / 1000, details=False)
        for weight in weights:
            # The untrained ends look best of all, by a wide margin.
            store.add(
                "MDA", seed, objective={"lambda": weight}, details=False,
                test_rmse_m=0.5 if weight == 0 else 9.5 + seed / 7,
                validation_rmse_m=0.5 if weight == 0 else 5 + weight,
                test_accuracy=0.99 if weight == 1 else 0.7 + seed / 500, test_median_error_m=0.1, test_p90_error_m=0.2,
            )  # fmt: skip
    results = load_results(folder)
    table = tables.performance(results)
    only_condition, only_position = row_of(table, "MDA", "0"), row_of(table, "MDA", "1")
    for name in ("RMSE", "Median", "90th pct."):
        cell = only_condition[name]
        assert (cell.text, cell.value, cell.note, cell.best) == ("–", None, "not trained at λ = 0", False)
        assert only_position[name].value is not None
    assert (only_position["Accuracy"].text, only_position["Accuracy"].note) == ("–", "not trained at λ = 1")
    assert only_condition["Accuracy"].value is not None
    assert row_of(table, "HDA", "–")["Accuracy"].best
    assert "of highest validation accuracy" in table.caption
    for row in csv.DictReader(io.StringIO(tables.to_csv(table))):
        assert (row["RMSE [m]"] == "") == (row["λ"] == "0")
    words = headline(results)
    assert "0.5 m" not in words
    assert "manual-optimum MDA 9.79 m" in words
    listed = tables.trial_list(results)
    assert row_of(listed, "MDA", "0", "3")["Test RMSE"].text == "–"
    gap = tables.selection_gap(results)
    assert gap is not None
    names = [column.name for column in gap.columns]
    assert {row[names.index("Rule")].text: row[names.index("Chosen")].text for row in gap.rows}["Oracle"] != "λ 0"


def test_the_epoch_rule_of_lambda_0_is_told_only_where_it_applies(finished: Store, folder: Path) -> None:
    assert "highest validation accuracy" in tables.describe_selection(load_results(finished.folder))  # the grid has 0
    store = Store(folder, spec(search=[], claims=[]))
    store.add("HDA", 0, details=False)
    assert "accuracy" not in tables.describe_selection(load_results(folder))


def chosen_by_validation(folder: Path, methods: dict[str, float]) -> Store:
    """MDA's best test error is at a λ that the validation scenes reject."""
    axes = {"method": [*methods, "MDA"], "objective.lambda": [0.1, 0.5, 0.9]}
    store = Store(folder, spec(axes=axes, search=[], references=[], seeds=5, claims=[]))
    for seed in range(5):
        for method, level in methods.items():
            store.add(method, seed, test_rmse_m=level + seed * seed / 50, details=False)
        for weight, test, validation in ((0.1, 9.5, 6.0), (0.5, 9.5, 7.0), (0.9, 2.0, 8.0)):
            objective = {"lambda": weight}
            store.add("MDA", seed, objective=objective, test_rmse_m=test + seed / 10, validation_rmse_m=validation,
                      details=False)  # fmt: skip
    return store


def test_a_headline_never_chooses_weights_by_the_test_error(folder: Path) -> None:
    words = headline(load_results(chosen_by_validation(folder / "above", {"DCNN": 9.0}).folder))
    assert words.startswith("DCNN had the lowest test RMSE of the 2 compared, 9.12 m")
    words = headline(load_results(chosen_by_validation(folder / "below", {"DCNN": 12.0}).folder))
    assert words.startswith(
        "MDA (λ 0.1 chosen on the validation scenes) had the lowest test RMSE of the 2 compared, 9.70"
    )


def test_a_headline_crowns_no_winner_by_noise(folder: Path) -> None:
    axes = {"method": ["DCNN", "TL", "RDA"]}
    store = Store(folder, spec(axes=axes, search=[], references=["KNN"], seeds=5, claims=[]))
    noise = [0.5, -0.7, 0.3, -0.2, 0.4]
    for seed in range(5):
        store.add("DCNN", seed, test_rmse_m=10.0 + noise[seed], details=False)
        store.add("TL", seed, test_rmse_m=10.0 + noise[(seed + 2) % 5] + 0.01, details=False)
        store.add("RDA", seed, test_rmse_m=20.0 + noise[seed] + seed / 100, details=False)
    words = headline(load_results(folder))
    assert words.startswith("So far, the lowest mean test RMSE, 10.06 m")
    assert words.endswith("is that of DCNN; that is significantly below 1 of the 2 others.")


def test_a_headline_does_not_compare_systems(folder: Path) -> None:
    axes = {"method": ["DCNN", "TL"], "system.paths": [10, 25]}
    store = Store(folder, spec(axes=axes, search=[], references=[], seeds=5, claims=[]))
    for seed in range(5):
        for paths, levels in ((10, (20.0, 18.0)), (25, (5.0, 7.0))):
            for method, level in zip(("DCNN", "TL"), levels, strict=True):
                store.add(method, seed, system={"paths": paths}, test_rmse_m=level + seed * level / 900, details=False)
    words = headline(load_results(folder))
    assert words == (
        "The lowest mean test RMSE is TL’s in 1, DCNN’s in 1 of 2 configurations; it is significantly below all "
        "others in 2."
    )


def test_a_headline_names_lost_seeds_and_a_better_reference(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["MDA", "HDA"]}, search=[], references=["KNN"], seeds=7, claims=[]))
    store.add("KNN", 0, test_rmse_m=9.77, details=False)
    for seed in range(7):
        store.add("MDA", seed, objective={"lambda": 0.5}, test_rmse_m=9.9 + seed / 50, details=False)
        if seed < 2:
            store.add("HDA", seed, state="diverged", details=False)
        else:
            store.add("HDA", seed, test_rmse_m=10.0 + seed / 40, details=False)
    words = headline(load_results(folder))
    assert re.match(
        r"HDA reached 10\.10 m \([^)]*n = 5\) \(2 of 7 seeds diverged\); MDA with fixed weights 9\.96 m", words
    )
    assert words.endswith("; the look-up KNN reached 9.77 m, better than both.")
    assert "training time" not in words  # nothing was searched
    table = tables.performance(load_results(folder))
    assert row_of(table, "HDA")["Not finished"].text == "diverged ×2"


def test_missing_seeds_have_the_same_words_in_every_table(folder: Path) -> None:
    store = Store(folder, spec(axes={"method": ["DCNN", "MDA", "HDA"]}, seeds=5, references=[], claims=[]))
    for method in ("DCNN", "HDA"):
        store.add(method, 0, details=False)
        store.add(method, 1, state="diverged", details=False)
    for step in range(5):
        store.add("MDA", 0, objective={"lambda": step / 10}, details=False)
    results = load_results(folder)
    optimum, gained = tables.manual_optimum(results), tables.gains(results)
    assert optimum is not None
    assert gained is not None
    main = tables.performance(results)
    assert row_of(main, "HDA")["Not finished"].text == "diverged ×1, 3 seeds not run"
    for table, hda, mda in (
        (optimum, "HDA, self-weighted", "MDA, manual optimum"),
        (gained, "Self-weighted (HDA)", "Approximate optimum (MDA)"),
    ):
        assert row_of(table, hda)["Not finished"].text == row_of(main, "HDA")["Not finished"].text
        assert row_of(table, mda)["Not finished"].text == row_of(main, "MDA")["Not finished"].text
        assert "4 seeds not run, 5 of 11 candidates run" in row_of(table, mda)["Not finished"].text


@pytest.mark.parametrize("epochs", [40, 2000])
def test_epochs_are_compared_with_the_papers_only_where_as_many_are_planned(folder: Path, epochs: int) -> None:
    published = [{"when": {"method": "DCNN"}, "best_epoch": 926, "test_rmse": 1.2345, "parameters": 207_000}]
    content = spec(axes={"method": ["DCNN"]}, search=[], references=[], claims=[], published=published)
    content["base"]["training"]["epochs"] = epochs
    store = Store(folder, content)
    store.add("DCNN", 0, epochs=epochs, details=False)
    results = load_results(folder)
    table = tables.complexity(results)
    assert table is not None
    row = row_of(table, "DCNN")
    assert row["Best epoch, paper"].value == 926
    assert ("Best epoch, difference" in row) == (epochs == 2000)
    assert row["Parameters, difference"].text == "+0.18"
    main = row_of(tables.performance(results), "DCNN")
    assert main["RMSE, paper"].text == "1.2345"
    assert "RMSE, difference" not in main  # metres of another site say nothing


def test_times_come_with_their_caveat(finished: Store) -> None:
    results = load_results(finished.folder)
    timed = [tables.cost(results), tables.complexity(results), tables.manual_optimum(results)]
    for table in timed:
        assert table is not None
        assert any("Times depend on the machine" in note for note in table.notes)


def test_with_few_seeds_nothing_is_bold_and_the_caption_says_why(finished: Store) -> None:
    table = tables.performance(load_results(finished.folder))
    assert not any(cell.best for row in table.rows for cell in row)
    assert "n < 5" in table.caption


def test_references_are_explained_when_they_are_there(folder: Path) -> None:
    table = five_seeds(folder, {"HDA": [0.0] * 5})
    (note,) = (note for note in table.notes if "KNN" in note)
    assert "MODEL computes" in note
    assert "MEAN" not in note


def test_every_caption_says_site_split_rule_seeds_and_interval(finished: Store) -> None:
    for table in all_tables(finished):
        assert "Site canyon_small; 50 training, 20 validation, 50 test scenes" in table.caption
        if table.name in tables.TABLES:
            assert "3 seeds with the 95 % bootstrap interval" in table.caption
            assert re.search(r"lowest validation RMSE|Each rule chooses", table.caption)
            assert re.search(r"n < 5|nothing (is|to) test", table.caption)


def test_long_decimals_of_a_search_are_cut_and_kept_in_the_csv(folder: Path) -> None:
    space = {"objective.lambda": {"float": [0.0, 1.0]}}
    search = {"when": {"method": "MDA"}, "space": space, "sampler": "random", "trials": 2, "seeds": 1}
    store = Store(folder, spec(axes={"method": ["MDA", "HDA"]}, search=[search], references=[], claims=[]))
    for weight in (0.30000000001, 0.6123456789):
        store.add("MDA", 0, objective={"lambda": weight}, validation_rmse_m=weight, details=False)
    store.add("HDA", 0, details=False)
    results = load_results(folder)
    assert row_of(tables.performance(results), "MDA")["Selected"].text == "λ 0.3"
    table = tables.manual_optimum(results)
    assert table is not None
    (row,) = (row for row in table.rows if row[0].text.startswith("MDA"))
    (cell,) = (cell for column, cell in zip(table.columns, row, strict=True) if column.name == "λ")
    assert (cell.text, cell.value) == ("0.3", 0.30000000001)
    assert {row[1].text for row in tables.trial_list(results).rows if row[0].text == "MDA"} == {"λ 0.3", "λ 0.6123"}


def test_published_values_of_table_iii_stand_beside_the_counts(folder: Path) -> None:
    entry = {"best_epoch": 1604, "parameters": 1_300_628, "macs_paper": 17_829_777_408}
    published = [
        {"when": {"method": "MDA"}, "optimum": True, **entry},
        {"when": {"method": "DCNN", "system.paths": 25}, "best_epoch": 926, "parameters": 207_378},
    ]
    store = full_study(folder, details=False, published=published)
    results = load_results(store.folder)
    table = tables.complexity(results)
    assert table is not None
    single, joint = row_of(table, "DCNN"), row_of(table, "MDA")
    assert (single["Best epoch, paper"].value, single["Parameters, difference"].text) == (926, "0.00")
    assert single["MACs, paper"].text == "–"
    assert (joint["Parameters, paper"].text, joint["MACs, paper"].text) == ("1.301 M", "17.830 G")
    assert joint["Parameters, difference"].value == pytest.approx(100 * (651_200 / 1_300_628 - 1))
    assert row_of(table, "HDA")["Best epoch, paper"].text == "–"
    optimum = tables.manual_optimum(results)
    assert optimum is not None
    assert row_of(optimum, "MDA, manual optimum")["Best epoch, paper"].value == 1604
    assert not any("paper" in column.name for column in tables.performance(results).columns)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (512, "512"),
        (207_378, "207.378 K"),
        (1_300_628, "1.301 M"),
        (999_999.9, "1.000 M"),
        (17_829_777_408, "17.830 G"),
        (0, "0"),
    ],
)
def test_si_counts(value: float, text: str) -> None:
    assert si_count(value) == text


def test_names_are_shown_as_they_are() -> None:
    nasty = "a|b <script>alert(1)</script> *x* [red]y[/red] `z`"
    table = Table("t", nasty, nasty, (Column(nasty, align="left"),), ((Cell(nasty, nasty, note=nasty),),), (nasty,))
    page = tables.to_html(table)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    markdown = tables.to_markdown(table)
    assert "<script>" not in markdown
    for line in markdown.splitlines()[2:5]:
        assert len(re.findall(r"(?<!\\)\|", line)) == 2
    buffer = io.StringIO()
    Console(file=buffer, width=200, color_system=None).print(tables.to_terminal(table))
    assert buffer.getvalue().count("[red]y[/red]") == 5


def test_tables_need_no_drawing_library_and_nothing_needs_torch_or_ray() -> None:
    code = (
        "import sys, reports.tables; assert not any(name.split('.')[0] in ('matplotlib', 'seaborn') for name in "
        "sys.modules); import reports.build; assert not any(name.split('.')[0] in ('torch', 'ray', 'optuna') "
        "for name in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_remarks_name_the_references_and_a_training_that_was_still_improving(folder: Path) -> None:
    store = Store(folder, spec(search=[], axes={"method": ["DCNN"]}, seeds=2))
    store.add("MEAN", 0, test_rmse_m=37.4)
    store.add("KNN", 0, test_rmse_m=15.5)
    store.add("DCNN", 0, best_epoch=40, epochs=40)
    store.add("DCNN", 1, best_epoch=40, epochs=40)
    references, improving = remarks(load_results(folder))
    assert "MEAN 37.4" in references
    assert "KNN 15.5" in references
    assert improving.startswith("In 2 of 2 trials the last epoch was the best")
    store.add("DCNN", 0, best_epoch=20, epochs=40)
    store.add("DCNN", 1, best_epoch=20, epochs=40)
    assert len(remarks(load_results(folder))) == 1


def test_captions_say_the_split(tmp_path: Path) -> None:
    from study.spec.expand import expand

    fixed = full_study(tmp_path / "fixed")
    words = tables.describe_split(load_results(fixed.folder))
    assert words.startswith("Site canyon_small; 50 training, 20 validation, 50 test scenes in time order;")
    assert "positions shared" in words
    axes = {"method": ["DCNN"], "split.labelled_scenes": [5, 10, 25, "all"], "split.positions": ["shared", "held_out"]}
    store = Store(tmp_path / "varied", spec(axes=axes, search=[], claims=[]))
    for cell in expand(store.spec):
        store.add_trial(cell.trial(0, HASH))
    words = tables.describe_split(load_results(store.folder))
    assert words.endswith("But varied: labelled scenes: 5, 10, 25, all; positions: shared, held out.")
    assert words.startswith("Site canyon_small; 50 training, 20 validation")


def test_a_reference_that_no_method_beats_is_the_headline(tmp_path: Path) -> None:
    store = Store(tmp_path / "study", spec(axes={"method": ["DCNN", "TL"]}, search=[], claims=[]))
    for method, error in (("DCNN", 20.0), ("TL", 21.0), ("KNN", 30.0), ("MEAN", 17.0)):
        store.add(method, 0, test_rmse_m=error)
    words = headline(load_results(store.folder))
    assert words.startswith("So far, no method beat MEAN (17.0 m")
    assert "the lowest mean of the others, 20.0 m (n = 1), is that of DCNN" in words


def test_a_headline_over_different_test_samples_says_so(tmp_path: Path) -> None:
    from study.spec.expand import expand

    for path, values, differ in (
        ("split.positions", ["shared", "held_out"], True),
        ("split.labelled_scenes", [5, "all"], False),
    ):
        axes = {"method": ["DCNN", "TL"], path: values}
        store = Store(tmp_path / path, spec(axes=axes, search=[], claims=[]))
        for number, cell in enumerate(expand(store.spec)):
            store.add_trial(cell.trial(0, HASH), test_rmse_m=20.0 - number)
        words = headline(load_results(store.folder))
        assert ("configurations are tested on different samples" in words) == differ


def test_what_early_stopping_spared_is_told(folder: Path) -> None:
    content = spec()
    content["search"][0] |= {"seeds": 2, "early_stopping": {"rule": "asha"}}
    store = Store(folder, content)
    for step in range(11):
        objective = {"lambda": step / 10}
        if step % 2:  # stopped after 10 of 40 epochs, which took 30 s: its other seed was not run
            store.add("MDA", 0, objective=objective, state="pruned", train_seconds=30.0, details=False)
        else:
            for seed in range(2):
                store.add("MDA", seed, objective=objective, train_seconds=120.0, details=False)
    results = load_results(folder)
    (cell,) = (cell for cell in results.cells if cell.method == "MDA")
    assert cell.planned == 6 * 2 + 5 + 1
    table = tables.cost(results)
    row = row_of(table, "MDA")
    # 5 candidates: 30 epochs at 3 s, and 40 more of the seed that was not run.
    assert row["Pruned"].text == "5"
    assert row["Spared"].value == pytest.approx(5 * (30 + 40) * 3.0 / 60)
    assert "5 trials were stopped early, which spared about 18 min of training" in table.caption
    assert "Spared" not in [
        column.name for column in tables.cost(load_results(full_study(folder / "other").folder)).columns
    ]
