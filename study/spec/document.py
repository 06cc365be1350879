"""YAML text to plain data that remembers its lines.

PyYAML reads YAML 1.1, where a plain ``no`` is False, ``1e-3`` is text and ``1:30`` is 90. Here PyYAML only parses; what
a plain word means follows the core schema of YAML 1.2: booleans are true and false, ``1e-3`` is a number, and times,
dates and ``1_000`` are text. Merge keys (``<<``) of YAML 1.1 are kept, because configuration files live on them.
Duplicate keys, which YAML forbids and PyYAML swallows, are mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

from study.errors import Problem, SpecError

__all__ = ["Document", "Key", "format_key_path", "read_document", "show_value"]

Key: TypeAlias = str | int

# A real file has hundreds of values and a handful of levels; aliases of aliases ("billion laughs") reach 10^9.
MAX_VALUES = 100_000
MAX_DEPTH = 64
# No float reaches further, and Python refuses to read or write integers of thousands of digits.
MAX_DIGITS = 300
SHOWN_LENGTH = 60

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")

# What PyYAML says (a part of it), and what the user did.
_PLAIN_WORDS = (
    ("found character '\\t'", "a tab stands where YAML wants spaces", "replace it with spaces"),
    ("found unexpected end of stream", "a quotation mark is not closed", "close it on the same line"),
    ("expected ',' or ']'", "a list in [ ] is not closed, or a comma is missing", "check the brackets and commas"),
    ("expected ',' or '}'", "a mapping in { } is not closed, or a comma is missing", "check the braces and commas"),
    (
        "mapping values are not allowed here",
        "a ':' stands where no key can be",
        "check the indentation of this line and the one above; put text that contains ': ' in quotes",
    ),
    ("could not find expected ':'", "this line is not 'key: value'", "write a ':' and a space after the key"),
    (
        "expected <block end>",
        "this line does not fit the lines above it",
        "align the keys of one level in one column; close quotes and brackets; do not mix '- item' and 'key:' lines",
    ),
    ("that cannot start any token", "a text cannot start with this character", "put the text in quotes"),
    ("found unknown escape character", "an unknown escape after a backslash", "use 'single quotes' for such a text"),
    ("special characters are not allowed", "the file contains a control character", "save it again as plain text"),
    ("expected alphabetic or numeric character", "a name is missing after '*' or '&'", "put the text in quotes"),
)


@dataclass(frozen=True)
class Document:
    """The content of one YAML file.

    Args:
        source: the file as the user named it.
        data: the top-level mapping.
        lines: the line (from 1) of each key and list item, by its path.
        problems: what is wrong with the text itself (duplicate keys, keys that are no text, unknown tags).
    """

    source: str
    data: dict[str, object]
    lines: dict[tuple[Key, ...], int]
    problems: tuple[Problem, ...] = ()

    def line(self, path: tuple[Key, ...]) -> int:
        """The line of a key path, or of its nearest ancestor that is in the file."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    def value(self, path: tuple[Key, ...]) -> object:
        """The value at a key path; KeyError where the file has none."""
        value: object = self.data
        for key in path:
            in_list = isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value)
            if not in_list and not (isinstance(value, dict) and key in value):
                raise KeyError(path)
            value = value[key]  # type: ignore[index]
        return value


@dataclass
class _Node:
    line: int
    column: int


@dataclass
class _Scalar(_Node):
    text: str
    plain: bool
    tag: str | None


@dataclass
class _Sequence(_Node):
    items: list[_Node] = field(default_factory=list)
    tag: str | None = None


@dataclass
class _Mapping(_Node):
    pairs: list[tuple[_Node, _Node]] = field(default_factory=list)
    tag: str | None = None


