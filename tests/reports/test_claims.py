"""Claims on results folders whose numbers are known: what is true of them must be found, and nothing else."""

from __future__ import annotations

import csv
import io
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from reports.claims import Judgement, claims_table, judge
from reports.results import Results, Trial, load_results
from reports.statistics import holm
from reports.tables import to_csv, to_markdown
from study.spec.expand import distinct, expand
from study.spec.trial import Trial as WantedTrial
from study.spec.trial import TrialConfiguration
from tests.reports.store_factory import HASH, Store, spec

# (method, configuration, seed) → columns; None for a trial that is not stored, a text for its state.
Numbers = Callable[[str, Mapping[str, Any], int], dict[str, Any] | str | None]

METHODS = ["DCNN", "MDA", "HDA"]
WEIGHTS = [0.1, 0.5, 0.9]
SEARCH = {"when": {"method": "MDA"}, "space": {"objective.lambda": {"values": WEIGHTS}}, "seeds": 5}


def draw(*key: object, scale: float = 0.1) -> float:
    """A fixed draw from a normal distribution for each key."""
    return random.Random(repr(key)).gauss(0, scale)


def study(folder: Path, claims: list[dict[str, Any]], numbers: Numbers, **changes: Any) -> Results:
    """A results folder with every trial that the spec asks for (each candidate on each search seed)."""
    axes = {"method": METHODS}
    content = spec(claims=claims, **({"axes": axes, "seeds": 5, "search": [], "references": []} | changes))
    store = Store(folder, content)
    for cell in distinct(expand(store.spec)):
        candidates: list[dict[str, Any] | None] = [None]
        seeds = store.spec.seeds
        if cell.search is not None:
            domains = {path: domain.values() or [] for path, domain in cell.search.space.items()}
            candidates = [dict(zip(domains, values, strict=True)) for values in itertools.product(*domains.values())]
            seeds = cell.search.seeds
        for values in candidates:
            for trial in cell.trials(seeds, HASH, values):
                made = numbers(trial.method, trial.config, trial.seed)
                if isinstance(made, str):
                    store.add_trial(trial, state=made)
                elif made is not None:
                    store.add_trial(trial, **made)
    return load_results(folder)


def rmse(value: float) -> dict[str, Any]:
    return {"test_rmse_m": value, "validation_rmse_m": value}


LEVELS = {"MEAN": 30.0, "KNN": 12.0, "DCNN": 10.0, "MDA": 8.0, "HDA": 7.5}


