"""A YAML file becomes a model, or one error that names every mistake in it."""

from __future__ import annotations

import enum
import math
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator

from study.errors import Problem, SpecError
from study.spec.loading import Allowed, InvalidValue, InvalidValues, load_yaml, parse_yaml, read_yaml, validate


class Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Anything(RootModel[dict[str, Any]]):
    """Takes every mapping, for tests of the YAML rules alone."""


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Uniform(Frozen):
    uniform: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.uniform[0] >= self.uniform[1]:
            raise InvalidValue("the range is empty", "low < high", at=("uniform",))
        return self


class Grid(Frozen):
    grid: Annotated[list[float], Field(min_length=1)]


class Cnn(Frozen):
    kind: Literal["cnn"]
    layers: int = 3


class Mlp(Frozen):
    kind: Literal["mlp"]
    width: int = 64


def _lower(text: str) -> str:
    if text != text.lower():
        raise InvalidValue("the name has capital letters", hint=f"write {text.lower()}")
    return text


def _plain(text: str) -> str:
    if " " in text:
        raise ValueError("the name has spaces | allowed: letters and digits")
    return text


class System(Frozen):
    bandwidth_mhz: float = Field(gt=0, le=1000)
    subcarriers: int = 64
    antennas: tuple[int, int] = (8, 8)
    paths: Annotated[int, Field(ge=1)] | Uniform | Grid = 25
    fingerprint: Literal["adp", "cfr", "cir"] = "adp"
    color: Color = Color.RED
    shuffle: bool = True
    seed: int | None = Field(None, ge=0)
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    folder: Path = Path()
    names: Annotated[list[str], Field(max_length=2)] = []
    network: Annotated[Cnn | Mlp, Field(discriminator="kind")] = Cnn(kind="cnn")


class Search(Frozen):
    when: dict[str, Any] = {}
    space: dict[str, Uniform | Grid] = {}


class Spec(Frozen):
    study: Annotated[str, AfterValidator(_lower), AfterValidator(_plain), Allowed("lower-case letters and digits")]
    base: System = System(bandwidth_mhz=100)
    search: list[Search] = []

    @model_validator(mode="after")
    def _relations(self) -> Spec:
        if self.study == "several":
            raise InvalidValues(
                [
                    InvalidValue("no axis has this name", "method, seeds", at=("search", 0, "when", "metod")),
                    InvalidValue("the study compares nothing"),
                ]
            )
        return self


def load(text: str) -> Any:
    return parse_yaml(text, Anything, "study spec", "spec.yaml").root


def errors(text: str, model: type[BaseModel] = Spec) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, model, "study spec", "spec.yaml")
    return caught.value


def only(text: str, model: type[BaseModel] = Spec) -> Problem:
    found = errors(text, model).problems
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def base(line: str) -> str:
    return f"study: demo\nbase:\n  bandwidth_mhz: 20\n  {line}\n"