def read_document(text: str, *, source: str, kind: str) -> Document:
    """Parse YAML text whose top level is a mapping.

    Args:
        text: the content of the file.
        source: the file's name for messages.
        kind: what the file should be, such as ``study spec``.

    Raises:
        SpecError: not YAML (with line and column), empty, several documents, not a mapping at the top, an alias that
            contains itself, too many values or levels.
    """
    if not text.strip():
        raise _empty(source, kind)
    try:
        root = _compose(text, source)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, source, kind) from None
    if root is None or (isinstance(root, _Scalar) and root.plain and _NULL.fullmatch(root.text)):
        raise _empty(source, kind)
    if not isinstance(root, _Mapping):
        found = "a list" if isinstance(root, _Sequence) else f"the text {show_value(root.text)}"  # type: ignore[attr-defined]
        raise SpecError(
            f"the {kind} is not a mapping: its top level is {found}",
            where=f"{source}:{root.line}",
            allowed="lines of 'key: value'",
            fix="write the keys at the start of the line, with a space after each ':'",
        )
    return _Constructor(source).construct(root)


def _compose(text: str, source: str) -> _Node | None:
    # libyaml is five times as fast, and the parser in Python tells better what is wrong and where.
    fast = getattr(yaml, "CSafeLoader", None)
    if fast is not None:
        try:
            return _Composer(source).compose(text, fast)
        except yaml.YAMLError:
            pass
    return _Composer(source).compose(text, yaml.SafeLoader)


