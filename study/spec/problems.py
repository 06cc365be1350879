"""Mistakes in a file, told in the words of its writer.

pydantic finds what is wrong; this module says it: the key path as it stands in the file, the value, what is allowed
(read from the type annotations) and the nearest match. A union that no member fits becomes one problem, not one for
each member.

Validators say what they mean with `InvalidValue`, `InvalidValues` and `Allowed`:

    raise InvalidValue("the range is empty", allowed="low < high")
    raise InvalidValue("no axis has this name", allowed="method, seeds", at=("search", 0, "when"))
    raise InvalidValues([InvalidValue(...), InvalidValue(...)])
    Name = Annotated[str, AfterValidator(check), Allowed("letters, digits and _")]
"""

from __future__ import annotations

import collections.abc
import enum
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, Discriminator, RootModel, ValidationError
from pydantic.fields import FieldInfo

from study.errors import Problem, nearest
from study.spec.document import Document, Key, format_key_path, show_value

__all__ = ["UNKNOWN_KEY", "Allowed", "InvalidValue", "InvalidValues", "describe", "misfit", "problems_of"]

UNKNOWN_KEY = "unknown key"


class InvalidValue(ValueError):  # noqa: N818 - a validator says `raise InvalidValue(...)`
    """What a validator raises to name what is wrong, what is allowed and, below a model, where.

    Args:
        what: what is wrong, in plain words.
        allowed: what would have been right.
        at: the key path below the model or field whose validator raises.
        hint: the nearest match, or what to write instead.
    """

    def __init__(
        self, what: str, allowed: str | None = None, at: tuple[Key, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.allowed, self.at, self.hint = what, allowed, tuple(at), hint


class InvalidValues(ValueError):  # noqa: N818
    """Several `InvalidValue` from one validator."""

    def __init__(self, problems: Iterable[InvalidValue]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(problem.what for problem in self.problems))


@dataclass(frozen=True)
class Allowed:
    """The words for what a type allows, in ``Annotated[...]`` beside a validator of its own."""

    text: str


def problems_of(
    error: ValidationError, model: type[BaseModel], document: Document, at: tuple[str, ...]
) -> list[Problem]:
    """The problems of a failed validation.

    Args:
        error: what pydantic raised.
        model: the model that the data did not fit.
        document: the file.
        at: where in the file the model's data are; empty for the top level.
    """
    found = [_place(details, model, document, at) for details in error.errors(include_url=False)]
    problems = [problem for issue in _collapse(found, 0) for problem in _translate(issue, document)]
    return list(dict.fromkeys(problems))


def misfit(error: ValidationError, field: FieldInfo, value: object) -> tuple[str, str | None] | None:
    """What is wrong with a value that does not fit a field, and what to write instead.

    Args:
        error: what pydantic raised.
        field: the field.
        value: the value.

    Returns:
        Nothing where something within the value is wrong, which only its whole form can tell.
    """
    shape = _Type(field.annotation, tuple(field.metadata))
    found = []
    for details in error.errors(include_url=False):
        places = _walk(shape, tuple(details["loc"]), (), (), None)
        found.append(_Issue(details, next(places, _Place(tuple(details["loc"]), _UNKNOWN, (), None))))
    issues = list(_collapse(found, 0))
    if len(issues) > 1 or issues[0].place.path:
        return None
    raised = issues[0].details.get("ctx", {}).get("error")
    if isinstance(raised, InvalidValue):
        return raised.what, raised.hint
    return _sentence(issues[0], value), _hint(issues[0], value)


# --- Where: pydantic's location to a key path ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Type:
    """An annotation with the constraints that stand beside it."""

    annotation: Any
    metadata: tuple[Any, ...] = ()


_UNKNOWN = _Type(Any)
_NO_FIELD = _Type(Any)


@dataclass(frozen=True)
class _Union:
    """A union on the way to an error: pydantic puts the label of the member it tried into the location."""

    path: tuple[Key, ...]
    label: str
    shape: _Type


@dataclass(frozen=True)
class _Place:
    path: tuple[Key, ...]
    shape: _Type
    unions: tuple[_Union, ...]
    owner: type[BaseModel] | None


@dataclass(frozen=True)
class _Issue:
    """One error of pydantic at its place. `alternatives` are the errors of union members that it stands for."""

    details: Any
    place: _Place
    alternatives: tuple[_Issue, ...] = ()

    @property
    def kind(self) -> str:
        return str(self.details["type"])


def _place(details: Any, model: type[BaseModel], document: Document, at: tuple[str, ...]) -> _Issue:
    location = tuple(details["loc"])
    if details["type"] == "missing" and isinstance(location[-1], int):
        # pydantic calls the absent second item of a pair missing; the list is what the file has.
        location = location[:-1]
        details = {**details, "type": "too_short", "input": _value_at(document, (*at, *location), _Missing)}
    for place in _walk(_Type(model), location, at, (), None):
        # Of a union's members, the one that knows the key is meant, unless the key is the very problem.
        if (place.shape is _NO_FIELD) == (details["type"] == "extra_forbidden"):
            return _Issue(details, place)
    # A type that the walk does not know: keep the parts of the location that the file has.
    path: tuple[Key, ...] = at
    for key in location:
        try:
            document.value((*path, key))
        except KeyError:
            continue
        path = (*path, key)
    return _Issue(details, _Place(path, _UNKNOWN, (), None))


def _walk(
    of: _Type,
    location: tuple[Key, ...],
    path: tuple[Key, ...],
    unions: tuple[_Union, ...],
    owner: type[BaseModel] | None,
) -> Iterator[_Place]:
    """The places that a location can mean, the likeliest first: which member a label names is tried out."""
    if not location:
        yield _Place(path, of, unions, owner)
        return
    bare = _unwrap(of)
    annotation, head, rest = bare.annotation, location[0], location[1:]
    members = [member for member in _members(annotation) if member is not type(None)]
    if len(members) == 1 and _is_union(annotation):
        yield from _walk(_Type(members[0]), location, path, unions, owner)
    elif members:
        label = str(head)
        # A discriminator has chosen the member already: there is nothing to collapse.
        chosen = next((item.discriminator for item in bare.metadata if isinstance(item, Discriminator)), None)
        members.sort(key=lambda member: not _is_labelled(member, label, chosen))
        step = () if chosen else (_Union(path, label, of),)
        for member in members:
            yield from _walk(_Type(member), rest, path, unions + step, owner)
    elif _is_model(annotation):
        if issubclass(annotation, RootModel):
            yield from _walk(_field_type(annotation.model_fields["root"]), location, path, unions, owner)
            return
        for name, field in annotation.model_fields.items():
            if head in (name, field.alias, field.validation_alias):
                yield from _walk(_field_type(field), rest, (*path, head), unions, annotation)
                return
        if not rest:
            yield _Place((*path, head), _NO_FIELD, unions, annotation)
    elif _is_sequence(annotation) and isinstance(head, int):
        yield from _walk(_item_type(annotation, head), rest, (*path, head), unions, owner)
    elif _is_mapping(annotation):
        key_type, value_type = (*get_args(annotation), Any, Any)[:2]
        if rest[-1:] == ("[key]",):
            yield _Place((*path, head), _Type(key_type), unions, None)
        else:
            yield from _walk(_Type(value_type), rest, (*path, head), unions, None)


def _unwrap(of: _Type) -> _Type:
    """Without ``Annotated`` and type aliases; the constraints collected, the outermost last."""
    annotation, metadata = of.annotation, of.metadata
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *extra = get_args(annotation)
            metadata = (*_flat(extra), *metadata)
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return _Type(annotation, metadata)


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _field_type(item).metadata
        elif isinstance(item, annotated_types.GroupedMetadata):
            yield from item
        else:
            yield item


def _field_type(field: FieldInfo) -> _Type:
    chosen = field.discriminator
    if isinstance(chosen, str):
        chosen = Discriminator(chosen)
    return _Type(field.annotation, (*_flat(field.metadata), *([chosen] if chosen else [])))


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _members(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if _is_union(annotation) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


_SEQUENCES = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _is_sequence(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in _SEQUENCES


def _is_mapping(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in _MAPPINGS


def _is_fixed_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple and get_args(annotation)[1:] != (Ellipsis,)


def _item_type(annotation: Any, index: int) -> _Type:
    arguments = get_args(annotation)
    if _is_fixed_tuple(annotation):
        return _Type(arguments[index]) if index < len(arguments) else _UNKNOWN
    return _Type(arguments[0]) if arguments else _UNKNOWN


def _is_labelled(member: Any, label: str, discriminator: object) -> bool:
    """Whether pydantic's label may name a union's member: its tag, or its name within ``function-after[…]``."""
    bare = _unwrap(_Type(member)).annotation
    if isinstance(discriminator, str) and _is_model(bare) and discriminator in bare.model_fields:
        return label in _words(_field_type(bare.model_fields[discriminator]))
    return getattr(get_origin(bare) or bare, "__name__", "") in label


# --- Unions: one line for the member that was meant ---------------------------------------------------------------

_WRONG_KINDS = frozenset(
    {"literal_error", "enum", "int_from_float", "none_required", "union_tag_invalid", "union_tag_not_found"}
)


def _is_wrong_kind(issue: _Issue) -> bool:
    return issue.kind.endswith(("_type", "_parsing")) or issue.kind in _WRONG_KINDS


def _collapse(issues: list[_Issue], depth: int) -> Iterator[_Issue]:
    """The issues with each union's replaced by those of the one member that was meant, or by a single one."""
    groups: dict[_Union, list[_Issue]] = {}
    for issue in issues:
        if len(issue.place.unions) <= depth:
            yield issue
        else:
            groups.setdefault(replace(issue.place.unions[depth], label=""), []).append(issue)
    for union, group in groups.items():
        members: dict[str, list[_Issue]] = {}
        for issue in group:
            members.setdefault(issue.place.unions[depth].label, []).append(issue)

        def at_union(issue: _Issue, union: _Union = union) -> bool:
            return issue.place.path == union.path

        # A member that refuses the value's very kind (text for a list) was not meant.
        meant = [own for own in members.values() if not any(at_union(i) and _is_wrong_kind(i) for i in own)]
        fewest = min((_distance(own) for own in meant), default=0)
        meant = [own for own in meant if _distance(own) == fewest]
        if len(meant) == 1:
            for issue in _collapse(meant[0], depth + 1):
                # Say all that the union allows, not only what its nearest member does.
                yield replace(issue, place=replace(issue.place, shape=union.shape)) if at_union(issue) else issue
        else:
            place = _Place(union.path, union.shape, (), None)
            candidates = tuple(issue for own in meant or members.values() for issue in own)
            details = {"type": "no_member", "input": _Missing, "ctx": {}, "msg": ""}
            yield _Issue(details, place, candidates)


def _distance(issues: list[_Issue]) -> tuple[int, int]:
    keys = sum(issue.kind in ("missing", "extra_forbidden") for issue in issues)
    return keys, len(issues)


class _Missing:
    """Stands for a value that is not there (null is a value)."""


# --- What: pydantic's error types to plain sentences --------------------------------------------------------------

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "model_attributes": "a mapping",
    "mapping": "a mapping",
}
_SENTENCES = {
    "greater_than": "the value is too small",
    "greater_than_equal": "the value is too small",
    "less_than": "the value is too large",
    "less_than_equal": "the value is too large",
    "multiple_of": "the value is not a multiple",
    "finite_number": "the value is not a finite number",
    "string_too_short": "the text is too short",
    "string_too_long": "the text is too long",
    "string_pattern_mismatch": "the text has the wrong form",
    "too_short": "too few items",
    "too_long": "too many items",
    "none_required": "no value is allowed here",
    "int_from_float": "expected a whole number, found a number with a decimal point",
    "int_parsing_size": "the number is too large",
}


def _translate(issue: _Issue, document: Document) -> list[Problem]:
    place, details, kind = issue.place, issue.details, issue.kind
    path = place.path
    value = details["input"]
    raised = details.get("ctx", {}).get("error")
    if isinstance(raised, InvalidValue | InvalidValues):
        parts = raised.problems if isinstance(raised, InvalidValues) else [raised]
        return [_raised(part, path, place.shape, document) for part in parts]
    if isinstance(raised, Exception):
        what, _, allowed = str(raised).partition(" | allowed: ")
        return [_raised(InvalidValue(what, allowed or None), path, place.shape, document)]
    if kind == "missing":
        allowed = describe(place.shape.annotation, place.shape.metadata)
        return [_problem(document, path, _Missing, "the key is missing", allowed, None, line=document.line(path[:-1]))]
    if kind == "union_tag_invalid":
        context = details["ctx"]
        key, tags = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "")
        hint = _nearest(context["tag"], tags.split(", "))
        return [_problem(document, (*path, key), context["tag"], "unknown value", tags, hint)]
    if kind == "extra_forbidden":
        keys = _keys(place.owner)
        return [_problem(document, path, value, UNKNOWN_KEY, ", ".join(keys), _nearest(path[-1], keys))]
    if kind == "no_member":
        value = _value_at(document, path, _Missing)
    described = describe(place.shape.annotation, place.shape.metadata)
    allowed_text = _fallback_allowed(details) if described == describe(Any) else described
    return [_problem(document, path, value, _sentence(issue, value), allowed_text, _hint(issue, value))]


def _raised(part: InvalidValue, path: tuple[Key, ...], of: _Type, document: Document) -> Problem:
    allowed = part.allowed
    if allowed is None and not part.at:
        allowed = next((item.text for item in _unwrap(of).metadata if isinstance(item, Allowed)), None)
    path = (*path, *part.at)
    value = _value_at(document, path, _Missing)
    # A validator of a whole model complains about a relation: its mapping shown in full would hide the sentence.
    if isinstance(value, dict) and not part.at:
        value = _Missing
    return _problem(document, path, value, part.what, allowed, part.hint)


def _problem(
    document: Document,
    path: tuple[Key, ...],
    value: object,
    what: str,
    allowed: str | None,
    hint: str | None,
    line: int | None = None,
) -> Problem:
    shown = None if value is _Missing else show_value(value)
    where = document.line(path) if line is None else line
    return Problem(document.source, where, format_key_path(path), shown, what, allowed or None, hint)


def _value_at(document: Document, path: tuple[Key, ...], otherwise: object) -> object:
    try:
        return document.value(path)
    except KeyError:
        return otherwise


def _sentence(issue: _Issue, value: object) -> str:
    kind = issue.kind
    if kind in _SENTENCES:
        return _SENTENCES[kind]
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        return "unknown value"
    if kind == "no_member":
        if all(other.kind in ("missing", "extra_forbidden") for other in issue.alternatives):
            return "the keys of this mapping fit none of the allowed forms"
        words = any(other.kind in ("literal_error", "enum") for other in issue.alternatives)
        return "unknown value" if words and isinstance(value, str) else f"{_found(value)} is not allowed here"
    for suffix in ("_type", "_parsing"):
        if kind.endswith(suffix) and kind.removesuffix(suffix) in _EXPECTED:
            decimal = kind.startswith("int") and isinstance(value, float)
            found = "a number with a decimal point" if decimal else _found(value)
            return f"expected {_EXPECTED[kind.removesuffix(suffix)]}, found {found}"
    if kind == "union_tag_not_found":
        return "the key that tells the form is missing"
    return str(issue.details["msg"]).replace("Input should be", "the value must be", 1)


def _found(value: object) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "a mapping"


def _hint(issue: _Issue, value: object) -> str | None:
    """What to write instead: the nearest allowed word, or the same value as the right kind."""
    kinds = {other.kind for other in issue.alternatives} or {issue.kind}
    if isinstance(value, str):
        if kinds & {"bool_type", "bool_parsing"} and value.lower() in ("yes", "no", "on", "off", "true", "false"):
            return "write true or false"
        words = _words(issue.place.shape)
        if words and (hint := _nearest(value, words)):
            return hint
        if kinds & {"int_type", "float_type", "int_parsing", "float_parsing"}:
            number = value.strip().replace("_", "")
            if number and number.replace(".", "", 1).lstrip("+-").isdigit():
                return f"write {number} without quotes" if number == value else f"write {number}"
        if kinds & {"list_type", "set_type"}:
            return f"write [{show_value(value)}]"
    elif isinstance(value, dict) and issue.kind == "no_member":
        extra = [other for other in issue.alternatives if other.kind == "extra_forbidden"]
        for other in extra:
            # Search over all forms at once: the unknown key is the same in each.
            word, keys = other.place.path[-1], [key for item in extra for key in _keys(item.place.owner)]
            if word not in keys and (hint := _nearest(word, keys)):
                return hint
    elif kinds <= {"string_type"} and value is not None and not isinstance(value, list | dict):
        return f"put the value in quotes: '{show_value(value)}'"
    elif kinds & {"list_type", "set_type"} and isinstance(value, int | float):
        return f"write [{show_value(value)}]"
    elif kinds & {"int_type", "int_from_float"} and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    return None


def _nearest(word: object, known: Iterable[str]) -> str | None:
    return nearest(str(word), known).removeprefix("; ") or None


def _keys(model: type[BaseModel] | None) -> list[str]:
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _words(of: _Type) -> list[str]:
    """All words that a type names: of literals, enumerations, and unions of them."""
    annotation = _unwrap(of).annotation
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation) if isinstance(value, str)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [str(member.value) for member in annotation]
    return [word for member in _members(annotation) for word in _words(_Type(member))]


def _fallback_allowed(details: Mapping[str, Any]) -> str | None:
    context = details.get("ctx", {})
    for name in ("expected", "expected_tags"):
        if name in context:
            return str(context[name])
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("multiple_of", "multiples of")):
        if name in context:
            return f"{sign} {context[name]}"
    return None


# --- Allowed: a type in words -------------------------------------------------------------------------------------


def describe(annotation: Any, metadata: Iterable[Any] = (), depth: int = 0) -> str:
    """What a type allows, in words: ``a whole number ≥ 1, or null``.

    Args:
        annotation: a type as pydantic takes it.
        metadata: constraints that stand beside it (a field's ``ge=1``).
        depth: how deep inside a container; inner forms are told shortly.
    """
    of = _unwrap(_Type(annotation, tuple(_flat(metadata))))
    annotation, constraints = of.annotation, of.metadata
    for item in reversed(constraints):
        if isinstance(item, Allowed):
            return item.text
    limits = _limits(constraints)
    if annotation is None or annotation is type(None):
        return "null"
    if _is_union(annotation):
        members = sorted(_members(annotation), key=lambda member: member is type(None))
        # A field's constraint (ge=1 beside int | None) holds for the members, which are described with it.
        return ", or ".join(dict.fromkeys(describe(member, constraints, depth) for member in members))
    if get_origin(annotation) is Literal:
        return _either([_word(value) for value in get_args(annotation)])
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _either([_word(member.value) for member in annotation])
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if annotation in (int, float):
        return simple[annotation] + limits.numbers
    if annotation is str:
        return "text" + limits.characters
    if annotation in simple:
        return simple[annotation]
    if _is_model(annotation):
        if issubclass(annotation, RootModel):
            root = _field_type(annotation.model_fields["root"])
            return describe(root.annotation, root.metadata, depth + 1)
        keys = _keys(annotation)
        return f"a mapping with the key{'s' if len(keys) > 1 else ''} {', '.join(keys)}"
    if depth > 3:
        return "any value"
    if _is_fixed_tuple(annotation):
        items = [describe(item, depth=depth + 1) for item in get_args(annotation)]
        if len(set(items)) == 1:
            return f"a list of {len(items)}, each {items[0]}" if len(items) > 1 else f"a list of one: {items[0]}"
        return f"a list of {len(items)}: " + "; ".join(items)
    if _is_sequence(annotation):
        arguments = get_args(annotation)
        each = f", each {describe(arguments[0], depth=depth + 1)}" if arguments and arguments[0] is not Any else ""
        return f"a list{limits.items}{each}"
    if _is_mapping(annotation):
        arguments = get_args(annotation)
        each = (
            f", each value {describe(arguments[1], depth=depth + 1)}" if arguments and arguments[1] is not Any else ""
        )
        return f"a mapping{limits.items}{each}"
    return "any value"


@dataclass(frozen=True)
class _Limits:
    numbers: str
    characters: str
    items: str


def _limits(constraints: Iterable[Any]) -> _Limits:
    bounds: dict[str, Any] = {}
    for item in constraints:
        for name in ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern"):
            bound = getattr(item, name, None)
            if bound is not None:
                bounds[name] = bound
    numbers = ""
    if "ge" in bounds and "le" in bounds:
        numbers = f" from {_word(bounds['ge'])} to {_word(bounds['le'])}"
    else:
        signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        numbers = " and".join(f" {sign} {_word(bounds[name])}" for name, sign in signs if name in bounds)
    if "multiple_of" in bounds:
        numbers += f", a multiple of {_word(bounds['multiple_of'])}"
    low, high = bounds.get("min_length"), bounds.get("max_length")
    characters = _lengths(low, high, "characters")
    if "pattern" in bounds:
        characters += f" of the form {bounds['pattern']}"
    return _Limits(numbers, characters, _lengths(low, high, "items"))


def _lengths(low: int | None, high: int | None, unit: str) -> str:
    if low and high:
        return f" of {low} {unit}" if low == high else f" of {low} to {high} {unit}"
    if low:
        return f" of at least {low} {unit if low > 1 else unit[:-1]}"
    return f" of at most {high} {unit}" if high else ""


def _word(value: object) -> str:
    return value if isinstance(value, str) else show_value(value)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
