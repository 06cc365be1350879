"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Trials on a CPU run on one thread each; tests share two cores with the trial processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml
from command_process import CommandProcess
from hypothesis import HealthCheck, settings

# A busy machine must not fail a law: neither an example nor making one has a deadline. Laws are tried with new examples
# in every run; where a change is to be judged, with (nearly) the same ones, so that the answer is about the change.
patient: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("new", **patient)
settings.register_profile("same", derandomize=True, database=None, **patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "new"))


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> Result:
        from study.cli import main

        monkeypatch.setattr("sys.argv", ["study", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a trial process computes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# A study whose trials take a second or less: a handful of scenes, two epochs.
SMALL_BASE: dict[str, Any] = {
    "system": {"bandwidth_mhz": 100, "subcarriers": 16, "antennas": [4, 4]},
    "split": {"train_scenes": 3, "validation_scenes": 1, "test_scenes": 2},
    "network": {"preset": "small"},
    "training": {"epochs": 2, "batch_size": 128, "learning_rate": 1.0e-3},
}


# Long enough to be caught in the middle: a trial takes a second or two.
LONG_BASE: dict[str, Any] = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 25}}


@pytest.fixture
def start_command() -> Iterator[Callable[..., CommandProcess]]:
    """Start ``study`` in processes of their own, which end with the test."""
    commands: list[CommandProcess] = []

    def start(*arguments: object, **options: Any) -> CommandProcess:
        commands.append(CommandProcess(*arguments, **options))
        return commands[-1]

    yield start
    for command in commands:
        command.clean_up()


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Write a spec of a small study: keyword arguments replace its top-level keys."""

    def write(**changes: Any) -> Path:
        spec = {
            "study": "small",
            "site": "canyon_small",
            "base": SMALL_BASE,
            "axes": {"method": ["DCNN", "MDA", "HDA"]},
            "references": ["MEAN", "KNN"],
            "seeds": 2,
            "search": [{"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0.2, 0.8, 0.3]}}}],
            **changes,
        }
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in spec.items() if value is not None}))
        return path

    return write


# The fixtures of tests/reports are here, because tests import names from `conftest`, and there can be one module of
# that name only.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished study; tests only read it."""
    from store_factory import full_study

    return full_study(tmp_path_factory.mktemp("finished") / "study")