class _Composer:
    """Events to nodes. PyYAML's own composer has no limit on depth and hides aliases."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.anchors: dict[str, _Node] = {}
        self.open: set[str] = set()

    def compose(self, text: str, loader: type[yaml.SafeLoader]) -> _Node | None:
        events = iter(yaml.parse(text, Loader=loader))
        next(events)  # the start of the stream
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        root = self.node(next(events), events, 0)
        next(events)  # the end of the document
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise SpecError(
                "the file holds more than one YAML document",
                where=f"{self.source}:{after.start_mark.line + 1 if after.start_mark else 1}",
                allowed="one document",
                fix="remove this '---' line, or split the file",
            )
        return root

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> _Node:
        mark = event.start_mark
        assert mark is not None
        line, column = mark.line + 1, mark.column + 1
        if isinstance(event, yaml.AliasEvent):
            return self.alias(str(event.anchor), line)
        if depth > MAX_DEPTH:
            raise SpecError(
                f"the file is nested more than {MAX_DEPTH} levels deep",
                where=f"{self.source}:{line}",
                fix="check the brackets of this line",
            )
        assert isinstance(event, yaml.NodeEvent)
        name = event.anchor
        if isinstance(event, yaml.ScalarEvent):
            scalar = _Scalar(line, column, event.value, not event.style, event.tag)
            if name:
                self.anchors[name] = scalar
            return scalar
        if name:
            self.open.add(name)
        node: _Sequence | _Mapping
        if isinstance(event, yaml.SequenceStartEvent):
            node = _Sequence(line, column, tag=event.tag)
            while not isinstance(child := next(events), yaml.SequenceEndEvent):
                node.items.append(self.node(child, events, depth + 1))
        else:
            assert isinstance(event, yaml.MappingStartEvent)
            node = _Mapping(line, column, tag=event.tag)
            while not isinstance(child := next(events), yaml.MappingEndEvent):
                key = self.node(child, events, depth + 1)
                node.pairs.append((key, self.node(next(events), events, depth + 1)))
        if name:
            self.open.discard(name)
            self.anchors[name] = node
        return node

    def alias(self, name: str, line: int) -> _Node:
        where = f"{self.source}:{line}"
        if name in self.open:
            raise SpecError(
                f"the alias '*{name}' stands inside its own anchor '&{name}': the value would contain itself",
                where=where,
                fix="write the value out",
            )
        if name not in self.anchors:
            known = ", ".join(f"*{anchor}" for anchor in self.anchors)
            raise SpecError(
                f"the alias '*{name}' has no anchor '&{name}' above it",
                where=where,
                allowed=known or "no alias: the file has no anchors above this line",
                fix="define the anchor first; if a text begins with '*', put it in quotes",
            )
        return self.anchors[name]


class _Constructor:
    """Nodes to plain data, with the line of each path and the mistakes met on the way."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.count = 0
        self.lines: dict[tuple[Key, ...], int] = {}
        self.problems: dict[Problem, None] = {}

    def construct(self, root: _Mapping) -> Document:
        self.lines[()] = root.line
        data = self.mapping(root, ())
        return Document(self.source, data, self.lines, tuple(self.problems))

    def value(self, node: _Node, path: tuple[Key, ...]) -> object:
        self.tally(node)
        # Aliases can stack levels that the composer never saw in one piece.
        if len(path) > MAX_DEPTH:
            raise SpecError(f"the file is nested more than {MAX_DEPTH} levels deep", where=f"{self.source}:{node.line}")
        if isinstance(node, _Sequence):
            self.container_tag(node.tag, "seq", node, path)
            items: list[object] = []
            for index, item in enumerate(node.items):
                self.lines[(*path, index)] = item.line
                items.append(self.value(item, (*path, index)))
            return items
        if isinstance(node, _Mapping):
            return self.mapping(node, path)
        assert isinstance(node, _Scalar)
        return self.scalar(node, path)

    def mapping(self, node: _Mapping, path: tuple[Key, ...]) -> dict[str, object]:
        self.container_tag(node.tag, "map", node, path)
        data: dict[str, object] = {}
        for key, (key_node, value_node) in self.entries(node, path).items():
            self.lines[(*path, key)] = key_node.line
            data[key] = self.value(value_node, (*path, key))
        return data

    def entries(self, node: _Mapping, path: tuple[Key, ...]) -> dict[str, tuple[_Node, _Node]]:
        """The pairs of a mapping with its merge keys resolved: what is merged first comes first, its own keys win."""
        own: dict[str, tuple[_Node, _Node]] = {}
        merged: dict[str, tuple[_Node, _Node]] = {}
        merge_line = 0
        for key_node, value_node in node.pairs:
            self.tally(key_node)
            if isinstance(key_node, _Scalar) and key_node.plain and key_node.text == "<<":
                if merge_line:
                    self.duplicate(key_node, merge_line, (*path, "<<"), "write one '<<: [*first, *second]'")
                merge_line = key_node.line
                for source in value_node.items if isinstance(value_node, _Sequence) else [value_node]:
                    if isinstance(source, _Mapping):
                        for name, pair in self.entries(source, path).items():
                            merged.setdefault(name, pair)
                    else:
                        self.problem(source, (*path, "<<"), "only a mapping can be merged", "an alias of a mapping")
                continue
            key = self.key(key_node, path)
            if key is None:
                continue
            if key in own:
                self.duplicate(key_node, own[key][0].line, (*path, key), "keep one of them")
            else:
                own[key] = (key_node, value_node)
        return merged | own

    def key(self, node: _Node, path: tuple[Key, ...]) -> str | None:
        if not isinstance(node, _Scalar):
            what = "a list" if isinstance(node, _Sequence) else "a mapping"
            self.problem(node, path, f"{what} cannot be a key", "keys that are text")
            return None
        value = self.scalar(node, (*path, node.text))
        if isinstance(value, str):
            return value
        self.problem(
            node,
            (*path, node.text),
            f"a key must be text, and {node.text or 'an empty key'} is read as {_kind(value)}",
            "keys that are text",
            f'write "{node.text}"' if node.text else "write the key",
        )
        return None

    def scalar(self, node: _Scalar, path: tuple[Key, ...]) -> object:
        text = node.text
        if node.tag not in (None, "!"):
            return self.tagged(node, path)
        if not node.plain or node.tag == "!":
            if any("\ud800" <= character <= "\udfff" or character == "\0" for character in text):
                self.problem(node, path, "the text holds a character that cannot be stored", "printable characters")
                return ""
            return text
        try:
            return _plain_value(text)
        except ValueError:
            self.problem(node, path, "the number has too many digits", f"numbers of at most {MAX_DIGITS} digits")
            return 0

    def tagged(self, node: _Scalar, path: tuple[Key, ...]) -> object:
        """A scalar with a tag of YAML itself, such as ``!!str 1``."""
        wanted: dict[str, type | tuple[type, ...]] = {
            "str": str,
            "int": int,
            "float": (int, float),
            "bool": bool,
            "null": type(None),
        }
        name = str(node.tag).removeprefix(_TAG)
        if node.tag == f"{_TAG}{name}" and name in wanted:
            if name == "str":
                return self.scalar(_Scalar(node.line, node.column, node.text, False, None), path)
            value = self.scalar(_Scalar(node.line, node.column, node.text, True, None), path)
            fits = isinstance(value, wanted[name]) and (name == "bool") == isinstance(value, bool)
            if fits:
                return float(value) if name == "float" else value  # type: ignore[arg-type]
            self.problem(node, path, f"{node.text!r} is not a value for the tag !!{name}", "the value without the tag")
            return value
        self.problem(node, path, f"the tag '{node.tag}' is not known", "plain values without tags")
        return node.text

    def container_tag(self, tag: str | None, name: str, node: _Node, path: tuple[Key, ...]) -> None:
        if tag not in (None, "!", f"{_TAG}{name}"):
            self.problem(node, path, f"the tag '{tag}' is not known", "plain lists and mappings without tags")

    def tally(self, node: _Node) -> None:
        self.count += 1
        if self.count > MAX_VALUES:
            raise SpecError(
                f"the file holds more than {MAX_VALUES:,} values once its aliases are written out",
                where=f"{self.source}:{node.line}",
                fix="check aliases (*name) that repeat values which repeat values",
            )

    def duplicate(self, node: _Node, first: int, path: tuple[Key, ...], hint: str) -> None:
        where = f"line {first}" if first != node.line else "the same line"
        self.problem(node, path, f"the key is written twice, first on {where}", None, hint)

    def problem(
        self, node: _Node, path: tuple[Key, ...], what: str, allowed: str | None, hint: str | None = None
    ) -> None:
        # A dict: merging a mapping walks over the same mistake again.
        self.problems[Problem(self.source, node.line, format_key_path(path), None, what, allowed, hint)] = None


