"""docs/spec.md, written from the models. ``python -m study.spec.reference docs/spec.md`` writes the file.

The text around the tables is ``reference.md.j2`` beside this module. Keys, defaults, what is allowed and what a key
means come from the models, so that the document and the error messages say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import jinja2
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from study.data.split import HeldOut, Split
from study.data.system import SystemConfiguration, UniformPaths
from study.spec.claims import CLAIM_KINDS, Comparison, Dependence, OptimumShift, Published, Steadiness
from study.spec.model import EarlyStopping, Report, Search, Select, StudySpec
from study.spec.problems import describe
from study.spec.schema import field_descriptions, objective_readers, summary
from study.spec.trial import NetworkSettings, ObjectiveSettings, TrainingSettings, TrialConfiguration

__all__ = ["spec_reference"]

# What stands for a mapping in the tables, where the document says more about it in a section of its own.
_MAPPINGS: dict[type[BaseModel], str] = {
    UniformPaths: "`{uniform: [low, high]}`",
    EarlyStopping: "a mapping, see below",
}


def spec_reference() -> str:
    """The Markdown text of docs/spec.md."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("study.spec", package_path=""),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("reference.md.j2").render(
        top=_table(StudySpec, allowed=False),
        cell=_table(TrialConfiguration),
        system=_table(SystemConfiguration, "system."),
        split=_table(Split, "split."),
        held_out=_table(HeldOut, "split.held_out."),
        network=_table(NetworkSettings, "network."),
        objective=_objective_table(),
        training=_table(TrainingSettings, "training."),
        search=_table(Search),
        early_stopping=_table(EarlyStopping),
        select=_table(Select),
        comparison=_table(Comparison),
        steadiness=_table(Steadiness),
        dependence=_table(Dependence),
        optimum_shift=_table(OptimumShift),
        published=_table(Published),
        report=_table(Report),
        summary={
            model.__name__: summary(model).partition("\n\n")
            for model in (
                SystemConfiguration,
                HeldOut,
                Split,
                TrainingSettings,
                EarlyStopping,
                ObjectiveSettings,
                *CLAIM_KINDS,
                Published,
            )
        },
    )


def _table(model: type[BaseModel], prefix: str = "", *, allowed: bool = True) -> str:
    """A row for each key that is no section with a table of its own."""
    meanings = field_descriptions(model)
    rows = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and model is not StudySpec:
            continue
        row = [f"`{prefix}{key}`", _default(field)]
        if allowed:
            row.append(_allowed(field))
        rows.append([*row, _meaning(meanings, key)])
    return _markdown(["key", "default", *(["allowed"] if allowed else []), "meaning"], rows)


def _objective_table() -> str:
    """As `_table`, with the methods that read a setting and their defaults."""
    meanings = field_descriptions(ObjectiveSettings)
    fields = {field.alias or name: field for name, field in ObjectiveSettings.model_fields.items()}
    rows = []
    for key, readers in objective_readers().items():
        values = list(dict.fromkeys(map(_yaml, readers.values())))
        default = values[0] if len(values) == 1 else ", ".join(f"{_yaml(v)} ({m})" for m, v in readers.items())
        rows.append([f"`objective.{key}`", default, _allowed(fields[key]), ", ".join(readers), _meaning(meanings, key)])
    return _markdown(["key", "default", "allowed", "read by", "meaning"], rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "below"
    return "–" if value is None or value == "" or (isinstance(value, tuple | dict) and not value) else _yaml(value)


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is dict:
        return "a mapping with key paths"
    members = get_args(field.annotation) or (field.annotation,)
    mappings = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    if not mappings or field.annotation in mappings:
        return _described(field.annotation, field)
    words = [_MAPPINGS[member] for member in mappings]
    others = [member for member in members if member not in (*mappings, NoneType)]
    return ", or ".join([*(_described(member, field) for member in others), *words])


def _described(annotation: Any, field: FieldInfo) -> str:
    # Null says "left out", which nobody has to write.
    return describe(annotation, tuple(field.metadata)).replace(", or null", "").replace("4294967296", "2³²")


def _meaning(meanings: Mapping[str, str], key: str) -> str:
    text = meanings.get(key, "")
    return text if ". " in text else text.removesuffix(".")


def _yaml(value: Any) -> str:
    """A value as one writes it in a spec."""
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(spec_reference(), encoding="utf-8")
