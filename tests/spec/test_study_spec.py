"""What a study spec means: cells, searches, keys; and what it refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from models.settings import METHOD_SETTINGS
from study.errors import SpecError
from study.methods import load_study
from study.resources import shipped_specs
from study.spec.expand import expand
from study.spec.loading import parse_yaml
from study.spec.model import Domain, GridDomain, StudySpec, key_paths
from study.spec.outline import outline
from study.spec.trial import Trial, TrialConfiguration, canonical_json

SPEC: dict[str, Any] = {
    "study": "example",
    "site": "canyon_small",
    "base": {"system": {"subcarriers": 32, "antennas": [4, 4]}, "network": {"preset": "small"}},
    "axes": {"method": ["DCNN", "MDA", "HDA"], "system.paths": [10, {"uniform": [10, 25]}, 25]},
    "seeds": 3,
    "search": [{"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.1]}}}],
}


def _parse(**changes: Any) -> StudySpec:
    spec = copy.deepcopy(SPEC)
    spec.update(changes)
    return parse_yaml(yaml.safe_dump(spec), StudySpec, "study spec", "spec.yaml")


def _problems(**changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        _parse(**changes)
    return str(caught.value)


def test_cells_are_all_combinations_with_reference_rows_first() -> None:
    cells = expand(_parse())
    assert [cell.method for cell in cells[:9]] == ["MEAN"] * 3 + ["KNN"] * 3 + ["MODEL"] * 3
    assert len(cells) == (3 + 3) * 3
    assert {cell.label for cell in cells if cell.search is not None} == {
        "MDA paths=10",
        "MDA paths=10–25",
        "MDA paths=25",
    }


def test_size_counts_search_repeats_and_reference_rows_once() -> None:
    counted = outline(_parse())
    assert sum(cell.search_trials for cell in counted.cells) == 3 * 11
    assert counted.trials == 3 * 3 + 2 * 3 * 3 + 3 * (11 + 2)


def test_exclude_leaves_cells_out() -> None:
    cells = expand(_parse(exclude=[{"method": "DCNN", "system.paths": [10, 25]}]))
    assert [cell.label for cell in cells if cell.method == "DCNN"] == ["DCNN paths=10–25"]


def test_a_trial_depends_on_what_its_method_reads_and_on_nothing_else() -> None:
    def key(**changes: Any) -> str:
        config = {"method": "DCNN", **changes}
        return Trial(TrialConfiguration.model_validate(config).resolved(), 0, "data").key

    assert key() == key(objective={"lambda": 0.3, "gamma": 1.0})
    assert key() == key(branches="twin")
    assert key() != key(system={"bandwidth_mhz": 20})
    assert key(method="MDA") != key(method="MDA", objective={"lambda": 0.3})
    assert key(method="MDA") == key(method="MDA", objective={"lambda": 0.5})  # its default, written out
    assert key(method="KNN") == key(method="KNN", training={"epochs": 7})


def test_seed_and_data_are_part_of_a_trial() -> None:
    config = TrialConfiguration().resolved()
    keys = {Trial(config, seed, data).key for seed in range(3) for data in ("a", "b")}
    assert len(keys) == 6
    assert all(len(key) == 16 for key in keys)


def test_keys_stay_what_they_are() -> None:
    """Stored results are found by these keys: a change makes every study run again, and needs a new KEY_VERSION."""
    assert Trial(TrialConfiguration().resolved(), 0, "data").key == "b7886266fd1c9271"


def test_reference_rows_have_one_trial_whatever_the_seeds() -> None:
    cell = expand(_parse())[0]
    assert not cell.trained
    assert len({cell.trial(seed, "data").key for seed in range(5)}) == 1


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6) | st.text(), st.lists, max_leaves=5)
)
def test_canonical_json_does_not_see_the_order_of_keys(value: Any) -> None:
    assert canonical_json({"a": value, "b": 1}) == canonical_json({"b": 1, "a": value})


def test_canonical_json_does_not_see_rounding() -> None:
    assert canonical_json(0.1 * 3) == canonical_json(0.3)
    assert canonical_json(0.3) != canonical_json(0.3000001)


@given(st.integers(0, 5), st.integers(1, 5), st.integers(1, 20))
def test_a_grid_has_all_its_points(low: int, width: int, steps: int) -> None:
    high = low + width
    grid = {"grid": [low / 10, high / 10, width / 10 / steps]}
    spec = _parse(search=[{"when": {"method": "MDA"}, "space": {"objective.lambda": grid}}])
    values = spec.search[0].space["objective.lambda"].values()
    assert values is not None
    assert len(values) == steps + 1
    assert values[0] == pytest.approx(low / 10)
    assert values[-1] == pytest.approx(high / 10)


@given(st.floats(-5, 5), st.floats(1e-3, 1), st.integers(0, 40))
def test_a_grid_contains_its_points_and_nothing_else(low: float, step: float, steps: int) -> None:
    grid = GridDomain(grid=(low, low + steps * step, step))
    points = grid.values()
    assert all(grid.contains(point) for point in points)
    assert all(grid.contains(float(canonical_json(point))) for point in points)
    for outside in (points[0] - step, points[-1] + step, points[0] + step / 2, None, "0.1", True, math.nan):
        assert not grid.contains(outside)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        ({"grid": [0.0, 1.0, 0.1]}, [0, 0.3, 0.1 + 0.2, 1], [-0.1, 0.35, 1.1, True, False, None, "0.3", [0.3]]),
        ({"values": [1, 2.5, "adp", [8, 8], True]}, [1, 1.0, 2.5, "adp", [8, 8], (8, 8), True], [0, "ADP", [8], None]),
        ({"values": [1]}, [1], [True]),
        ({"float": [0.5, 2.0]}, [0.5, 1, 2.0], [0.49, 2.1, True, None, "1", math.nan]),
        ({"int": [1, 8]}, [1, 8, 3.0], [0, 9, 3.5, True, None, "3", math.inf]),
        ({"int": [1, 5000], "log": True}, [1, 5000], [0, 5001]),
    ],
)
def test_a_domain_contains(domain: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    parsed: Any = TypeAdapter(Domain).validate_python(domain)
    assert [value for value in inside if not parsed.contains(value)] == []
    assert [value for value in outside if parsed.contains(value)] == []


@pytest.mark.parametrize(
    ("space", "points"),
    [
        ({"objective.lambda": {"grid": [0.0, 1.0, 0.5]}, "objective.gamma": {"values": [1, 2]}}, 6),
        ({"objective.lambda": {"grid": [0.0, 1.0, 0.1]}}, 8),
        ({"objective.lambda": {"float": [0.0, 1.0]}, "objective.gamma": {"values": [1, 2]}}, 8),
        ({"training.batch_size": {"int": [2, 5000]}}, 8),
    ],
)
def test_a_sampler_tries_no_more_candidates_than_there_are(space: dict[str, Any], points: int) -> None:
    spec = _parse(search=[{"when": {"method": "MDA"}, "space": space, "sampler": "random", "trials": 8}])
    assert spec.search[0].points() == points


def test_a_search_is_over_what_the_method_reads() -> None:
    space = {"objective.lambda": {"values": [0.1, 0.9]}, "objective.gamma": {"values": [1.0, 2.0, 3.0]}}
    spec = _parse(axes={"method": ["DCNN", "MDA", "HDA"]}, search=[{"space": space}])
    cells = {cell.method: cell for cell in expand(spec)}
    assert cells["DCNN"].search is None
    assert cells["MDA"].search is not None
    assert cells["HDA"].search is not None
    assert cells["MDA"].search.points() == 6
    assert list(cells["HDA"].search.space) == ["objective.gamma"]


def test_lambda_grid_values_are_round() -> None:
    values = _parse().search[0].space["objective.lambda"].values()
    assert values == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": 3}, ["spec.yaml", "sedes", "did you mean 'seeds'"]),
        ({"seeds": "three"}, ["seeds", "whole number"]),
        ({"seeds": 0}, ["seeds", "too small"]),
        ({"study": "a/b"}, ["study"]),
        ({"axes": {"method": ["DCNN", "MDB"]}}, ["axes.method[1]", "MDB", "DCNN"]),
        ({"axes": {"method": ["DCNN", "HDAA"]}}, ["axes.method[1]", "no method has this name", "did you mean 'HDA'"]),
        (
            {"axes": {"objective.lambda": [1.2]}, "search": []},
            ["axes.objective.lambda[0]", "1.2", "the value is too large"],
        ),
        (
            {"axes": {"system.fingerprint": ["adq"]}},
            ["axes.system.fingerprint[0]", "unknown value", "did you mean 'adp'"],
        ),
        ({"axes": {"system.subcarriers": ["many"]}}, ["expected a whole number, found text"]),
        ({"axes": {"system.pathes": [10]}}, ["did you mean 'system.paths'"]),
        ({"axes": {"system.paths": [0]}}, ["axes.system.paths[0]", "≥ 1"]),
        ({"axes": {"system.paths": [{"uniform": [25, 10]}]}}, ["axes.system.paths[0]"]),
        ({"axes": {"system.paths": []}}, ["at least one value"]),
        ({"axes": {"system.paths": [10, 10]}}, ["twice"]),
        ({"search": [{"space": {"objective.lambda": {"grid": [0.0, 1.5, 0.1]}}}]}, ["too large: 1.1", "from 0 to 1"]),
        (
            {"search": [{"space": {"objective.lamda": {"values": [0.1]}}}]},
            ["no setting has this key path; did you mean 'objective.lambda'"],
        ),
        (
            {"search": [{"when": {"method": "MDAA"}, "space": {"objective.lambda": {"values": [0.1]}}}]},
            ["search[0].when.method", "no method has this name; did you mean 'MDA'"],
        ),
        (
            {"search": [{"space": {"objective.lambda": {"float": [-0.5, 1.0]}}, "sampler": "tpe", "trials": 3}]},
            ["0 to 1"],
        ),
        ({"search": [{"space": {"objective.lambda": {"float": [0.0, 1.0]}}}]}, ["cannot enumerate"]),
        (
            {"search": [{"space": {"objective.gamma": {"float": [2, 1]}}, "sampler": "tpe", "trials": 3}]},
            ["low < high"],
        ),
        ({"search": [{"space": {"objective.gamma": {"float": [0, 1]}}, "sampler": "tpe"}]}, ["trials"]),
        ({"search": [{"when": {"method": "TL"}, "space": {"objective.lambda": {"values": [0.1]}}}]}, ["never matches"]),
        ({"search": [{"when": {"metod": "MDA"}, "space": {"objective.lambda": {"values": [0.1]}}}]}, ["'method'"]),
        ({"search": SPEC["search"] * 2}, ["two searches match"]),
        ({"search": [{"space": {"system.paths": {"values": [10]}}}]}, ["axis already"]),
        ({"search": [{"when": {"method": "KNN"}, "space": {"objective.neighbours": {"values": [1]}}}]}, ["never"]),
        ({"search": [{"when": {"method": "HDA"}, "space": {"objective.lambda": {"values": [0.1]}}}]}, ["reads", "HDA"]),
        ({"search": [{"space": {"objective.lambda": {"values": [0.1]}}, "seeds": 4}]}, ["more seeds", "seeds: 3"]),
        ({"search": [{"space": {"split.test_scenes": {"values": [10]}}}]}, ["split.test_scenes", "base or as an axis"]),
        ({"search": [{"space": {"training.epochs": {"values": [3]}}, "sampler_seed": 2**32}]}, ["sampler_seed"]),
        ({"axes": {"training.epochs": list(range(1, 200)), "split.data_seed": list(range(99))}}, ["19,701"]),
        (
            {
                "search": [{"when": {"method": "DCNN"}, "space": {"training.epochs": {"values": [3, 5]}}}],
                "select": {"metric": "validation_accuracy"},
            },
            ["no accuracy", "DCNN"],
        ),
        ({"exclude": [{"method": "RDA"}]}, ["never matches"]),
        ({"exclude": [{"method": ["MEAN", "KNN", "MODEL", "DCNN", "MDA", "HDA"]}]}, ["leaves no cell"]),
        ({"select": {"metric": "test_rmse"}}, ["validation_rmse"]),
        ({"select": {"metric": "validation_rmse", "mode": "max"}}, ["worst"]),
        ({"base": {"objective": {"lambda": 1.2}}}, ["base.objective.lambda", "1.2", "from 0 to 1"]),
        ({"base": {"system": {"bandwidth_mhz": "wide"}}}, ["base.system.bandwidth_mhz", "number"]),
        ({"base": {"system": {"antennas": [4]}}}, ["base.system.antennas"]),
        ({"base": {"system": {"antennas": [2, 4]}, "network": {"preset": "small"}}}, ["too small", "16 × 16"]),
        ({"base": {"system": {"subcarriers": 32, "antennas": [8, 8]}}}, ["too small", "43 × 43"]),
        ({"base": {"method": "KNN"}, "axes": {}, "search": []}, ["references"]),
        ({"claims": [{"name": "x", "better": {"metod": "HDA"}, "than": {"method": "MDA"}}]}, ["'method'"]),
    ],
)
def test_mistakes_are_named_with_their_place_and_what_is_allowed(changes: dict[str, Any], words: list[str]) -> None:
    text = _problems(**changes)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({}, ["no form of claim has these keys"]),
        ({"beter": {"method": "HDA"}, "than": {"method": "MDA"}}, ["no form of claim", "did you mean 'better'"]),
        (
            {"better": {"method": "HDA"}, "upon": "system.paths"},
            ["'upon' belongs to another form of claim than 'better'"],
        ),
        ({"depends": {"method": "HDA"}, "better": {"method": "HDA"}}, ["keys of 2 forms of claims: better, depends"]),
    ],
)
def test_a_claim_of_no_form_is_one_mistake_that_names_the_forms(claim: dict[str, Any], words: list[str]) -> None:
    told = _problems(claims=[{"name": "x", **claim}])
    for word in ("1 problem", "claims[0]", "better + than", "steadier + than + over", "depends + upon", "optimum + of"):
        assert word in told
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"claims": ["HDA is better"]}, ["text is not allowed here", "depends + upon"]),
        (
            {"claims": [{"name": "x", "depends": {"method": "HDA"}, "upon": "system.path"}]},
            ["did you mean 'system.paths'"],
        ),
        (
            {"claims": [{"name": "x", "depends": {"method": "HDA"}, "upon": "system.paths", "factr": 2}]},
            ["claims[0].factr", "did you mean 'factor'"],
        ),
        (
            {"claims": [{"name": "x", "steadier": {"method": "HDA"}, "than": {"method": "MDA"}, "over": "method"}]},
            ["claims[0].over", "methods are compared"],
        ),
        (
            {"claims": [{"name": "x", "optimum": {"method": "HDA"}, "of": "branches", "differs_over": "branches"}]},
            ["claims[0].differs_over", "of its own values"],
        ),
        ({"published": [{"when": {"method": "HDA"}, "optimum": True}]}, ["published[0]", "no number", "test_rmse"]),
    ],
)
def test_mistakes_in_claims_are_named_where_they_are(changes: dict[str, Any], words: list[str]) -> None:
    told = _problems(**changes)
    assert "1 problem" in told
    for word in words:
        assert word in told


def test_all_mistakes_are_reported_at_once() -> None:
    text = _problems(seeds=0, sedes=1, base={"objective": {"lambda": 2}}, select={"metric": "rmse"})
    assert text.startswith("4 problems")


def test_every_key_path_of_a_configuration_can_be_an_axis() -> None:
    paths = key_paths()
    for name in METHOD_SETTINGS:
        config = TrialConfiguration.model_validate({"method": name}).resolved()
        for section, values in config.items():
            keys = [f"{section}.{key}" for key in values] if isinstance(values, dict) else [section]
            assert set(keys) <= set(paths)


@pytest.mark.parametrize("path", shipped_specs().values(), ids=lambda path: path.stem)
def test_shipped_specs_are_valid(path: Path) -> None:
    spec = load_study(path)
    assert spec.study == (path.stem if spec.preset is None else f"{path.stem}-{spec.preset}")
    assert outline(spec).trials > 0


def test_a_resolved_spec_is_a_spec() -> None:
    spec = _parse()
    text = yaml.safe_dump(spec.model_dump(mode="json", by_alias=True), allow_unicode=True)
    assert parse_yaml(text, StudySpec, "study spec") == spec


def test_every_key_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "spec.md").read_text()
    for path in key_paths():
        section, _, name = path.rpartition(".")
        assert f"`{path}`" in text or (f"`{section}." in text and f"`.{name}`" in text), path
    for key in StudySpec.model_fields:
        assert f"`{key}`" in text


def test_values_that_contradict_each_other_name_their_cell() -> None:
    axes = {"split.train_scenes": [10, 20], "split.labelled_scenes": ["all", 15]}
    told = _problems(axes=axes, search=[])
    assert "at most train_scenes = 10" in told
    assert "cell 'MEAN labelled_scenes=15 train_scenes=10'" in told
    left_out = [{"split.train_scenes": 10, "split.labelled_scenes": 15}]
    labels = {cell.label for cell in expand(_parse(axes=axes, search=[], exclude=left_out))}
    assert "HDA labelled_scenes=15 train_scenes=10" not in labels
    assert {"HDA labelled_scenes=15 train_scenes=20", "HDA labelled_scenes=all train_scenes=10"} <= labels


def test_settings_of_the_split_that_a_trial_does_not_read_are_not_in_its_key() -> None:
    def key(method: str, **split: Any) -> str:
        changes = {"objective": split.pop("objective", {}), "system": {"paths": split.pop("paths", 25)}}
        config = TrialConfiguration.model_validate({"method": method, "split": split, **changes})
        return Trial(config.resolved(), 0, "data").key

    for method in ("DCNN", "KNN", "MEAN"):
        assert key(method, target="validation") == key(method)
    for method in ("TL", "RDA", "MDA", "HDA"):
        assert key(method, target="validation") != key(method)
    alone = {"knowledge_transfer": False}
    assert key("HDA", target="validation", objective=alone) == key("HDA", objective=alone)
    assert key("DCNN", data_seed=1) == key("DCNN")
    drawn = {"uniform": [10, 25]}
    assert key("DCNN", data_seed=1, paths=drawn) != key("DCNN", paths=drawn)


def test_a_grid_of_millions_of_points_is_a_slip_of_the_pen() -> None:
    fine = {"grid": [0.0, 1.0, 0.001]}
    search = {"when": {"method": "MDA"}, "space": {"objective.lambda": fine, "objective.gamma": fine}}
    with pytest.raises(ValidationError, match="1,002,001 points"):
        StudySpec.model_validate(
            {"study": "s", "site": "canyon_small", "axes": {"method": ["MDA"]}, "search": [search]}
        )
