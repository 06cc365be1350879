"""Methods of a user's own: importing them, their settings in specs, their code in keys, results without imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SMALL_BASE, Result

from study.data.dataset import SiteData
from study.data.site import open_site
from study.errors import ConfigurationError, SpecError
from study.execution import run_trial
from study.methods import describe_method, import_method, load_study, method_class
from study.provenance import Provenance
from study.spec.expand import expand
from study.spec.loading import parse_yaml
from study.spec.model import StudySpec
from study.spec.trial import Trial, UserMethod
from study.store import Store, TrialTables

Cli = Callable[..., Result]
DOCUMENT = Path(__file__).parents[2] / "docs" / "methods.md"
HUBER = "my_methods:HuberDCNN"


def _blocks() -> dict[str, str]:
    """Language → the example of that language in "A method of your own"."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("## A method of your own\n")[2]
    return dict(re.findall(r"```(python|yaml)\n(.*?)```", section, flags=re.DOTALL))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in; modules imported from it are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def example(here: Path) -> Path:
    """The files of the documentation."""
    blocks = _blocks()
    (here / "my_methods.py").write_text(blocks["python"], encoding="utf-8")
    (here / "huber.yaml").write_text(blocks["yaml"], encoding="utf-8")
    return here


def _write(folder: Path, **changes: Any) -> Path:
    content = {
        "study": "own",
        "site": "canyon_small",
        "base": SMALL_BASE,
        "axes": {"method": ["DCNN", HUBER]},
        "seeds": 1,
        **changes,
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _refused(result: Result, *words: str) -> None:
    assert result.code == 2, result
    assert result.err.startswith("study: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err


# --- The documentation --------------------------------------------------------------------------------------------


def test_the_example_of_the_documentation_keeps_every_law(cli: Cli, example: Path) -> None:
    result = cli("check-method", HUBER)
    assert result.code == 0, result
    assert "DCNN-Huber" in result.out
    assert "objective.delta 0.1" in result.out
    assert result.out.splitlines()[-1] == "all laws hold"


def test_the_study_of_the_documentation_is_valid(cli: Cli, example: Path) -> None:
    result = cli("validate", "huber.yaml")
    assert result.code == 0, result
    assert "DCNN-Huber: 7 trials, grid over objective.delta" in result.out


# --- check-method -------------------------------------------------------------------------------------------------


def test_a_method_that_breaks_a_law_is_told_what_and_ends_with_1(cli: Cli, here: Path) -> None:
    (here / "broken.py").write_text(
        _blocks()["python"].replace("return huber_loss", "position = position.detach()\n        return huber_loss")
    )
    result = cli("check-method", "broken:HuberDCNN", "--json")
    assert result.code == 1, result
    found = json.loads(result.out)
    assert not found["kept"]
    violated = {item["law"]: item["violation"] for item in found["findings"] if item["violation"]}
    assert "the loss is a finite scalar and reaches every weight" in violated
    assert found["method"]["name"] == "DCNN-Huber"


def test_a_method_that_cannot_be_built_is_held_to_no_other_law(cli: Cli, here: Path) -> None:
    source = _blocks()["python"] + "\n    def __init__(self, *args):\n        raise OSError('no weights here')\n"
    (here / "unbuilt.py").write_text(source)
    result = cli("check-method", "unbuilt:HuberDCNN")
    assert result.code == 1
    assert f"raises OSError: no weights here ({here / 'unbuilt.py'}:{len(source.splitlines())})" in result.out
    assert "15 more laws need a method that can be built" in result.out


def test_the_cost_of_an_own_method_stands_after_the_others(cli: Cli, example: Path) -> None:
    costs = json.loads(cli("methods", "--preset", "small", "--method", HUBER, "--json").out)
    assert costs[-1]["method"] == "DCNN-Huber"
    assert costs[-1]["parameters"] == costs[0]["parameters"]


# --- What cannot be imported --------------------------------------------------------------------------------------

HEAD = "from models.methods import DCNN, Method\nfrom models.settings import MethodSettings, NoObjective\n"
OWN = "    settings = MethodSettings({name!r}, joint=False, objective={objective})\n"

UNUSABLE = {
    "no module": ("absent_module:M", "", ["there is no module 'absent_module'", "folder"]),
    "no package": ("absent_package.sub:M", "", ["there is no module 'absent_package'"]),
    "no class": ("bad:Huber", HEAD + "class Hubert(DCNN): pass\n", ["has no 'Huber'", "did you mean 'Hubert'"]),
    "not a class": ("bad:M", "M = 3\n", ["'M' is not a method", "models.methods.Method"]),
    "not a method": ("bad:M", "class M: pass\n", ["'M' is not a method"]),
    "abstract": ("bad:M", HEAD + "class M(Method): pass\n", ["'M' has no training_loss"]),
    "raises": ("bad:M", "\n1 / 0\n", ["importing 'bad' fails: ZeroDivisionError", "bad.py:2"]),
    "syntax": ("bad:M", "class M(\n", ["importing 'bad' fails: SyntaxError", "bad.py:1"]),
    "exits": ("bad:M", "import sys\nsys.exit(3)\n", ["importing 'bad' fails: SystemExit", "bad.py:2"]),
    "needs a module": (
        "bad:M",
        "import absent_helper\n",
        ["importing 'bad' fails: ModuleNotFoundError", "absent_helper"],
    ),
    "inherited": ("bad:M", HEAD + "class M(DCNN): pass\n", ["name 'DCNN'", "a method of the project has this name"]),
    "built in": ("models.methods:HDA", "", ["a method of the project has this name"]),
    "settings": ("bad:M", HEAD + "class M(DCNN):\n    settings = {'name': 'M'}\n", ["the class has no settings"]),
    "name": (
        "bad:M",
        HEAD + "class M(DCNN):\n" + OWN.format(name="<b>", objective="NoObjective"),
        ["'<b>'", "letters"],
    ),
    "objective": ("bad:M", HEAD + "class M(DCNN):\n" + OWN.format(name="M", objective="dict"), ["not a dataclass"]),
    "no default": (
        "bad:M",
        HEAD
        + "from dataclasses import dataclass\n@dataclass\nclass O:\n    a: int\nclass M(DCNN):\n"
        + OWN.format(name="M", objective="O"),
        ["cannot be made from their defaults: TypeError"],
    ),
    "default": (
        "bad:M",
        HEAD
        + "from dataclasses import dataclass\n@dataclass\nclass O:\n    a: tuple = (1, 2)\nclass M(DCNN):\n"
        + OWN.format(name="M", objective="O"),
        ["objective.a", "true or false, finite numbers or text"],
    ),
    "untrained": (
        "bad:M",
        HEAD + "class M(DCNN):\n    settings = MethodSettings('M', False, NoObjective, trained=False)\n",
        ["trained=False"],
    ),
}


@pytest.mark.parametrize(("path", "source", "words"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_what_cannot_be_used_is_refused_with_its_place(
    cli: Cli, here: Path, path: str, source: str, words: list[str]
) -> None:
    (here / "bad.py").write_text(source)
    _refused(cli("check-method", path), *words)
    # The line of the spec: `method:` is the third line from its end.
    spec = _write(here, axes={"method": ["DCNN", path]})
    line = next(i for i, text in enumerate(spec.read_text().splitlines(), 1) if path in text)
    _refused(cli("validate", spec), f"spec.yaml:{line}  axes.method[1]: '{path}'", *words)


@pytest.mark.parametrize(
    "path", ["my_methods.HuberDCNN", "my_methods:", ":HuberDCNN", "my-methods:M", "a:b:c", "a:b.c"]
)
def test_a_malformed_path_is_refused(cli: Cli, example: Path, path: str) -> None:
    _refused(cli("check-method", path), "this is no import path", "package.module:Class")
    _refused(cli("validate", _write(example, base={"method": path})), "base.method", "package.module:Class")


def test_all_that_cannot_be_imported_is_told_at_once(cli: Cli, here: Path) -> None:
    spec = _write(here, base={"method": "absent_one:M"}, axes={"method": ["absent_two:M", "absent_one:M"]})
    _refused(cli("validate", spec), "3 problems", "axes.method[0]", "axes.method[1]", "base.method")


# --- Settings in specs --------------------------------------------------------------------------------------------


def _problems(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(path)
    return str(caught.value)


def test_own_settings_are_key_paths_everywhere(example: Path) -> None:
    base = {**SMALL_BASE, "objective": {"delta": 1, "gamma": 3.0}}
    search = [
        {"when": {"method": HUBER}, "space": {"objective.delta": {"float": [0.1, 2]}}, "sampler": "tpe", "trials": 4}
    ]
    spec = load_study(_write(example, base=base, axes={"method": ["DCNN", HUBER]}, search=search))
    cells = {cell.method: cell for cell in expand(spec)}
    assert list(cells) == ["MEAN", "KNN", "MODEL", "DCNN", "DCNN-Huber"]
    assert cells["DCNN-Huber"].resolve()["objective"] == {"delta": 1.0}
    assert cells["DCNN"].resolve()["objective"] == {}
    assert cells["DCNN"].search is None
    assert cells["DCNN-Huber"].search is not None

    spec = load_study(_write(example, axes={"method": ["DCNN", HUBER], "objective.delta": [0.1, 0.2]}))
    assert len(expand(spec)) == 10
    excluded = [{"method": HUBER, "objective.delta": 0.2}]
    spec = load_study(_write(example, axes=dict(spec.axes) | {"method": ["DCNN", HUBER]}, exclude=excluded))
    assert len(expand(spec)) == 9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": {"objective": {"detla": 1.0}}}, ["base.objective.detla", "unknown key", "did you mean 'delta'"]),
        ({"base": {"objective": {"delta": "much"}}}, ["base.objective.delta", "'much'", "a number, or null"]),
        ({"base": {"objective": {"delta": True}}}, ["base.objective.delta", "true", "a number, or null"]),
        ({"base": {"objective": {"delta": float("nan")}}}, ["base.objective.delta", "a number, or null"]),
        ({"axes": {"method": [HUBER], "objective.detla": [1.0]}}, ["did you mean 'objective.delta'"]),
        (
            {"axes": {"method": [HUBER], "objective.delta": [1.0, "x"]}},
            ["axes.objective.delta[1]", "a number, or null"],
        ),
        ({"axes": {"method": ["DCNN"], "objective.delta": [1.0]}}, ["no setting has this key path"]),
        (
            {"search": [{"when": {"method": "DCNN"}, "space": {"objective.delta": {"values": [1.0]}}}]},
            ["no cell that 'when' matches reads this setting (DCNN)"],
        ),
        ({"search": [{"space": {"objective.delta": {"values": [[1]]}}}]}, ["search[0].space.objective.delta"]),
        ({"exclude": [{"method": "my_methods:Other"}]}, ["'exclude' never matches"]),
    ],
)
def test_mistakes_with_own_settings_are_named(example: Path, changes: dict[str, Any], words: list[str]) -> None:
    text = _problems(_write(example, **changes))
    for word in words:
        assert word in text


def test_a_mistake_in_own_settings_is_told_with_all_others(example: Path) -> None:
    text = _problems(_write(example, seeds=0, base={"objective": {"detla": 1}, "training": {"epochs": 0}}))
    assert text.startswith("3 problems")


def _described(**changes: Any) -> dict[str, Any]:
    method = {"name": "A", "joint": False, "adapts": False, "twin": False, "objective": {}, "source": "0" * 16}
    return method | changes


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"a:A": _described(), "b:B": _described()}, ["have one name, 'A'"]),
        ({"a:A": _described(name="HDA")}, ["a method of the project has this name"]),
        ({"a:A": _described(objective={"gamma": "x"})}, ["the default of a:A, 'x', does not fit it", "from 0 to 20"]),
        (
            {"a:A": _described(objective={"q": 1}), "b:B": _described(name="B", objective={"q": 1.5})},
            ["objective.q is int in a:A and float in b:B"],
        ),
        ({"a:A": _described(objective={"q.r": 1})}, ["methods.a:A"]),
        ({"a:A": _described(source="x")}, ["methods.a:A.source"]),
        ({"a.A": _described()}, ["no import path"]),
        ({}, ["nothing is known about this class", "axes.method[0]"]),
    ],
)
def test_methods_that_cannot_stand_in_one_study(methods: dict[str, Any], words: list[str]) -> None:
    spec = {"study": "x", "site": "canyon_small", "base": SMALL_BASE, "axes": {"method": ["a:A"]}, "methods": methods}
    with pytest.raises(SpecError) as caught:
        parse_yaml(yaml.safe_dump(spec), StudySpec, "study spec", "spec.yaml")
    for word in words:
        assert word in str(caught.value)