def _plain_value(text: str) -> object:
    """A plain scalar by the core schema of YAML 1.2; ValueError for a whole number of too many digits."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    for form, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if form.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise ValueError(text)
            return int(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INF.fullmatch(text) or _NAN.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return "true or false" if isinstance(value, bool) else "a number"


def _empty(source: str, kind: str) -> SpecError:
    return SpecError(f"the {kind} is empty", where=source, allowed="lines of 'key: value'", fix=f"write a {kind} in it")


def _syntax_error(error: yaml.YAMLError, text: str, source: str, kind: str) -> SpecError:
    said: str = str(error)
    where, opened = source, ""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        where = f"{source}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        said = str(error.reason)
    elif isinstance(error, yaml.MarkedYAMLError):
        mark, start = error.problem_mark or error.context_mark, error.context_mark
        said = error.problem or error.context or said
        if mark:
            where = f"{source}:{mark.line + 1}:{mark.column + 1}"
        if mark and start and start.line != mark.line:
            opened = f" (it starts in line {start.line + 1})"
    for part, what, fix in _PLAIN_WORDS:
        if part in said:
            return SpecError(f"the {kind} is not valid YAML: {what}{opened}", where=where, fix=fix)
    return SpecError(f"the {kind} is not valid YAML: {said}{opened}", where=where, fix="mend this place")


def format_key_path(path: tuple[Key, ...]) -> str:
    """``("axes", "system.paths", 1)`` as ``axes.system.paths[1]``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else (f".{key}" if text else key)
    return text


def show_value(value: object) -> str:
    """A value as one would write it in YAML, shortened to fit a line."""
    text = _show(value, SHOWN_LENGTH)
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 1] + "…"


def _show(value: object, room: int) -> str:
    if isinstance(value, dict):
        return "{" + _join((f"{key}: {_show(item, room)}" for key, item in value.items()), room) + "}"
    if isinstance(value, list | tuple):
        return "[" + _join((_show(item, room) for item in value), room) + "]"
    if isinstance(value, str):
        return repr(value[: room + 1])
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    return repr(value)


def _join(parts: Iterator[str], room: int) -> str:
    """As many parts as there is room for: a value may be a list of thousands."""
    text = ""
    for part in parts:
        text += (", " if text else "") + part
        if len(text) > room:
            break
    return text
