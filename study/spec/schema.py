"""JSON Schemas of the files that users write, for editors: completion, explanations, mistakes. No torch here.

    json_schema         of a study spec, a cluster file or a scenario file
    field_descriptions  key → what it means, from a model's docstring

The models are the only source: types, bounds and defaults come from pydantic, descriptions from ``Attributes:``
sections. For specs, key paths are written out with the type of each one's values.

What the loader accepts, the schema accepts. The loader refuses more: whatever compares two values of a file (an empty
range, a cell that contradicts itself, a grid that ends beyond a bound), and 3.0 for a whole number, which JSON Schema
takes for 3.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel

from models.settings import METHOD_SETTINGS
from study.spec.claims import PUBLISHED_NUMBERS
from study.spec.problems import Allowed
from study.spec.trial import ObjectiveSettings

__all__ = ["SCHEMA_NAMES", "SchemaName", "field_descriptions", "json_schema", "objective_readers", "summary"]

SchemaName = Literal["spec", "cluster", "scenario"]
SCHEMA_NAMES: tuple[SchemaName, ...] = get_args(SchemaName)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TITLES: dict[SchemaName, str] = {"spec": "Study spec", "cluster": "Cluster file", "scenario": "Scenario file"}

# Model → key → what one might write there. A test holds them against the schema.
_EXAMPLES: dict[str, dict[str, list[Any]]] = {
    "StudySpec": {
        "study": ["my_study"],
        "site": ["canyon_small"],
        "axes": [{"method": ["DCNN", "MDA", "HDA"], "system.paths": [10, {"uniform": [10, 25]}, 25]}],
        "exclude": [[{"method": "TL", "system.paths": [10, 25]}]],
    },
    "SystemConfiguration": {"antennas": [[8, 8]], "paths": [25, {"uniform": [10, 25]}]},
    "HeldOut": {"validation": [0.1, [[-60.0, 0.0, -20.0, 0.0]]], "test": [0.2, [[0.0, 60.0, -20.0, 0.0]]]},
    "Split": {"labelled_scenes": ["all", 10], "area": ["all", [-60.0, 60.0, -20.0, 0.0]]},
    "Search": {
        "when": [{"method": "MDA"}],
        "space": [{"objective.lambda": {"grid": [0.0, 1.0, 0.1]}}, {"objective.gamma": {"float": [0.0, 4.0]}}],
    },
    "Comparison": {"better": [{"method": "HDA"}], "than": [{"method": "DCNN"}, {"method": ["DCNN", "TL"]}]},
    "Steadiness": {"steadier": [{"method": "MDA"}], "than": [{"method": "DCNN"}], "over": ["system.paths"]},
    "Dependence": {"depends": [{"method": "MDA"}], "upon": ["objective.lambda"]},
    "OptimumShift": {
        "optimum": [{"method": "MDA"}],
        "of": ["objective.lambda"],
        "differs_over": ["system.bandwidth_mhz"],
    },
    "Published": {"when": [{"method": "MDA", "system.paths": 25}], "test_rmse": [0.8299]},
}


def json_schema(name: SchemaName) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of file, as plain data."""
    schema = _schema_of(_model(name))
    if name == "spec":
        _write_out_key_paths(schema)
    elif name == "cluster":
        schema = _within_other_files(schema)
    head = {"$schema": _DIALECT, "$id": f"urn:study:schema:{name}", "title": _TITLES[name]}
    return head | {key: schema[key] for key in ("description", *schema) if key in schema and key not in head}


def _within_other_files(schema: dict[str, Any]) -> dict[str, Any]:
    """A cluster file may be one for ``ray up``, with ours in ``metadata.study``, or a manifest, with ours as text."""
    defs = schema.pop("$defs", {})
    ours = {"$ref": "#/$defs/Cluster"}
    metadata = {"type": "object", "properties": {"study": ours}, "required": ["study"]}
    return {
        "description": schema["description"],
        "type": "object",
        "if": {"required": ["apiVersion"]},
        "else": {
            "if": {"anyOf": [{"required": ["cluster_name"]}, {"required": ["provider"]}]},
            "then": {"properties": {"metadata": metadata}, "required": ["metadata"]},
            "else": ours,
        },
        "$defs": {**defs, "Cluster": schema},
    }


def summary(model: type[BaseModel]) -> str:
    """A model's docstring up to its ``Attributes:``, with Markdown's marks for code; paragraphs stay apart."""
    text = inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:")[0]
    return "\n\n".join(_line(paragraph) for paragraph in text.strip().split("\n\n"))


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Key, as it stands in a file → what it means.

    From ``Field(description=...)``, otherwise from the docstring's ``Attributes:``, where ``a, b: text`` is for both.
    """
    found: dict[str, str] = {}
    section = inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:\n")[2]
    # An entry starts at four spaces; its other lines stand further in.
    for entry in re.split(r"\n(?=    \S)", section):
        names, colon, text = entry.partition(":")
        if colon:
            found |= dict.fromkeys((part.strip() for part in names.split(",")), _line(text))
    described = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        text = field.description or found.get(name, "").removeprefix(f"(`{key}`) ")
        if text:
            described[key] = text
    return described


def objective_readers() -> dict[str, dict[str, Any]]:
    """Key of `objective` → method that reads it → that method's default."""
    keys = [field.alias or name for name, field in ObjectiveSettings.model_fields.items()]
    defaults = {name: settings.objective_defaults() for name, settings in METHOD_SETTINGS.items()}
    return {key: {name: values[key] for name, values in defaults.items() if key in values} for key in keys}