def test_an_own_method_reads_the_target_whatever_its_settings_are_called() -> None:
    method = _described(adapts=True, objective={"knowledge_transfer": False})
    spec = {"study": "x", "site": "s", "base": SMALL_BASE, "axes": {"method": ["a:A"]}, "methods": {"a:A": method}}
    cell = expand(parse_yaml(yaml.safe_dump(spec), StudySpec, "study spec"))[-1]
    assert "target" in cell.resolve()["split"]


def test_a_subclass_of_a_method_of_the_project_keeps_its_settings(cli: Cli, here: Path) -> None:
    (here / "variants.py").write_text(
        "from models.methods import HDA, MDA\nfrom models.settings import HDAObjective, MDAObjective, MethodSettings\n"
        "class Plain(MDA):\n"
        "    settings = MethodSettings('MDA plain', joint=True, objective=MDAObjective, adapts=True, twin=True)\n"
        "class Other(HDA):\n"
        "    settings = MethodSettings('HDA other', joint=True, objective=HDAObjective, adapts=True, twin=True)\n"
    )
    axes = {"method": ["MDA", "variants:Plain", "variants:Other"], "branches": ["shared", "twin"]}
    search = [{"when": {"method": ["MDA", "variants:Plain"]}, "space": {"objective.lambda": {"values": [0, 1]}}}]
    spec = load_study(_write(here, axes=axes, search=search, select={"metric": "validation_accuracy"}))
    cells = {cell.method: cell for cell in expand(spec)}
    project, own = cells["MDA"].resolve(), cells["MDA plain"].resolve()
    del own["user_method"]
    assert own == project | {"method": "variants:Plain"}
    assert cells["MDA plain"].search is not None
    assert "lambda" not in cells["HDA other"].resolve()["objective"]
    assert "objective.lambda" in _problems(_write(here, axes=axes | {"objective.lambda": [1.5]}))

    result = cli("check-method", "variants:Other", "--classes", "2", "--json")
    assert result.code == 0, result
    assert {item["branches"] for item in json.loads(result.out)["findings"]} == {"shared", "twin"}