# --- YAML rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.5e+1", -5.0),
        ("1_000", "1_000"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+7", 7),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("! 1", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("!!int '3'", 3),
        ("=", "="),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("1e999", math.inf),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(written: str, meant: object) -> None:
    value = load(f"a: {written}\n")["a"]
    assert value == meant
    assert type(value) is type(meant)


def test_nan_is_read() -> None:
    assert math.isnan(load("a: .nan")["a"])


# Text that YAML 1.1 (which dumps it without quotes) takes for text and YAML 1.2 for a number.
TRAP = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+")

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8).filter(
    lambda text: not TRAP.fullmatch(text)
)
scalars = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | words
trees = st.dictionaries(
    words,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(trees, st.sampled_from([None, False, True]))
def test_what_pyyaml_writes_is_read_back_the_same(tree: dict[str, Any], flow: bool | None) -> None:
    assert load(yaml.safe_dump(tree, default_flow_style=flow)) == tree


def test_aliases_and_merge_keys() -> None:
    data = load(
        "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\n"
        "list: &list [1, 2]\nsame: *list\n"
        "merged: {<<: *one, b: 0}\nboth: {<<: [*one, *two], d: 4}\nquoted: {'<<': 1}\n"
    )
    assert data["same"] == [1, 2]
    assert data["merged"] == {"a": 1, "b": 0}
    assert data["both"] == {"a": 1, "b": 1, "c": 2, "d": 4}
    assert data["quoted"] == {"<<": 1}


def test_a_problem_in_merged_values_points_at_the_anchor() -> None:
    problem = only("study: demo\nsearch:\n- when: &w\n    x: 1\n  space: {<<: *w}\n")
    assert (problem.line, problem.key_path) == (4, "search[0].space.x")


# --- Text that is no usable YAML --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said", "where"),
    [
        ("", "empty", "spec.yaml"),
        ("# only a comment\n", "empty", "spec.yaml"),
        ("---\n", "empty", "spec.yaml"),
        ("null\n", "empty", "spec.yaml"),
        ("- a\n- b\n", "top level is a list", "spec.yaml:1"),
        ("\nstudy:demo\n", "top level is the text 'study:demo'", "spec.yaml:2"),
        ("a: 1\n---\nb: 2\n", "more than one YAML document", "spec.yaml:2"),
        ("a: [1,\nb: 2\n", "list in [ ] is not closed, or a comma is missing (it starts in line 1)", "spec.yaml:3:1"),
        ("a: {b: [1, 2}\n", "list in [ ] is not closed", "spec.yaml:1:13"),
        ("a: {b: 1\n", "mapping in { } is not closed", "spec.yaml:2:1"),
        ("a: 'text\n", "quotation mark is not closed (it starts in line 1)", "spec.yaml:2:1"),
        ("a:\n\t- 1\n", "tab stands where", "spec.yaml:2:1"),
        ("a: b: c\n", "':' stands where no key can be", "spec.yaml:1:5"),
        ("a: 1\n b: 2\n", "':' stands where no key can be", "spec.yaml:2:3"),
        ("a: 1\nb\nc: 1\n", "not 'key: value'", "spec.yaml:3:1"),
        ("a: @x\n", "cannot start with this character", "spec.yaml:1:4"),
        ("- a\nb: 1\n", "does not fit the lines above", "spec.yaml:2:1"),
        ('a: "\\q"\n', "unknown escape", "spec.yaml:1:6"),
        ("a: 1\nb: x\x07\n", "control character", "spec.yaml:2:5"),
        ("a: *\n", "name is missing", "spec.yaml:1:5"),
        ("a: *b\n", "alias '*b' has no anchor", "spec.yaml:1"),
        ("a: 1\nb: &x [*x]\n", "would contain itself", "spec.yaml:2"),
        ("a: &x {b: {c: *x}}\n", "would contain itself", "spec.yaml:1"),
        ("a: &x {<<: *x}\n", "would contain itself", "spec.yaml:1"),
        ("a: " + "[" * 1000 + "]" * 1000, "more than 64 levels", "spec.yaml:1"),
        ("a: " + "{b: " * 1000 + "}" * 1000, "more than 64 levels", "spec.yaml:1"),
    ],
)
def test_text_that_is_no_usable_yaml(text: str, said: str, where: str) -> None:
    error = errors(text, Anything)
    assert said in str(error)
    assert error.where == where
    assert error.problems == []