def _model(name: SchemaName) -> type[BaseModel]:
    if name == "cluster":
        from cluster.model import Cluster

        return Cluster
    if name == "scenario":
        from study.data.scenario import Scenario  # brings NumPy, which the others do without

        return Scenario
    from study.spec.model import StudySpec

    return StudySpec


def _line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


# --- What pydantic says, with descriptions ------------------------------------------------------------------------


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True, mode="validation")
    for part in _models(model):
        own = schema if part is model else schema["$defs"][part.__name__]
        own.pop("title", None)
        own["description"] = summary(part)
        described, examples = field_descriptions(part), _EXAMPLES.get(part.__name__, {})
        for name, field in part.model_fields.items():
            key = field.alias or name
            entry = own["properties"][key]
            entry.pop("title", None)
            entry.pop("description", None)
            text = described.get(key, "")
            for allowed in (item.text for item in field.metadata if isinstance(item, Allowed)):
                text = f"{text.rstrip('.')}. Allowed: {allowed}." if text else f"Allowed: {allowed}."
            if part is ObjectiveSettings:
                readers = objective_readers()[key].items()
                text += " Default: " + ", ".join(f"{_word(value)} ({method})" for method, value in readers) + "."
            if text:
                entry["description"] = text
            if isinstance(entry.get("default"), dict) or entry.get("default", 0) is None:
                del entry["default"]  # a section's defaults stand at its keys; null is how pydantic says "left out"
            if "patternProperties" in entry:
                entry.setdefault("additionalProperties", False)  # a mapping's keys must fit
            if key in examples:
                entry["examples"] = copy.deepcopy(examples[key])
    return schema


def _models(of: Any) -> list[type[BaseModel]]:
    """All models within a type, each once."""
    found: dict[type[BaseModel], None] = {}

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found[annotation] = None
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for argument in get_args(annotation):
            visit(argument)

    visit(of)
    return list(found)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- Key paths ----------------------------------------------------------------------------------------------------

_Node = dict[str, Any]