# --- The resolved spec --------------------------------------------------------------------------------------------


def test_a_resolved_spec_has_all_that_is_known_and_needs_no_import(example: Path) -> None:
    spec = load_study(_write(example, base={**SMALL_BASE, "objective": {"delta": 0.3}}))
    text = yaml.safe_dump(spec.model_dump(mode="json", by_alias=True), allow_unicode=True)
    (example / "my_methods.py").unlink()
    del sys.modules["my_methods"]
    again = parse_yaml(text, StudySpec, "study spec")
    assert again == spec
    assert [cell.resolve() for cell in expand(again)] == [cell.resolve() for cell in expand(spec)]
    assert "my_methods" not in sys.modules
    described = again.methods[HUBER]
    assert (described.name, described.objective) == ("DCNN-Huber", {"delta": 0.1})


def test_what_a_spec_says_about_its_methods_itself_is_not_believed(example: Path) -> None:
    path = _write(example, methods={HUBER: _described(name="Other"), "os:system": _described(name="B")})
    spec = load_study(path)
    assert list(spec.methods) == [HUBER]
    assert spec.methods[HUBER].name == "DCNN-Huber"
    assert load_study(_write(example, axes={"method": ["DCNN"]}, methods={"bad": 1})).methods == {}


def test_a_folder_from_a_stranger_imports_nothing(cli: Cli, here: Path) -> None:
    (here / "stranger.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    method = _described(name="Stranger", objective={"q": 1.5})
    content = {"study": "x", "site": "canyon_small", "base": {**SMALL_BASE, "method": "stranger:M"}, "references": []}
    content |= {"seeds": 1, "methods": {"stranger:M": method}}
    spec = StudySpec.model_validate_json(json.dumps(content), strict=True)
    store = Store(here / "results" / "x")
    store.write_spec(spec.model_dump(mode="json", by_alias=True))
    data_hash = open_site("canyon_small").data_hash
    store.write_site({"name": "canyon_small", "data_hash": data_hash})
    (trial,) = expand(spec)[0].trials(1, data_hash)
    row = {"key": trial.key, "state": "done", "method": trial.method, "seed": 0, "data_hash": data_hash}
    row |= {"config": json.dumps(trial.config), "test_rmse_m": 3.0, "validation_rmse_m": 2.0}
    store.write(TrialTables(row, {"epoch": [1], "validation_rmse_m": [2.0]}))

    status = cli("status", "results/x")
    assert status.code == 0, status
    report = cli("report", "results/x")
    assert report.code == 0, report
    assert "Stranger" in (here / "results" / "x" / "report" / "report.md").read_text()
    assert "stranger" not in sys.modules
    assert not (here / "ran").exists()


# --- The code in the key ------------------------------------------------------------------------------------------


def _trial(folder: Path) -> Trial:
    spec = load_study(_write(folder, axes={"method": [HUBER]}, references=[]))
    return expand(spec)[0].trial(0, open_site("canyon_small").data_hash)


def test_another_code_is_another_trial_and_the_same_code_the_same(example: Path) -> None:
    before = _trial(example)
    assert before.method == "DCNN-Huber"
    assert _trial(example).key == before.key
    file = example / "my_methods.py"
    source = file.read_text()
    file.write_text(source + "# edited\n")
    with pytest.raises(SpecError, match="has changed since this process imported it"):
        _trial(example)
    del sys.modules["my_methods"]
    edited = _trial(example)
    assert edited.key != before.key
    assert {**edited.config, "user_method": None} == {**before.config, "user_method": None}
    file.write_text(source)
    del sys.modules["my_methods"]
    assert _trial(example).key == before.key


def test_a_trial_runs_in_any_process_that_has_the_same_code(example: Path) -> None:
    trial = Trial(**json.loads(json.dumps(vars(_trial(example)) | {})))
    del sys.modules["my_methods"]  # another process
    run = run_trial(trial, SiteData(open_site("canyon_small"), "cpu"), Provenance.here())
    while True:
        try:
            next(run)
        except StopIteration as end:
            row = end.value.row
            break
    assert (row["state"], row["method"], row["key"]) == ("done", "DCNN-Huber", trial.key)
    assert row["parameters"] == row["parameters_deployed"]


def test_other_code_than_the_trial_was_asked_for_with_is_refused(example: Path) -> None:
    trial = _trial(example)
    del sys.modules["my_methods"]  # another machine, with an older copy
    file = example / "my_methods.py"
    file.write_text(file.read_text() + "# older\n")
    with pytest.raises(ConfigurationError, match="is not that of the trial"):
        method_class(trial)
    file.unlink()
    del sys.modules["my_methods"]
    with pytest.raises(SpecError, match="there is no module 'my_methods'"):
        method_class(trial)


def test_a_process_that_has_imported_the_code_goes_on_while_its_file_is_edited(example: Path) -> None:
    trial = _trial(example)
    kind = method_class(trial)
    (example / "my_methods.py").write_text("an unfinished edit (")
    assert method_class(trial) is kind


def test_a_class_is_known_by_the_file_that_defines_it(example: Path) -> None:
    (example / "door.py").write_text("from my_methods import HuberDCNN\n")
    through = describe_method("door:HuberDCNN", import_method("door:HuberDCNN", [str(example)]))
    assert through == describe_method(HUBER, import_method(HUBER))
    assert isinstance(through, UserMethod)


# --- The whole way ------------------------------------------------------------------------------------------------


def _study(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "study", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(DOCUMENT.parents[1])}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_study_of_an_own_method_runs_repeats_nothing_and_sees_an_edit(example: Path) -> None:
    spec = _write(example, references=["MEAN", "KNN"])
    first = _study("run", spec, cwd=example)
    assert first.returncode == 0, first
    assert "4 trials executed" in first.stdout
    assert "DCNN-Huber" in first.stdout
    again = _study("run", spec, cwd=example)
    assert "0 trials executed, 4 were stored" in again.stdout

    rows = Store(example / "results" / "own").load().rows
    (key,) = [key for key, row in rows.items() if row["method"] == "DCNN-Huber"]
    repeated = _study("rerun", key, cwd=example)
    assert repeated.returncode == 0, repeated
    assert "the same result" in repeated.stdout

    file = example / "my_methods.py"
    file.write_text(file.read_text().replace("delta=self.objective.delta) /", "delta=self.objective.delta) * 2 /"))
    stale = _study("rerun", key, cwd=example)
    assert stale.returncode == 2, stale
    assert "is not that of the trial" in stale.stderr
    edited = _study("run", spec, cwd=example)
    assert edited.returncode == 0, edited
    assert "1 trial executed" in edited.stdout
    file.unlink()
    assert _study("report", "results/own", cwd=example).returncode == 0
    gone = _study("run", spec, cwd=example)
    assert gone.returncode == 2
    assert "there is no module 'my_methods'" in gone.stderr
