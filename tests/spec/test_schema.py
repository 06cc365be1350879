"""The JSON Schemas agree with the loader, and docs/spec.md with the models."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from cluster.model import Cluster
from study.data.scenario import Scenario
from study.errors import SpecError
from study.resources import shipped_clusters, shipped_scenarios, shipped_specs
from study.spec.document import read_document
from study.spec.loading import parse_yaml
from study.spec.model import StudySpec, key_paths
from study.spec.reference import spec_reference
from study.spec.schema import SCHEMA_NAMES, SchemaName, field_descriptions, json_schema

MODELS: dict[SchemaName, type[BaseModel]] = {"spec": StudySpec, "cluster": Cluster, "scenario": Scenario}
SHIPPED = {"spec": shipped_specs(), "cluster": shipped_clusters(), "scenario": shipped_scenarios()}

SPEC: dict[str, Any] = {
    "study": "example",
    "description": "All sections.",
    "site": "canyon_small",
    "base": {
        "branches": "twin",
        "system": {"subcarriers": 32, "antennas": [4, 4], "paths": {"uniform": [5, 9]}},
        "split": {"positions": "held_out", "held_out": {"validation": 0.2, "test": [[0.0, 9.0, 0.0, 9.0]]}},
        "network": {"preset": "small"},
        "objective": {"gamma": 1.5, "likelihood": None, "knowledge_transfer": True},
        "training": {"epochs": 3, "learning_rate": 1e-3},
    },
    "axes": {"method": ["DCNN", "MDA", "HDA"], "system.bandwidth_mhz": [20, 40.5], "split.area": ["all", [0, 1, 0, 1]]},
    "references": ["KNN"],
    "seeds": 3,
    "search": [
        {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.0, 1.0, 0.5]}}},
        {
            "when": {"method": ["HDA"], "system.bandwidth_mhz": 20},
            "space": {
                "objective.gamma": {"float": [0.5, 4.0], "log": True},
                "training.batch_size": {"int": [2, 64]},
                "training.optimizer": {"values": ["adam", "sgd"]},
            },
            "sampler": "tpe",
            "trials": 4,
            "seeds": 2,
            "early_stopping": {"rule": "median", "min_candidates": 2},
        },
    ],
    "exclude": [{"method": "DCNN", "system.bandwidth_mhz": [20]}],
    "select": {"metric": "validation_rmse", "mode": "min"},
    "claims": [
        {"name": "x", "better": {"method": "HDA"}, "than": {"method": ["MDA"]}, "margin": 1},
        {"name": "x", "steadier": {"method": "HDA"}, "than": {"method": "DCNN"}, "over": "system.bandwidth_mhz"},
        {"name": "x", "paper": "1.2 times", "depends": {"method": "MDA"}, "upon": "objective.lambda", "factor": 1.2},
        {"name": "x", "optimum": {"method": "MDA"}, "of": "objective.lambda", "differs_over": "system.bandwidth_mhz"},
    ],
    "published": [{"when": {"method": "MDA"}, "optimum": True, "test_rmse": 0.8299, "parameters": 1300628}],
    "report": {"tables": ["performance"], "figures": []},
}
CLUSTER: dict[str, Any] = {
    "address": "local",
    "cpus": 8,
    "gpus": 2,
    "nodes": [{"type": "desk", "cpus": 8, "gpus": 2, "price_per_hour": 0.5, "currency": "EUR", "watts": 300}],
    "slots": 4,
    "resources_per_trial": {"cpu": 1, "gpu": 0.5},
    "max_retries": 1,
}


@cache
def _validator(name: SchemaName) -> Draft202012Validator:
    return Draft202012Validator(json_schema(name))


def _refusal(name: SchemaName, data: Any) -> str | None:
    """What the loader says against a file with these data."""
    try:
        parse_yaml(json.dumps(data), MODELS[name], name)
    except SpecError as error:
        return str(error)
    return None


def _assert_agrees(name: SchemaName, data: Any) -> None:
    if _refusal(name, data) is None:
        assert list(_validator(name).iter_errors(data)) == []


def _both_refuse(name: SchemaName, data: Any) -> None:
    assert _refusal(name, data) is not None
    assert not _validator(name).is_valid(data)


def _with(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    *parents, last = path
    level = changed
    for key in parents:
        level = level.setdefault(key, {}) if isinstance(level, dict) else level[key]
    level[last] = value
    return changed


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_a_schema_is_a_schema_that_needs_no_network(name: SchemaName) -> None:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].startswith("urn:")
    assert schema["title"]
    assert schema["description"]
    references = [node["$ref"] for node in _nodes(schema) if isinstance(node, dict) and "$ref" in node]
    assert references
    assert all(pointer.startswith("#/$defs/") for pointer in references)


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, files in SHIPPED.items() for path in files.values()])
def test_shipped_files_fit_their_schema(name: SchemaName, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # As the loader reads it, by the rules of YAML 1.2; a cluster file can be several documents.
    documents = yaml.safe_load_all(text) if name == "cluster" else [read_document(text, source="", kind=name).data]
    for document in documents:
        assert list(_validator(name).iter_errors(document)) == []


def test_a_cluster_file_for_ray_up_is_checked_where_it_is_ours() -> None:
    ray_up = {"cluster_name": "c", "provider": {"type": "local"}, "metadata": {"study": CLUSTER}}
    assert _validator("cluster").is_valid(ray_up)
    assert not _validator("cluster").is_valid({**ray_up, "metadata": {"study": {"cpu": 1}}})
    assert not _validator("cluster").is_valid({**ray_up, "metadata": {}})


def test_the_examples_of_this_file_are_accepted_by_both() -> None:
    for name, data in (("spec", SPEC), ("cluster", CLUSTER)):
        assert _refusal(name, data) is None  # type: ignore[arg-type]
        _assert_agrees(name, data)  # type: ignore[arg-type]


def test_a_resolved_spec_fits_the_schema() -> None:
    resolved = parse_yaml(json.dumps(SPEC), StudySpec, "study spec").model_dump(mode="json", by_alias=True)
    assert list(_validator("spec").iter_errors(resolved)) == []


# --- What the loader accepts, the schema accepts --------------------------------------------------------------------

SCALARS = st.sampled_from(
    [None, True, False, 0, 1, 2, 5, 40, 5000, -1, 0.5, 1.5, -0.1, 1e12, "", "adp", "all", "MDA", "test", "x:Y", "1"]
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.dictionaries(
        st.sampled_from(
            ["method", "objective.lambda", "uniform", "grid", "float", "int", "values", "log", "rule", "x"]
        ),
        st.one_of(SCALARS, st.lists(SCALARS, max_size=3)),
        max_size=2,
    ),
)


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _nodes(data: Any) -> Iterator[Any]:
    yield data
    items = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    for value in items:
        yield from _nodes(value)


def _varied(name: SchemaName, start: dict[str, Any], draw: st.DataObject) -> Any:
    """A file with one or two values replaced, left out or added."""
    data = copy.deepcopy(start)
    for _ in range(draw.draw(st.integers(1, 2))):
        places = list(_places(data))
        if not places:
            return data
        *parents, last = draw.draw(st.sampled_from(places))
        level = data
        for key in parents:
            level = level[key]
        change = draw.draw(st.sampled_from(["replace", "replace", "leave out", "add"]))
        if change == "leave out":
            del level[last]
        elif change == "replace" or not isinstance(level, dict):
            level[last] = draw.draw(VALUES)
        else:
            level[draw.draw(st.sampled_from(_known_keys(name)))] = draw.draw(VALUES)
    return data


@cache
def _known_keys(name: SchemaName) -> list[str]:
    """All keys that a file may have somewhere."""
    nodes = [node for node in _nodes(json_schema(name)) if isinstance(node, dict)]
    return sorted({key for node in nodes for key in node.get("properties", {})})


@cache
def _fitting(path: str) -> list[Any]:
    """The probes that the loader takes for a key path."""
    specs = {i: {"study": "x", "site": "x", "axes": {path: [value]}} for i, value in enumerate(PROBES)}
    return [PROBES[i] for i, spec in specs.items() if "does not fit" not in (_refusal("spec", spec) or "")]


def _likely(draw: st.DataObject) -> Any:
    """A spec of values that fit their key paths, one by one."""
    paths = st.sampled_from(key_paths())

    def fitting(path: str) -> Any:
        return draw.draw(st.sampled_from(_fitting(path)))

    spec: dict[str, Any] = {"study": "x", "site": "x", "base": {"network": {"preset": "small"}}}
    for path in draw.draw(st.lists(paths, max_size=3)):
        spec = _with(spec, ("base", *path.split(".")), fitting(path))
    axes = draw.draw(st.lists(paths, max_size=2, unique=True))
    spec["axes"] = {path: [fitting(path) for _ in range(draw.draw(st.integers(1, 2)))] for path in axes}
    searched = [path for path in draw.draw(st.lists(paths, max_size=2)) if path not in axes]
    if searched:
        spec["search"] = [{"space": {path: {"values": [fitting(path)]} for path in searched}}]
    if axes and draw.draw(st.booleans()):
        path = axes[0]
        value = draw.draw(st.sampled_from(spec["axes"][path]))
        kind = draw.draw(st.sampled_from(["exclude", "when", "claims"]))
        condition = {path: draw.draw(st.sampled_from([value, [value]]))}
        if kind == "when" and searched:
            spec["search"][0]["when"] = condition
        elif kind == "claims":
            spec["claims"] = [{"name": "c", "better": condition, "than": condition}]
        else:
            spec["exclude"] = [condition]
    return spec


@settings(max_examples=150)
@given(st.data())
def test_the_schema_accepts_every_likely_spec_that_the_loader_accepts(draw: st.DataObject) -> None:
    _assert_agrees("spec", _likely(draw))


@settings(max_examples=100)
@given(st.data())
def test_the_schema_accepts_every_spec_that_the_loader_accepts(draw: st.DataObject) -> None:
    _assert_agrees("spec", _varied("spec", SPEC, draw))


@settings(max_examples=100)
@given(st.data())
def test_the_schema_accepts_every_cluster_file_that_the_loader_accepts(draw: st.DataObject) -> None:
    _assert_agrees("cluster", _varied("cluster", CLUSTER, draw))


@settings(max_examples=50)
@given(st.data())
def test_the_schema_accepts_every_scenario_that_the_loader_accepts(draw: st.DataObject) -> None:
    start = yaml.safe_load(shipped_scenarios()["canyon_small"].read_text())
    _assert_agrees("scenario", _varied("scenario", start, draw))


# --- One mistake: both refuse ---------------------------------------------------------------------------------------

PROBES = [None, True, False, -1, 0, 1, 2, 8, 25, 300, 5000, 10**10, -0.5, 0.5, 1.5, 25.5, "", "25", "adp", "all", "HDA",
          "HDb", "a.b:C", "time", "focal", "twin", "none", "wrap", "test", "held_out", "small",
          "one_cycle", "sgd", [], [8, 8], [8], [8, 8, 8], [0, 8], [0, 1, 0, 1], [[0, 1, 0, 1]],
          ["adp"], {}, {"uniform": [2, 5]}, {"uniform": [0, 5]}, {"uniform": [2]}, {"unifrom": [2, 5]}]  # fmt: skip


@cache
def _axes_validator() -> Draft202012Validator:
    """For parts of a spec."""
    return Draft202012Validator({**json_schema("spec"), "required": [], "allOf": []})


@pytest.mark.parametrize("path", key_paths())
def test_the_values_of_a_key_path_are_those_that_the_loader_takes(path: str) -> None:
    axes = _axes_validator()
    for value in PROBES:
        spec = {"study": "x", "site": "x", "axes": {path: [value]}, "references": []}
        told = _refusal("spec", spec) or ""
        # That nobody has imported a user's class yet is nothing that a schema knows.
        fits = f"axes.{path}[0]" not in told or "nothing is known about this class" in told
        assert axes.is_valid({"axes": {path: [value]}}) == fits, value
        for condition in (value, [value]):
            told = _refusal("spec", {**spec, "axes": {}, "exclude": [{path: condition}]}) or ""
            fits = f"exclude[0].{path}" not in told
            assert axes.is_valid({"exclude": [{path: condition}]}) == fits, condition
        in_base = _with({"study": "x", "site": "x"}, ("base", *path.split(".")), value)
        searched = {"study": "x", "site": "x", "search": [{"space": {path: {"values": [value]}}}]}
        for spec in (in_base, searched):
            _assert_agrees("spec", spec)
            if value not in _fitting(path):
                _both_refuse("spec", spec)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sedes",), 3),
        (("seeds",), 0),
        (("seeds",), "three"),
        (("seeds",), True),
        (("site",), None),
        (("study",), "a/b"),
        (("references",), ["DCNN"]),
        (("base", "sytem"), {}),
        (("base", "method"), "HDB"),
        (("base", "branches"), "twins"),
        (("base", "system", "bandwidth_mhz"), -1),
        (("base", "system", "bandwidth_mhz"), "wide"),
        (("base", "system", "antennas"), [4]),
        (("base", "system", "paths"), {"uniform": [1]}),
        (("base", "split", "held_out", "validation"), 1.5),
        (("base", "objective", "lamda"), 0.5),
        (("base", "objective", "lambda"), 1.5),
        (("base", "training", "momentum"), 1),
        (("axes", "system.pathes"), [10]),
        (("axes", "objective.lamda"), [0.1]),
        (("axes", "system.paths"), 10),
        (("axes", "system.paths"), []),
        (("axes", "system.paths"), [0]),
        (("axes", "method"), ["DCNN", "MDDA"]),
        (("search", 0, "when"), {"metod": "MDA"}),
        (("search", 0, "when"), {"method": "MDAA"}),
        (("search", 0, "sapce"), {}),
        (("search", 0, "space"), {}),
        (("search", 0, "space"), {"objective.lamda": {"values": [0.1]}}),
        (("search", 0, "space"), {"objective.lambda": {"values": [1.1]}}),
        (("search", 0, "space"), {"objective.lambda": {"grid": [-1.0, 1.0, 0.5]}}),
        (("search", 0, "space"), {"objective.lambda": {"grid": [0.0, 1.0, 0]}}),
        (("search", 0, "space"), {"objective.lambda": {"float": [0.0, 1.0]}}),
        (("search", 1, "space"), {"objective.gamma": {"float": [0.0, 100]}}),
        (("search", 1, "space"), {"training.epochs": {"float": [1, 5]}}),
        (("search", 1, "space"), {"training.optimizer": {"int": [1, 5]}}),
        (("search", 1, "space"), {"split.test_scenes": {"values": [5]}}),
        (("search", 1, "sampler"), "bayes"),
        (("search", 1, "trials"), None),
        (("search", 0, "trials"), 5),
        (("search", 1, "sampler"), "nsga2"),
        (("search", 1, "early_stopping", "rule"), "hyperband"),
        (("search", 1, "early_stopping", "reduction_factor"), 1),
        (("search", 1, "early_stopping", "grace"), 1),
        (("exclude", 0), {"method": "MDAA"}),
        (("select", "metric"), "test_rmse"),
        (("claims", 0, "metric"), "rmse"),
        (("claims", 0, "than"), {"metod": "MDA"}),
        (("claims", 0, "than"), {}),
        (("claims", 0, "factor"), 0),
        (("claims", 0, "over"), "system.bandwidth_mhz"),
        (("claims", 1, "metric"), "spent_trials"),
        (("claims", 1, "over"), "system.bandwith_mhz"),
        (("claims", 1, "over"), "method"),
        (("claims", 1), {"name": "x"}),
        (("claims", 2, "factor"), 0.5),
        (("claims", 2, "upon"), "objective.lamda"),
        (("claims", 3, "differs_over"), None),
        (("claims", 3, "optimum"), {"metod": "MDA"}),
        (("published", 0, "when"), {"metod": "MDA"}),
        (("published", 0), {"when": {"method": "MDA"}}),
        (("published", 0, "test_accuracy"), 93.6),
        (("report", "figures"), ["cdfs"]),
    ],
)
def test_one_mistake_in_a_spec_is_refused_by_both(path: tuple[Any, ...], value: Any) -> None:
    _both_refuse("spec", _with(SPEC, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cpu",), 8),
        (("cpus",), 0),
        (("gpus",), "two"),
        (("resources_per_trial", "cpus"), 1),
        (("resources_per_trial", "gpu"), -1),
        (("max_retries",), 1000),
        (("nodes", 0, "count"), 0),
        (("nodes", 0, "spot"), "yes"),
        (("nodes", 0, "price_per_hour"), -1),
    ],
)
def test_one_mistake_in_a_cluster_file_is_refused_by_both(path: tuple[Any, ...], value: Any) -> None:
    _both_refuse("cluster", _with(CLUSTER, path, value))


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_an_unknown_key_at_any_level_is_refused_by_both(name: SchemaName) -> None:
    start = {"spec": SPEC, "cluster": CLUSTER}.get(name) or yaml.safe_load(SHIPPED[name]["canyon_small"].read_text())
    for path in [(), *_places(start)]:
        level = start
        for key in path:
            level = level[key]
        if isinstance(level, dict):
            _both_refuse(name, _with(start, (*path, "unknown_key"), 1))


def test_settings_of_a_users_method_are_key_paths_of_its_studies_only() -> None:
    own = {"study": "x", "site": "x", "base": {"objective": {"depth": 3}}, "axes": {"objective.width": [1, 2.5, None]}}
    assert not _validator("spec").is_valid(own)
    assert _validator("spec").is_valid({**own, "base": {**own["base"], "method": "package.module:Class"}})
    assert _validator("spec").is_valid({**own, "axes": {**own["axes"], "method": ["DCNN", "package.module:Class"]}})
    known = {"name": "Own", "joint": True, "adapts": False, "twin": False, "objective": {"depth": 3, "width": 0.5}}
    resolved = {**own, "methods": {"package.module:Class": {**known, "source": "0" * 16}}}
    assert _refusal("spec", resolved) is None
    assert _validator("spec").is_valid(resolved)
    _both_refuse("spec", {**resolved, "methods": {"package.module": {**known, "source": "0" * 16}}})
    _both_refuse("spec", {**resolved, "methods": {"package.module:Class": known}})
    named = {**own, "base": {"method": "package.module:Class"}}
    assert not _validator("spec").is_valid({**named, "axes": {"objective.width": [[1]]}})
    assert not _validator("spec").is_valid({**named, "axes": {"sytem.paths": [1]}})


# --- What an editor shows -------------------------------------------------------------------------------------------


def test_editors_complete_and_explain_all_key_paths() -> None:
    schema = json_schema("spec")
    axes = schema["properties"]["axes"]["properties"]
    assert list(axes) == key_paths()
    assert set(schema["$defs"]["Search"]["properties"]["space"]["properties"]) == {
        path for path in key_paths() if not path.startswith("split.")
    }
    without = [
        key
        for node in _nodes(schema)
        if isinstance(node, dict) and "additionalProperties" in node
        for key, entry in node.get("properties", {}).items()
        if "description" not in entry and key not in ("grid", "values", "float", "int", "log")
    ]
    assert without == []


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_defaults_and_examples_fit_their_own_schema(name: SchemaName) -> None:
    schema = json_schema(name)
    for node in _nodes(schema):
        for entry in (node.get("properties") or {}).values() if isinstance(node, dict) else ():
            if isinstance(entry, dict):
                alone = Draft202012Validator({**entry, "$defs": schema.get("$defs", {})})
                for value in [*entry.get("examples", []), *([entry["default"]] if "default" in entry else [])]:
                    assert alone.is_valid(value), (entry, value)


def test_descriptions_come_from_the_attributes_of_a_docstring() -> None:
    class Described(BaseModel):
        """What it is.

        Attributes:
            one, two: shared words, over
                two lines with ``code``: and a colon.
            three: its own.
        """

        one: int
        two: int
        three: int
        four: int

    assert field_descriptions(Described) == {
        "one": "shared words, over two lines with `code`: and a colon.",
        "two": "shared words, over two lines with `code`: and a colon.",
        "three": "its own.",
    }


def test_the_documentation_of_the_spec_is_what_the_models_say() -> None:
    written = (Path(__file__).parents[2] / "docs" / "spec.md").read_text(encoding="utf-8")
    assert written == spec_reference(), "python -m study.spec.reference docs/spec.md"