def levels(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Each method has its error, whatever the configuration, with noise of 0.1 m."""
    return rmse(LEVELS[method] + draw(method, config["system"]["paths"], seed))


def curved(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """MDA is best at λ = 0.1 with 10 paths and at 0.9 with 25, and DCNN gains 3 m from paths."""
    paths, weight = config["system"]["paths"], config["objective"].get("lambda")
    value = LEVELS[method] + draw(method, paths, weight, seed)
    if weight is not None:
        value += 5 * abs(weight - (0.1 if paths == 10 else 0.9))
    return rmse(value + (3 if method == "DCNN" and paths == 10 else 0))


def compare(better: str | list[str] = "HDA", than: str | list[str] = "DCNN", **more: Any) -> dict[str, Any]:
    return {"name": "a claim", "better": {"method": better}, "than": {"method": than}} | more


def only(results: Results) -> Judgement:
    (judgement,) = judge(results)
    return judgement


def verdicts(results: Results) -> list[str]:
    return [judgement.verdict for judgement in judge(results)]


# --- comparisons ----------------------------------------------------------------------------------------------------


def test_what_is_true_is_supported_and_its_opposite_refuted(tmp_path: Path) -> None:
    claims: list[dict[str, Any]] = [
        compare("HDA", "DCNN"),  # 2.5 m better
        compare("DCNN", "HDA"),
        compare("HDA", "DCNN", margin=2.0),
        compare("HDA", "DCNN", margin=3.0),
        compare("HDA", "DCNN", factor=1.2),  # 1.33 times
        compare("HDA", "DCNN", factor=1.5),
        compare("MDA", "HDA", margin=-1.0),  # 0.5 m worse: as good within 1 m
        compare("MDA", "HDA", factor=0.9),
        compare("MDA", "HDA", factor=0.98),
    ]
    yes, no = "supported", "refuted"
    assert verdicts(study(tmp_path, claims, levels)) == [yes, no, yes, no, yes, no, yes, yes, no]


def test_a_finding_has_the_numbers_of_the_trials(tmp_path: Path) -> None:
    results = study(tmp_path, [compare(paper="HDA 0.82 m")], levels)
    cells = {cell.method: {t.seed: t.row["test_rmse_m"] for t in cell.trials} for cell in results.cells}
    differences = [cells["DCNN"][seed] - cells["HDA"][seed] for seed in range(5)]
    judgement = only(results)
    assert judgement.effect is not None
    assert judgement.effect.mean == pytest.approx(sum(differences) / 5)
    assert judgement.p == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue)
    assert (judgement.n, judgement.unit, judgement.paper) == (5, "m", "HDA 0.82 m")
    assert set(judgement.keys) == {t.key for cell in results.cells if cell.method != "MDA" for t in cell.trials}
    assert f"{sum(cells['HDA'].values()) / 5:.2f}" in judgement.finding
    assert judgement.test_and_p.startswith("paired t-test over 5 seeds, p")
    assert judgement.reason is None


def test_noise_is_inconclusive(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return rmse(9 + draw(method, seed, scale=1.0))

    judgement = only(study(tmp_path, [compare()], numbers))
    assert judgement.verdict == "inconclusive"
    assert "noise" in str(judgement.reason)
    assert judgement.effect is not None


def test_p_values_are_corrected_for_all_claims(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return rmse({"DCNN": 9.0, "MDA": 8.9, "HDA": 8.8}[method] + draw(method, seed))

    pairs = list(itertools.permutations(METHODS, 2))
    results = study(tmp_path, [compare(*pair) for pair in pairs], numbers)
    values = {cell.method: [trial.row["test_rmse_m"] for trial in cell.trials] for cell in results.cells}
    alone = [float(scipy.stats.ttest_rel(values[first], values[second]).pvalue) for first, second in pairs]
    judged = judge(results)
    assert [judgement.p for judgement in judged] == pytest.approx(holm(alone))
    assert "6 claims" in judged[0].test_and_p


def test_configurations_are_averaged_within_seeds_and_are_no_further_draws(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        # The difference between methods is the seed's, the same for all numbers of paths.
        return rmse(9 + (draw("common", seed, scale=1.0) if method == "HDA" else 0.2) + config["system"]["paths"] / 10)

    one = only(study(tmp_path / "one", [compare()], numbers, axes={"method": METHODS, "system.paths": [10]}))
    many = only(
        study(tmp_path / "many", [compare()], numbers, axes={"method": METHODS, "system.paths": [5, 10, 20, 25]})
    )
    assert (many.n, many.p) == (5, pytest.approx(one.p))
    assert "configurations" in many.finding


def test_a_list_means_each_of_its_values(tmp_path: Path) -> None:
    claims = [compare("HDA", ["DCNN", "MDA"]), compare("MDA", ["DCNN", "HDA"]), compare(["MDA", "HDA"], "DCNN")]
    first, second, third = judge(study(tmp_path, claims, levels))
    assert (first.verdict, second.verdict, third.verdict) == ("supported", "refuted", "supported")
    assert first.effect is not None
    assert first.effect.mean == pytest.approx(0.5, abs=0.2)  # of the hardest of them


def test_a_cell_is_not_compared_with_itself(tmp_path: Path) -> None:
    claims = [compare("HDA", "DCNN"), compare("HDA", ["HDA", "DCNN"])]
    one, both = judge(study(tmp_path, claims, levels))
    assert (one.effect, one.verdict) == (both.effect, both.verdict)


def test_settings_pair_cells_unless_a_side_names_them(tmp_path: Path) -> None:
    axes = {"method": ["DCNN", "HDA"], "system.paths": [10, 25], "system.bandwidth_mhz": [20, 40]}
    hda = {"method": "HDA"}
    claims: list[dict[str, Any]] = [
        {"name": "paths", "better": {"system.paths": 25}, "than": {"system.paths": 10}},
        {"name": "of HDA", "better": hda | {"system.paths": 25}, "than": hda | {"system.paths": 10}},
        {"name": "alike", "better": hda | {"system.paths": 10}, "than": {"method": "DCNN", "system.paths": 10}},
    ]

    paths, same, alike = judge(study(tmp_path, claims, curved, axes=axes))
    assert paths.verdict == "supported"
    assert paths.effect is not None
    assert paths.effect.mean == pytest.approx(1.5, abs=0.2)  # 3 m of DCNN and nothing of HDA
    assert len(paths.keys) == 2 * 2 * 2 * 5
    assert same.verdict == "inconclusive"
    assert len(same.keys) == 2 * 2 * 5
    assert alike.effect is not None
    assert alike.effect.mean == pytest.approx(5.5, abs=0.3)
    assert len(alike.keys) == 2 * 2 * 5


def test_a_reference_stands_for_every_seed_and_two_of_them_leave_nothing_to_test(tmp_path: Path) -> None:
    claims: list[dict[str, Any]] = [
        compare("HDA", "KNN"),
        compare("KNN", "MEAN"),
        compare("MEAN", "KNN"),
        compare("KNN", "MEAN", metric="spent_trials", margin=-1),
        compare("KNN", "MEAN", metric="spent_seconds"),
        {"name": "c", "depends": {"method": "KNN"}, "upon": "system.paths", "factor": 1.5},
    ]
    axes = {"method": ["HDA"], "system.paths": [10, 25]}
    judged = judge(study(tmp_path, claims, levels, axes=axes, references=["MEAN", "KNN"]))
    no = "inconclusive"
    assert [j.verdict for j in judged] == ["supported", no, no, "supported", no, no]
    assert [j.p is None for j in judged] == [False, True, True, True, True, True]
    assert judged[0].n == 5
    for j in (judged[1], judged[2], judged[4], judged[5]):
        assert (j.reason, j.test) == ("one run each, nothing to test", "no test")
        assert j.effect is not None
        assert j.effect.low is None


@pytest.mark.parametrize("form", ["axis", "search"])
def test_the_manual_optimum_is_selected_on_validation_scenes(tmp_path: Path, form: str) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        weight = config["objective"].get("lambda", 0.5)
        # λ = 0.5 is best on the validation scenes, 0.9 on the test scenes: selecting there would be peeking.
        validation = abs(weight - 0.5) + draw("validation", weight, seed, scale=0.01)
        test = (8 if method == "MDA" else 7.7) + abs(weight - 0.9) + draw(method, weight, seed, scale=0.02)
        return {"test_rmse_m": test, "validation_rmse_m": 5 + validation}

    changes: dict[str, Any] = {"search": [SEARCH]}
    if form == "axis":
        changes = {"axes": {"method": METHODS, "objective.lambda": WEIGHTS}}
    claims: list[dict[str, Any]] = [
        compare("HDA", "MDA"),
        {"name": "named", "better": {"method": "MDA"}, "than": {"method": "MDA", "objective.lambda": 0.1}},
        {"name": "named", "better": {"method": "MDA"}, "than": {"method": "MDA", "objective.lambda": 0.9}},
        compare("HDA", "MDA", metric="spent_trials", factor=3),
        compare("HDA", "MDA", metric="spent_seconds", factor=2),
    ]
    judged = judge(study(tmp_path, claims, numbers, **changes))
    assert [j.verdict for j in judged] == ["supported", "supported", "refuted", "supported", "supported"]
    assert judged[0].effect is not None
    assert judged[0].effect.mean == pytest.approx(0.3, abs=0.05)
    assert "best λ" in judged[0].finding
    assert "15" in judged[3].finding
    assert judged[3].p is None


def test_counts_are_exact(tmp_path: Path) -> None:
    claims: list[dict[str, Any]] = [
        compare("DCNN", "HDA", metric="parameters"),
        compare("HDA", "DCNN", metric="parameters"),
        compare("MDA", "HDA", metric="spent_trials"),  # 5 and 5: equal is not better
        compare("MDA", "HDA", metric="spent_trials", factor=1.5),
        compare("MDA", "HDA", metric="spent_trials", margin=-1),
        compare("HDA", "MDA", metric="macs_paper", factor=0.99),
    ]
    judged = judge(study(tmp_path, claims, levels))
    yes, no = "supported", "refuted"
    assert [j.verdict for j in judged] == [yes, no, no, no, yes, yes]
    assert {j.p for j in judged} == {None}
    assert {j.test for j in judged} == {"none needed: exact"}


def test_a_count_that_depends_on_the_configuration_is_neither(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        size = 100 if method == "HDA" else config["system"]["paths"] * 8
        return {"parameters": size}

    results = study(
        tmp_path, [compare(metric="parameters")], numbers, axes={"method": METHODS, "system.paths": [10, 25]}
    )
    judgement = only(results)
    assert judgement.verdict == "inconclusive"
    assert "some configurations" in str(judgement.reason)
    assert "1 of 2" in judgement.finding


def test_higher_accuracy_is_better(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return {"test_accuracy": {"MDA": 0.8, "HDA": 0.9}.get(method, 0.5) + draw(method, seed, scale=0.005)}

    claims: list[dict[str, Any]] = [
        compare("HDA", "MDA", metric="test_accuracy"),
        compare("HDA", "MDA", metric="test_accuracy", margin=0.05),
        compare("HDA", "MDA", metric="test_accuracy", factor=1.2),
        compare("MDA", "HDA", metric="test_accuracy"),
    ]
    assert verdicts(study(tmp_path, claims, numbers)) == ["supported", "supported", "refuted", "refuted"]


def test_an_average_that_configurations_contradict_is_not_supported(tmp_path: Path) -> None:
    # HDA is 10 m better with 10 paths and 1 m worse with 15 and 25; DCNN is never better on average.
    errors = {"HDA": {10: 20, 15: 6, 25: 6}, "DCNN": {10: 30, 15: 5, 25: 5}}

    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        paths = config["system"]["paths"]
        scale = 10 if method == "DCNN" else 1
        return rmse(errors[method][paths] + draw(method, paths, seed)) | {
            "train_seconds": scale * (errors[method][paths] + draw(method, paths, seed))
        }

    claims: list[dict[str, Any]] = [
        compare("HDA", "DCNN"),
        compare("DCNN", "HDA"),
        compare("HDA", "DCNN", margin=-1.5),  # 1 m worse is within it everywhere
        compare("HDA", "DCNN", metric="spent_seconds"),  # better everywhere
        compare("HDA", "DCNN", metric="spent_seconds", factor=9),  # not with 15 and 25 paths
    ]
    axes = {"method": ["DCNN", "HDA"], "system.paths": [10, 15, 25]}
    judged = judge(study(tmp_path, claims, numbers, axes=axes))
    assert [j.verdict for j in judged] == ["inconclusive", "refuted", "supported", "supported", "inconclusive"]
    assert judged[0].reason == judged[4].reason == "holds on average, violated in 2 of 3 configurations"
    assert judged[0].p is not None
    assert judged[0].p < 0.05
    assert "as claimed in 1 of 3 configurations" in judged[0].finding
    assert "depend on what else the machine did" in judged[3].finding


def test_the_difference_is_plain_and_the_finding_has_what_was_needed(tmp_path: Path) -> None:
    claims: list[dict[str, Any]] = [
        compare("HDA", "MDA", factor=1.29),
        compare("HDA", "MDA", margin=2.0),
        compare("HDA", "DCNN", metric="spent_seconds", factor=2),
        compare("HDA", "DCNN", metric="test_accuracy", factor=1.1),
    ]

    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return levels(method, config, seed) | {"test_accuracy": 0.9 if method == "HDA" else 0.6}

    results = study(tmp_path, claims, numbers)
    cells = {cell.method: {t.seed: t.row["test_rmse_m"] for t in cell.trials} for cell in results.cells}
    differences = [cells["MDA"][seed] - cells["HDA"][seed] for seed in range(5)]
    factor, margin, seconds, accuracy = judge(results)
    plain = scipy.stats.ttest_1samp(differences, 0).confidence_interval()
    for judgement in (factor, margin):
        assert judgement.effect is not None
        assert judgement.effect.mean == pytest.approx(sum(differences) / 5)
        assert (judgement.effect.low, judgement.effect.high) == pytest.approx(tuple(plain))
    ratio = sum(cells["MDA"].values()) / sum(cells["HDA"].values())
    assert f"needs at least 1.29 times; is {ratio:.2f} times (1." in factor.finding
    assert "needs at least 2.00\u00a0m better" in margin.finding
    assert (factor.verdict, margin.verdict) == ("refuted", "refuted")
    assert seconds.effect is not None
    sums = {cell.method: sum(t.row["train_seconds"] for t in cell.trials) for cell in results.cells}
    assert seconds.effect.mean == pytest.approx(sums["DCNN"] - sums["HDA"])
    assert accuracy.effect is not None
    assert accuracy.effect.mean == pytest.approx(0.3)
    assert "is 1.50 times" in accuracy.finding


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("HDA beats DCNN", "7.00\u00a0m against 9.00\u00a0m: 2.00\u00a0m better (n = 2)."),
        ("ours is better", "7.00\u00a0m (HDA) against 9.00\u00a0m (DCNN): 2.00\u00a0m better (n = 2)."),
        ("ours is better than DCNN", "7.00\u00a0m (HDA) against 9.00\u00a0m: 2.00\u00a0m better (n = 2)."),
    ],
)
def test_a_finding_names_the_sides_where_the_claim_does_not(tmp_path: Path, name: str, finding: str) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return rmse(7.0 if method == "HDA" else 9.0)

    results = study(tmp_path, [compare(name=name)], numbers, seeds=2, axes={"method": ["DCNN", "HDA"]})
    judgement = only(results)
    assert judgement.finding == finding
    assert judgement.reason == "too few seeds: 2 of the 5 that a test needs"


def test_what_one_of_a_list_refutes_is_refuted_whatever_is_missing(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any] | str:
        return "failed" if method == "MDA" else rmse({"DCNN": 7, "HDA": 9}[method] + draw(method, seed))

    claims: list[dict[str, Any]] = [
        compare("HDA", ["DCNN", "MDA"]),
        compare("DCNN", ["HDA", "MDA"]),
        compare("HDA", ["MDA", "DCNN"], margin=-2.0),  # about as much as it is worse
    ]
    refuted, holds, open_ = judge(study(tmp_path, claims, numbers))
    assert (refuted.verdict, refuted.reason) == ("refuted", None)
    assert (holds.verdict, open_.verdict) == ("inconclusive", "inconclusive")
    for judgement in (holds, open_):
        assert "seed 0 failed" in str(judgement.reason)


def test_a_metric_that_is_not_trained_is_no_result(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        weight = config["objective"].get("lambda")
        # Untrained heads are far off, and so would decide everything.
        accuracy = 0.1 if weight == 1 else 0.9
        return rmse((110 if weight == 0 else 10) + draw(weight, seed)) | {
            "test_accuracy": accuracy + draw("accuracy", weight, seed, scale=0.002)
        }

    def mda(weight: float, **more: Any) -> dict[str, Any]:
        return {"method": "MDA", "objective.lambda": weight, **more}

    def named(better: dict[str, Any], than: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": "c", "better": better, "than": than} | more

    depends: dict[str, Any] = {"name": "c", "depends": {"method": "MDA"}, "upon": "objective.lambda", "factor": 1.2}
    shift: dict[str, Any] = {
        "name": "c",
        "optimum": {"method": "MDA"},
        "of": "objective.lambda",
        "differs_over": "system.paths",
    }
    claims: list[dict[str, Any]] = [
        depends,
        depends | {"metric": "test_accuracy"},
        named(mda(0.5), mda(0.0)),
        named(mda(0.5), mda(1.0), metric="test_accuracy"),
        named(mda(0.0), mda(1.0), metric="parameters", margin=-1),
        shift,
        {"name": "c", "steadier": {"method": "HDA"}, "than": {"method": "MDA", "objective.lambda": 0}}
        | {"over": "system.paths"},
    ]
    axes = {"method": ["MDA", "HDA"], "system.paths": [10, 25], "objective.lambda": [0.0, 0.5, 0.9, 1.0]}
    judged = judge(study(tmp_path, claims, numbers, axes=axes))
    open_ = "inconclusive"
    assert [j.verdict for j in judged] == ["refuted", "refuted", open_, open_, "supported", open_, open_]
    assert "not trained there: 0" in judged[0].finding
    assert "not trained there: 1" in judged[1].finding
    assert judged[2].reason == "MDA with λ 0 does not learn coordinates, so its RMSE says nothing"
    assert judged[3].reason == "MDA with λ 1 does not learn conditions, so its accuracy says nothing"
    assert judged[2].effect is None
    assert "not trained there: 0" in judged[5].finding
    assert "does not learn coordinates" in str(judged[6].reason)


@pytest.mark.parametrize("semantics", ["binary", "ternary", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_which_metrics_a_trial_is_trained_for(method: str, semantics: str) -> None:
    errors = ("test_rmse_m", "validation_rmse_m", "test_mean_error_m", "test_p90_error_m", "error_m")
    for weight in (0.0, 0.5, 1.0):
        base = {"method": method, "system": {"semantics": semantics}, "objective": {"lambda": weight}}
        config = TrialConfiguration.model_validate(base).resolved()
        trial = Trial("", "done", method, 0, config, {})
        weighted = method == "MDA" and semantics != "none"
        assert {trial.trains(column) for column in errors} == {WantedTrial(config, 0, HASH).locates}
        assert {trial.trains(column) for column in errors} == {not (weighted and weight == 0)}
        for column in ("test_accuracy", "validation_accuracy"):
            assert trial.trains(column) is not (weighted and weight == 1)
        assert all(trial.trains(column) for column in ("best_epoch", "parameters", "train_seconds", "error"))


# --- what cannot be decided -----------------------------------------------------------------------------------------


def test_too_few_seeds_say_so(tmp_path: Path) -> None:
    judgement = only(study(tmp_path, [compare()], levels, seeds=4))
    assert (judgement.verdict, judgement.p, judgement.n) == ("inconclusive", None, 4)
    assert judgement.reason == "too few seeds: 4 of the 5 that a test needs"
    assert judgement.effect is not None
    assert judgement.effect.low is not None


@pytest.mark.parametrize(
    ("end", "words"), [(None, "1 seed not run"), ("diverged", "seed 2 diverged"), ("failed", "seed 2 failed")]
)
def test_cells_that_are_missing_or_failed_say_so(tmp_path: Path, end: str | None, words: str) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any] | str | None:
        return end if method == "HDA" and seed == 2 else levels(method, config, seed)

    few = only(study(tmp_path / "five", [compare()], numbers))
    assert few.verdict == "inconclusive"
    assert few.n == 4
    assert words in str(few.reason)
    more = only(study(tmp_path / "seven", [compare()], numbers, seeds=7))
    assert (more.verdict, more.n) == ("supported", 6)
    assert words in more.finding  # left out, and told


def test_what_the_study_does_not_have_says_so(tmp_path: Path) -> None:
    mda, dcnn = {"method": "MDA"}, {"method": "DCNN"}
    claims: list[dict[str, Any]] = [
        compare("HDA", "RDA"),
        compare(metric="test_accuracy"),
        {"name": "c", "depends": mda, "upon": "system.bandwidth_mhz"},
        {"name": "c", "depends": dcnn, "upon": "objective.lambda"},
        {"name": "c", "steadier": mda, "than": dcnn, "over": "system.bandwidth_mhz"},
        {"name": "c", "steadier": mda, "than": dcnn, "over": "objective.lambda"},
        {"name": "c", "optimum": mda, "of": "objective.gamma", "differs_over": "system.paths"},
        {"name": "c", "optimum": mda, "of": "objective.lambda", "differs_over": "system.bandwidth_mhz"},
        {"name": "c", "optimum": mda | {"system.paths": 10}, "of": "objective.lambda", "differs_over": "system.paths"},
    ]
    axes = {"method": METHODS, "system.paths": [10, 25]}
    judged = judge(study(tmp_path, claims, levels, axes=axes, search=[SEARCH]))
    assert {j.verdict for j in judged} == {"inconclusive"}
    words = [
        "no cell with method", "DCNN", "does not vary system.bandwidth_mhz", "DCNN does not have objective.lambda",
        "system.bandwidth_mhz is no axis", "objective.lambda is no axis", "does not vary objective.gamma",
        "system.bandwidth_mhz is no axis", "does not have several values of system.paths",
    ]  # fmt: skip
    for judgement, word in zip(judged, words, strict=True):
        assert word in str(judgement.reason)
    assert "has no accuracy" in str(judged[1].reason)


def test_an_empty_study_decides_nothing(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
        return rmse(9.0) if method == "DCNN" and seed == 0 else None

    depends: dict[str, Any] = {"name": "c", "depends": {"method": "MDA"}, "upon": "objective.lambda"}
    claims = [compare(), compare(metric="spent_trials"), depends]
    judged = judge(study(tmp_path, claims, numbers, search=[SEARCH]))
    assert {j.verdict for j in judged} == {"inconclusive"}
    assert "not run" in str(judged[0].reason)
    assert "trials stored" in str(judged[1].reason)


# --- settings -------------------------------------------------------------------------------------------------------

SETTINGS: list[dict[str, Any]] = [
    {"name": "steady", "steadier": {"method": "HDA"}, "than": {"method": "DCNN"}, "over": "system.paths"},
    {"name": "not steady", "steadier": {"method": "DCNN"}, "than": {"method": "HDA"}, "over": "system.paths"},
    {"name": "depends", "depends": {"method": "DCNN"}, "upon": "system.paths", "factor": 1.2},
    {"name": "not so much", "depends": {"method": "DCNN"}, "upon": "system.paths", "factor": 1.5},
    {"name": "weight matters", "depends": {"method": "MDA", "system.paths": 10}, "upon": "objective.lambda"},
    {"name": "shifts", "optimum": {"method": "MDA"}, "of": "objective.lambda", "differs_over": "system.paths"},
    {"name": "not by bandwidth", "optimum": {"method": "MDA", "system.paths": 10}, "of": "objective.lambda",
     "differs_over": "system.bandwidth_mhz"},
]  # fmt: skip


@pytest.mark.parametrize("form", ["axis", "search"])
def test_steadiness_dependence_and_the_shift_of_an_optimum(tmp_path: Path, form: str) -> None:
    axes: dict[str, Any] = {"method": METHODS, "system.paths": [10, 25], "system.bandwidth_mhz": [20, 40]}
    changes: dict[str, Any] = {"axes": axes, "search": [SEARCH]}
    if form == "axis":
        changes = {"axes": axes | {"objective.lambda": WEIGHTS}}
    judged = judge(study(tmp_path, SETTINGS, curved, **changes))
    yes, no = "supported", "refuted"
    assert [j.verdict for j in judged] == [yes, no, yes, no, yes, yes, no]
    assert "0.1 at Paths 10, 0.9 at Paths 25" in judged[5].finding
    assert judged[0].effect is not None
    assert judged[0].effect.mean == pytest.approx(3, abs=0.3)


def test_chance_is_no_dependence_and_no_shift(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        key = (config["system"]["paths"], config["system"]["bandwidth_mhz"], config["objective"].get("lambda"))
        return rmse(9 + draw(method, *key, seed, scale=0.5))

    axes = {"method": METHODS, "system.paths": [10, 25], "system.bandwidth_mhz": [20, 40]}
    claims = [claim for claim in SETTINGS if "factor" not in claim]
    judged = judge(study(tmp_path, claims, numbers, axes=axes | {"objective.lambda": WEIGHTS}))
    assert {j.verdict for j in judged} == {"inconclusive"}
    assert all(j.p is not None for j in judged)


def test_what_was_picked_among_many_pairs_is_corrected_for_them(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return rmse(9 + 0.1 * (config["objective"].get("lambda", 0) == 0.9) + draw(config["objective"], seed))

    claim = {"name": "c", "depends": {"method": "MDA"}, "upon": "objective.lambda"}
    results = study(tmp_path, [claim], numbers, search=[SEARCH])
    (cell,) = (cell for cell in results.cells if cell.searched)
    errors = [[trial.row["test_rmse_m"] for trial in members] for members in cell.candidates.values()]
    worst, best = max(errors, key=sum), min(errors, key=sum)
    alone = scipy.stats.ttest_rel(worst, best, alternative="greater").pvalue
    assert only(results).p == pytest.approx(min(1.0, 6 * alone))
    assert "for 6 comparisons" in only(results).test


def test_changes_of_opposite_sign_do_not_cancel(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        paths, bandwidth = config["system"]["paths"], config["system"]["bandwidth_mhz"]
        noise = draw(method, paths, bandwidth, seed)
        if method == "HDA":
            return rmse(8 + 0.05 * paths + noise)
        if method == "DCNN":  # 5 m, up at 20 MHz and down at 40 MHz
            return rmse(10 + 5 * ((paths == 25) == (bandwidth == 20)) + noise)
        weight = config["objective"]["lambda"]
        return rmse(8 + 8 * abs(weight - (0.1 if paths == 10 else 0.9)) + draw(paths, bandwidth, weight, seed))

    depends: dict[str, Any] = {"name": "c", "depends": {"method": "MDA"}, "upon": "objective.lambda", "factor": 1.2}
    claims: list[dict[str, Any]] = [
        depends,  # 1.8 times everywhere, and nothing on average
        depends | {"factor": 2.5},
        {"name": "c", "depends": {"method": "DCNN"}, "upon": "system.paths", "factor": 1.2},
        SETTINGS[0],
        SETTINGS[1],
        SETTINGS[5],
    ]
    axes = {"method": METHODS, "system.paths": [10, 25], "system.bandwidth_mhz": [20, 40]}
    judged = judge(study(tmp_path, claims, numbers, axes=axes | {"objective.lambda": WEIGHTS}))
    yes, no = "supported", "refuted"
    assert [j.verdict for j in judged] == [yes, no, yes, yes, no, yes]
    assert "As claimed in 4 of 4 configurations" in judged[0].finding
    assert judged[0].effect is not None
    assert judged[0].effect.mean == pytest.approx(6.4, abs=0.4)
    assert judged[2].finding.startswith("Bandwidth 20 MHz: ")


def test_one_configuration_refutes_and_the_least_certain_one_supports(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        paths, weight = config["system"]["paths"], config["objective"]["lambda"]
        slope = {10: 8.0, 25: 8.0, 50: 0.1}[paths]
        return rmse(8 + slope * abs(weight - 0.1) + draw(paths, weight, seed))

    def claim(paths: list[int], factor: float) -> dict[str, Any]:
        depends = {"method": "MDA", "system.paths": paths}
        return {"name": "c", "depends": depends, "upon": "objective.lambda", "factor": factor}

    claims = [claim([10, 25, 50], 1.2), claim([10, 25], 1.2), claim([10], 1.2), claim([25], 1.2), claim([50], 1.2)]
    axes = {"method": ["MDA"], "system.paths": [10, 25, 50], "objective.lambda": [0.1, 0.9]}
    results = study(tmp_path, claims, numbers, axes=axes)
    outcomes = [outcome_of(results, number) for number in range(5)]
    assert verdicts(results) == ["refuted", "supported", "supported", "supported", "refuted"]
    assert outcomes[1] == pytest.approx(max(outcomes[2], outcomes[3]))
    assert outcomes[0] == pytest.approx(min(1.0, 3 * outcomes[4]))


def test_a_configuration_whose_search_has_not_begun_is_not_left_out(tmp_path: Path) -> None:
    def numbers(begun: int) -> Numbers:
        def made(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
            if config["system"]["paths"] == 25 and WEIGHTS.index(config["objective"]["lambda"]) >= begun:
                return None
            return curved(method, config, seed)

        return made

    depends: dict[str, Any] = {"name": "c", "depends": {"method": "MDA"}, "upon": "objective.lambda"}
    axes = {"method": ["MDA"], "system.paths": [10, 25]}
    for begun in (0, 1):
        judgement = only(study(tmp_path / str(begun), [depends], numbers(begun), axes=axes, search=[SEARCH]))
        assert judgement.verdict == "inconclusive"
        assert judgement.reason == f"MDA: {begun} of 3 candidates run"
    assert only(study(tmp_path / "all", [depends], numbers(3), axes=axes, search=[SEARCH])).verdict == "supported"


def outcome_of(results: Results, number: int) -> float:
    """The p-value of one claim alone."""
    alone = replace(results, spec=results.spec.model_copy(update={"claims": results.spec.claims[number : number + 1]}))
    p = only(alone).p
    assert p is not None
    return p


def test_two_sides_that_change_alike_are_not_told_apart(tmp_path: Path) -> None:
    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return rmse(9 - config["system"]["paths"] / 5 + draw(method, config["system"]["paths"], seed))

    axes = {"method": METHODS, "system.paths": [5, 10, 25]}
    assert verdicts(study(tmp_path, SETTINGS[:2], numbers, axes=axes)) == ["inconclusive", "inconclusive"]


def test_an_optimum_does_not_shift_where_one_value_is_as_good_everywhere(tmp_path: Path) -> None:
    errors = {(10, 0.1): 6.98, (10, 0.5): 7.0, (10, 0.9): 9.0, (25, 0.1): 9.0, (25, 0.5): 7.0, (25, 0.9): 6.98}

    def numbers(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
        paths, weight = config["system"]["paths"], config["objective"].get("lambda", 0.5)
        return rmse(errors[paths, weight] + 0.2 * ((seed + round(10 * weight)) % 5 - 2))

    axes = {"method": METHODS, "system.paths": [10, 25]}
    judgement = only(study(tmp_path, [SETTINGS[5]], numbers, axes=axes, search=[SEARCH]))
    assert "0.1 at Paths 10, 0.9 at Paths 25" in judgement.finding
    assert judgement.verdict == "inconclusive"


def test_candidates_on_one_seed_cannot_be_tested(tmp_path: Path) -> None:
    claim = {"name": "c", "depends": {"method": "MDA"}, "upon": "objective.lambda"}
    results = study(tmp_path, [claim], curved, search=[SEARCH | {"seeds": 1}])
    store = Store(tmp_path, results.spec.model_dump(mode="json", by_alias=True))
    (cell,) = (cell for cell in expand(store.spec) if cell.search is not None)
    (searched,) = (cell for cell in results.cells if cell.searched)
    assert searched.winner is not None
    for repeats in (False, True):  # the winner's on all seeds, which the others do not have
        for trial in cell.trials(5, HASH, dict(searched.winner.values))[1:] if repeats else ():
            store.add_trial(trial, **curved(trial.method, trial.config, trial.seed))
        judgement = only(load_results(tmp_path))
        assert judgement.verdict == "inconclusive"
        assert "1 of the 5" in str(judgement.reason)
        assert "1.50 times" in judgement.finding


def test_what_was_stopped_early_cannot_refute_a_dependence(tmp_path: Path) -> None:
    def numbers(stopped: bool) -> Numbers:
        def made(method: str, config: Mapping[str, Any], seed: int) -> dict[str, Any] | str:
            weight = config["objective"].get("lambda")
            return "pruned" if stopped and weight == 0.9 else rmse(9 + draw(method, weight, seed))

        return made

    claim = {"name": "c", "depends": {"method": "MDA"}, "upon": "objective.lambda", "factor": 2}
    assert only(study(tmp_path / "whole", [claim], numbers(False), search=[SEARCH])).verdict == "refuted"
    judgement = only(study(tmp_path / "stopped", [claim], numbers(True), search=[SEARCH]))
    assert judgement.verdict == "inconclusive"
    assert "0.9" in str(judgement.reason)


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_claim_is_a_row_of_the_table_with_its_trials(tmp_path: Path) -> None:
    claims = [compare(paper="0.82 m"), compare("HDA", "RDA", name="another | claim"), compare(metric="parameters")]
    results = study(tmp_path, claims, levels)
    judged = judge(results)
    table = claims_table(results)
    assert table is not None
    assert table == claims_table(results, judged)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["Claim"] for row in rows] == ["a claim", "another | claim", "a claim"]
    assert [row["Verdict"] for row in rows] == ["supported", "inconclusive", "refuted"]
    assert rows[0]["Paper"] == "0.82 m"
    assert float(rows[0]["p"]) == pytest.approx(judged[0].p)
    assert float(rows[0]["Difference"]) == pytest.approx(2.5, abs=0.2)
    assert table.rows[0][0].keys == judged[0].keys
    assert "no cell with method" in rows[1]["Finding"]
    assert "another \\| claim" in to_markdown(table)


def test_a_spec_without_claims_has_no_table(tmp_path: Path) -> None:
    results = study(tmp_path, [], levels)
    assert judge(results) == []
    assert claims_table(results) is None