def _write_out_key_paths(schema: _Node) -> None:
    """Replace what pydantic calls any mapping by the key paths and the types of their values."""
    defs = schema["$defs"]
    leaves = dict(_leaves(defs, "TrialConfiguration"))
    references = {path: {"$ref": pointer} for path, (pointer, _) in leaves.items()}
    texts = {path: {"description": leaf["description"]} for path, (_, leaf) in leaves.items() if "description" in leaf}

    def paths(values: Mapping[str, _Node]) -> _Node:
        properties = {path: value | texts.get(path, {}) for path, value in values.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def lists(value: _Node) -> _Node:
        return {"type": "array", "minItems": 1, "items": value}

    def either(value: _Node) -> _Node:
        return {"anyOf": [value, lists(value)]}

    axes = paths({path: lists(value) for path, value in references.items()})
    condition = paths({path: either(value) for path, value in references.items()})
    # Candidates on different scenes cannot be compared.
    searched = {path: leaf for path, (_, leaf) in leaves.items() if not path.startswith("split.")}
    space = paths({path: {"anyOf": _domains(defs, leaf, references[path])} for path, leaf in searched.items()})
    # What a user's method reads is known when its class is imported: any scalar will do here.
    setting = {"$ref": "#/$defs/UserSetting"}
    defs["UserSetting"] = {"type": ["boolean", "number", "string", "null"], "description": "A user's method reads it."}
    defs["ObjectiveSettings"] |= {"patternProperties": {f"^{_SETTING}$": setting}, "additionalProperties": False}
    ranges = {"anyOf": _domains(defs, {"type": "number"}, setting)}
    for node, value in ((axes, lists(setting)), (condition, either(setting)), (space, ranges)):
        node["patternProperties"] = {_SETTING_PATH: value}
    for name in ("GridDomain", "ValuesDomain", "FloatDomain", "IntDomain"):
        del defs[name]
    defs["Condition"] = condition | {"description": "Key path → value or list of values; all must match."}

    properties = schema["properties"]
    _fill(properties["axes"], axes)
    properties["exclude"]["items"] = {"$ref": "#/$defs/Condition"}
    for name, key in (("Search", "when"), ("Published", "when"), *_CLAIM_CONDITIONS):
        _fill(defs[name]["properties"][key], {"$ref": "#/$defs/Condition"})
    varied = {"anyOf": [{"enum": [path for path in leaves if path != "method"]}, {"pattern": _SETTING_PATH}]}
    for name, key in _CLAIM_PATHS:
        defs[name]["properties"][key] |= varied
    numbers = [{"required": [key], "properties": {key: {"type": "number"}}} for key in PUBLISHED_NUMBERS]
    defs["Published"]["anyOf"] = numbers
    _fill(defs["Search"]["properties"]["space"], space)
    defs["Search"]["allOf"] = copy.deepcopy(_SEARCH_RULES)
    # What a preset says need not stand in the file.
    schema["required"].remove("site")
    without = {"required": ["site"], "properties": {"search": {"items": copy.deepcopy(_SAMPLED)}}}
    schema["allOf"] = [{"if": {"required": ["preset"]}, "else": without}]
    schema["if"] = copy.deepcopy(_NAMES_OWN_METHOD)
    schema["else"] = _known_paths_only(list(defs["ObjectiveSettings"]["properties"]), list(leaves))


def _known_paths_only(settings: list[str], paths: list[str]) -> _Node:
    """Without a method of the user's own, nothing but the project's settings has a key path."""
    known = {"propertyNames": {"enum": paths}}
    search = {"properties": {"when": known, "space": known}}
    claim = {key: known for _, key in _CLAIM_CONDITIONS} | {key: {"enum": paths} for _, key in _CLAIM_PATHS}
    return {
        "properties": {
            "base": {"properties": {"objective": {"propertyNames": {"enum": settings}}}},
            "axes": known,
            "search": {"items": search},
            "exclude": {"items": known},
            "claims": {"items": {"properties": claim}},
            "published": {"items": {"properties": {"when": known}}},
        }
    }


def _fill(entry: _Node, value: _Node) -> None:
    """Put a type in the place of pydantic's, and keep what else it says."""
    for key in ("type", "additionalProperties"):
        entry.pop(key, None)
    entry.update(value)


def _leaves(defs: _Node, model: str, prefix: str = "") -> Iterator[tuple[str, tuple[str, _Node]]]:
    """Key path → (pointer to its schema, the schema)."""
    for key, entry in defs[model]["properties"].items():
        section = entry.get("$ref", "").rpartition("/")[2]
        if "properties" in defs.get(section, {}):
            yield from _leaves(defs, section, f"{prefix}{key}.")
        else:
            yield prefix + key, (f"#/$defs/{model}/properties/{key}", entry)


_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")


def _domains(defs: _Node, leaf: _Node, reference: _Node) -> list[_Node]:
    """The domains that a search may have over a key path: ranges for numbers, listed values for everything."""
    values = copy.deepcopy(defs["ValuesDomain"])
    values["properties"]["values"]["items"] = reference
    domains = [values]
    numbers = [member for member in leaf.get("anyOf", [leaf]) if member.get("type") in ("number", "integer")]
    for member in numbers:
        bounds = {key: member[key] for key in _BOUNDS if key in member}
        whole = copy.deepcopy(defs["IntDomain"])
        whole["properties"]["int"]["prefixItems"] = [{"type": "integer"} | bounds] * 2
        domains.append(whole)
        if member["type"] == "number":
            real, grid = copy.deepcopy(defs["FloatDomain"]), copy.deepcopy(defs["GridDomain"])
            real["properties"]["float"]["prefixItems"] = [{"type": "number"} | bounds] * 2
            # The last point of a grid may lie below its end, which is therefore free.
            grid["properties"]["grid"]["prefixItems"][0] |= bounds
            domains += [real, grid]
    return domains


# The name of a setting, as `UserMethod` has it.
_SETTING = "[a-z][a-z0-9_]*"
_SETTING_PATH = rf"^objective\.{_SETTING}$"
_IMPORT_PATH: _Node = {"type": "string", "pattern": ":"}


def _has(key: str, value: _Node) -> _Node:
    return {"properties": {key: value}, "required": [key]}


_NAMES_OWN_METHOD: _Node = {
    "anyOf": [
        _has("methods", {"minProperties": 1}),
        _has("base", _has("method", _IMPORT_PATH)),
        _has("axes", _has("method", {"contains": _IMPORT_PATH})),
    ]
}

# Of each form of claim: the keys that are conditions, and those that are key paths.
_CLAIM_CONDITIONS = (
    ("Comparison", "better"),
    ("Comparison", "than"),
    ("Steadiness", "steadier"),
    ("Steadiness", "than"),
    ("Dependence", "depends"),
    ("OptimumShift", "optimum"),
)
_CLAIM_PATHS = (
    ("Steadiness", "over"),
    ("Dependence", "upon"),
    ("OptimumShift", "of"),
    ("OptimumShift", "differs_over"),
)

_DRAWS: _Node = {"properties": {"sampler": {"enum": ["random", "tpe", "nsga2"]}}, "required": ["sampler"]}
_SAMPLED: _Node = {
    "if": _DRAWS,
    "then": {"properties": {"trials": {"type": "integer"}}, "required": ["trials"]},
}
_SEARCH_RULES: list[_Node] = [
    {
        "if": _DRAWS,
        "else": {
            "properties": {
                "trials": {"type": "null"},
                "space": {"additionalProperties": {"not": {"required": ["float"]}}},
            }
        },
    },
    {
        "if": {"properties": {"sampler": {"const": "nsga2"}}, "required": ["sampler"]},
        "then": {"properties": {"early_stopping": {"type": "null"}}},
    },
]