def _laughs(levels: int, item: str) -> str:
    lines = ["a0: &a0 {k: 1}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} " + item.format(many=", ".join([f"*a{level - 1}"] * 10)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _laughs(10, "[{many}]"),
        _laughs(10, "{{<<: [{many}]}}"),
        "\n".join(["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{<<: *a{n - 1}}}" for n in range(1, 1500))]),
        "\n".join(["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{k: *a{n - 1}}}" for n in range(1, 1500))]),
    ],
    ids=["lists", "merges", "chain of merges", "chain of levels"],
)
def test_aliases_that_explode_are_refused(text: str) -> None:
    assert re.search("values once its aliases|levels deep", errors(text, Anything).what)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(SpecError) as caught:
            load_yaml(path, Spec, kind="study spec")
        assert str(path) in str(caught.value.where)
        return caught.value.what

    assert "does not exist" in said(tmp_path / "none.yaml")
    assert "is a folder" in said(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("study: a\nname: Zürich\n".encode("latin-1"))
    assert "not UTF-8" in said(latin)
    assert "does not exist" in said(latin / "below_a_file.yaml")
    big = tmp_path / "big.yaml"
    big.write_text("# " + "x" * 1_100_000)
    assert "too large" in said(big)
    with pytest.raises(SpecError) as caught:
        load_yaml(latin, Spec, kind="study spec")
    assert caught.value.where == f"{latin}:2"


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_text("study: λ\r\nbase: {bandwidth_mhz: 1}\r\n", encoding=encoding, newline="")
        assert load_yaml(file, Spec, kind="study spec").study == "λ"


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_duplicate_keys_name_both_lines() -> None:
    problem = only("study: a\nbase:\n  bandwidth_mhz: 1\n  seed: 1\n  bandwidth_mhz: 2\n")
    assert (problem.line, problem.key_path) == (5, "base.bandwidth_mhz")
    assert "line 3" in problem.what


@pytest.mark.parametrize("key", ["1", "1.5", "true", "~", "null", "[a]", "{a: 1}", "? [a]\n"])
def test_a_key_must_be_text(key: str) -> None:
    problem = only(f"study: a\n{key}: x\n")
    assert problem.line == 2
    assert "key" in problem.what


def test_an_unknown_tag_is_reported() -> None:
    problem = only("study: !python/name:os.system demo\n")
    assert (problem.line, problem.key_path) == (1, "study")


def test_a_misspelt_key_gets_the_nearest_key_of_its_own_mapping() -> None:
    problem = only("study: a\nbase:\n  bandwidth_mhz: 1\n  subcarrier: 3\n")
    assert (problem.file, problem.line, problem.key_path, problem.value) == ("spec.yaml", 4, "base.subcarrier", "3")
    assert problem.hint == "did you mean 'subcarriers'?"
    assert "bandwidth_mhz" in str(problem.allowed)
    assert "search" not in str(problem.allowed)


def test_a_missing_key_points_at_its_parent() -> None:
    problem = only("study: a\n\nbase:\n  seed: 3\n")
    assert (problem.line, problem.key_path, problem.value) == (3, "base.bandwidth_mhz", None)
    assert problem.allowed == "a number > 0 and ≤ 1000"


names = st.from_regex(r"[a-z]{3,8}_zz", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(name=names, at=st.integers(0, 6), blanks=st.integers(0, 3), comment=st.booleans())
def test_an_unknown_key_is_found_on_its_line(name: str, at: int, blanks: int, comment: bool) -> None:
    lines = ["study: demo", "base:", "  bandwidth_mhz: 20", "  names: [a,", "    b]", "search:", "- when: {}"]
    indents, places = ["", "", "  ", "  ", "  ", "", "  "], ["", "", "base.", "base.", "base.", "", "search[0]."]
    position = {0: 1, 1: 1, 2: 3, 3: 3, 4: 5, 5: 5, 6: 7}[at]
    filler = ["# a comment" if comment else ""] * blanks
    lines[position:position] = [*filler, f"{indents[at]}{name}: 1"]
    problem = only("\n".join(lines))
    assert problem.line == position + blanks + 1
    assert problem.key_path == places[at] + name


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key_path", "value", "said", "allowed", "hint"),
    [
        ("shuffle: no", "base.shuffle", "'no'", "text", "true or false", "write true or false"),
        ("shuffle: On", "base.shuffle", "'On'", "text", "true or false", "write true or false"),
        ("shuffle: 1", "base.shuffle", "1", "number", "true or false", None),
        ("subcarriers: 1_000", "base.subcarriers", "'1_000'", "whole number", "a whole number", "write 1000"),
        ("subcarriers: '64'", "base.subcarriers", "'64'", "text", "a whole number", "write 64 without quotes"),
        ("subcarriers: 64.0", "base.subcarriers", "64.0", "decimal point", "a whole number", "write 64"),
        ("subcarriers: 64.5", "base.subcarriers", "64.5", "decimal point", "a whole number", None),
        ("subcarriers: true", "base.subcarriers", "true", "found true", "a whole number", None),
        ("subcarriers:", "base.subcarriers", "null", "nothing", "a whole number", None),
        ("fingerprint: adq", "base.fingerprint", "'adq'", "unknown", "adp, cfr or cir", "did you mean 'adp'?"),
        ("color: blu", "base.color", "'blu'", "unknown value", "red or blue", "did you mean 'blue'?"),
        ("seed: -1", "base.seed", "-1", "too small", "a whole number ≥ 0, or null", None),
        ("seed: soon", "base.seed", "'soon'", "found text", "a whole number ≥ 0, or null", None),
        ("workers: 0", "base.workers", "0", "too small", "auto, or a whole number ≥ 1", None),
        ("workers: aut", "base.workers", "'aut'", "unknown", "auto, or a whole number ≥ 1", "did you mean 'auto'?"),
        ("antennas: [8]", "base.antennas", "[8]", "too few", "a list of 2, each a whole number", None),
        ("antennas: [8, 8, 8]", "base.antennas", "[8, 8, 8]", "too many", "a list of 2, each a whole number", None),
        ("antennas: [8, x]", "base.antennas[1]", "'x'", "whole number", "a whole number", None),
        ("names: a", "base.names", "'a'", "expected a list", "a list of at most 2 items, each text", "write ['a']"),
        ("names: [1]", "base.names[0]", "1", "expected text", "text", "put the value in quotes: '1'"),
        ("paths: {uniform: [2, 1]}", "base.paths.uniform", "[2, 1]", "range is empty", "low < high", None),
        ("paths: {grid: [1, x]}", "base.paths.grid[1]", "'x'", "expected a number", "a number", None),
        ("network: {kind: cnm}", "base.network.kind", "'cnm'", "unknown value", "cnn, mlp", "did you mean 'cnn'?"),
        ("network: {width: 3}", "base.network", "{width: 3}", "tells the form", None, None),
        (
            "network: {kind: mlp, widht: 1}",
            "base.network.widht",
            "1",
            "unknown",
            "kind, width",
            "did you mean 'width'?",
        ),
        ("network: {kind: mlp, width: x}", "base.network.width", "'x'", "whole number", "a whole number", None),
    ],
)
def test_a_wrong_value(line: str, key_path: str, value: str, said: str, allowed: str | None, hint: str | None) -> None:
    problem = only(base(line))
    assert (problem.line, problem.key_path, problem.value) == (4, key_path, value)
    assert said in problem.what
    if allowed is not None:
        assert problem.allowed == allowed
    assert problem.hint == hint


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e999"])
def test_numbers_must_be_finite(number: str) -> None:
    problem = only(f"study: a\nbase:\n  bandwidth_mhz: {number}\n")
    assert "finite" in problem.what


def test_a_number_of_thousands_of_digits() -> None:
    for digits in ("9" * 5000, "0x" + "F" * 5000):
        assert "too many digits" in str(errors(f"study: a\nbase: {{bandwidth_mhz: {digits}}}\n"))


def test_characters_that_no_file_can_hold() -> None:
    assert "character" in str(errors('study: "\\ud800"\n'))
    assert "character" in str(errors('study: "\\0"\n'))


def test_a_union_that_nothing_fits_is_one_problem() -> None:
    problem = only("study: a\nsearch:\n- space: {lr: {grd: [1]}}\n")
    assert problem.key_path == "search[0].space.lr"
    assert problem.allowed == "a mapping with the key uniform, or a mapping with the key grid"
    assert problem.hint == "did you mean 'grid'?"
    problem = only("study: a\nsearch:\n- space: {lr: 3}\n")
    assert problem.what == "a number is not allowed here"
    assert problem.value == "3"


def test_whole_numbers_are_good_where_numbers_with_decimals_are_meant() -> None:
    assert parse_yaml(base("shuffle: false"), Spec, "study spec").base.bandwidth_mhz == 20.0


def test_lists_words_and_paths_become_their_types() -> None:
    spec = parse_yaml(base("antennas: [4, 4]\n  color: blue\n  folder: a/b\n  paths: {grid: [1]}"), Spec, "study spec")
    assert (spec.base.antennas, spec.base.color, spec.base.folder) == ((4, 4), Color.BLUE, Path("a/b"))
    assert spec.base.paths == Grid(grid=[1.0])


# --- Validators -------------------------------------------------------------------------------------------------------


def test_a_validator_fills_the_fields_of_a_problem() -> None:
    problem = only("study: Demo\n")
    assert (problem.what, problem.hint) == ("the name has capital letters", "write demo")
    assert problem.allowed == "lower-case letters and digits"
    problem = only("study: a b\n")
    assert (problem.what, problem.allowed) == ("the name has spaces", "letters and digits")


def test_a_validator_of_a_model_points_below_it_and_reports_several() -> None:
    first, second = errors("study: several\nsearch:\n- when:\n    metod: DCNN\n").problems
    assert (first.key_path, first.line, first.value) == ("", 1, None)
    assert (second.key_path, second.line, second.value) == ("search[0].when.metod", 4, "'DCNN'")
    assert second.allowed == "method, seeds"


def test_the_context_reaches_the_validators() -> None:
    seen = []

    class Model(Frozen):
        a: int

        @model_validator(mode="after")
        def _look(self, info: Any) -> Model:
            seen.append(info.context)
            return self

    parse_yaml("a: 1", Model, "test file", context={"site": "canyon"})
    assert seen == [{"site": "canyon"}]


# --- The error as a whole ---------------------------------------------------------------------------------------------

MANY = """\
study: 12
base:
  bandwith_mhz: 20
  fingerprint: apd
  shuffle: no
serch: []
study: 13
1: x
"""


def test_all_problems_are_reported_at_once_in_the_order_of_lines() -> None:
    error = errors(MANY)
    assert [(problem.line, problem.key_path) for problem in error.problems] == [
        (1, "study"),
        (2, "base.bandwidth_mhz"),
        (3, "base.bandwith_mhz"),
        (4, "base.fingerprint"),
        (5, "base.shuffle"),
        (6, "serch"),
        (7, "study"),
        (8, "1"),
    ]
    text = str(error)
    assert text.startswith("8 problems in the study spec spec.yaml")
    assert "spec.yaml:6  serch: []\n    unknown key; did you mean 'search'?\n    allowed: study, base, search" in text
    assert "pydantic" not in text
    assert "Input should" not in text


def test_the_error_survives_the_way_between_processes() -> None:
    error = errors(MANY)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is SpecError
    assert (str(copy), copy.problems) == (str(error), error.problems)


def test_long_values_are_shortened() -> None:
    problem = only(base(f"subcarriers: [{', '.join(['1000'] * 500)}]"))
    assert len(str(problem.value)) <= 60
    assert str(problem.value).endswith("…")


def test_a_part_of_a_file_is_validated_with_its_full_key_path(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("other: [1]\nmetadata:\n  study:\n    study: a\n    serch: 1\n")
    document = read_yaml(file, kind="cluster file")
    with pytest.raises(SpecError) as caught:
        validate(document, Spec, kind="cluster file", at=("metadata", "study"))
    assert [(p.line, p.key_path) for p in caught.value.problems] == [(5, "metadata.study.serch")]
    with pytest.raises(KeyError):
        validate(document, Spec, kind="cluster file", at=("metadata", "none"))


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab:-[]{}&*<!|>'\"#?,\n \t1.e@%~"), max_size=40))
def test_no_text_whatever_ends_in_a_traceback(text: str) -> None:
    for model in (Spec, Anything):
        try:
            parse_yaml(text, model, "study spec")
        except SpecError as error:
            assert str(error)  # noqa: PT017


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(System.model_fields)),
    st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(words, v)),
)
def test_no_value_whatever_ends_in_a_traceback(key: str, value: object) -> None:
    text = yaml.safe_dump({"study": "demo", "base": {"bandwidth_mhz": 1, key: value}})
    try:
        parse_yaml(text, Spec, "study spec")
    except SpecError as error:
        assert {problem.key_path.startswith(f"base.{key}") for problem in error.problems} == {True}  # noqa: PT017


def test_a_file_of_two_hundred_lines_costs_no_more_than_reading_it_with_pyyaml() -> None:
    # Relative to PyYAML's own loader: an absolute time would fail on a busy machine.
    text = "study: demo\nsearch:\n" + "- when: {method: MDA}\n  space: {lr: {uniform: [1e-4, 1e-2]}}\n" * 100
    ours, theirs = [], []
    for _ in range(3):
        start = time.process_time()
        parse_yaml(text, Spec, "study spec")
        ours.append(time.process_time() - start)
        start = time.process_time()
        yaml.safe_load(text)
        theirs.append(time.process_time() - start)
    assert min(ours) < 2 * min(theirs)


def test_loading_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, cluster.loading, cluster.check, study.resources;"
        "print([m for m in ('ray', 'torch', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
