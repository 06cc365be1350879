"""Ray tracing: really traced where the `trace` extra is installed, and clear errors where it does not work."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import yaml

from study.data import tracing
from study.data.scenario import Scenario, load_scenario
from study.data.site import PathTable, open_site
from study.data.tracing import SceneProgress, Tracer, find_llvm, probe, round_mantissa, trace_site
from study.errors import DataError, DependencyError

T = TypeVar("T", bound=Callable[..., None])

CANYON = load_scenario("canyon_small")
OLD_LLVM = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("libLLVM-1[456]*.so.1"))

TRACE_IN_A_PROCESS = """
import sys
from pathlib import Path
from study.data.scenario import load_scenario
from study.data.tracing import trace_site
trace_site(load_scenario(sys.argv[1]), Path(sys.argv[2]))
"""


def traced(test: T) -> T:
    """Mark a test that needs the ray tracer, and skip it where the extra is not installed."""
    missing = importlib.util.find_spec("sionna") is None
    marked: T = pytest.mark.trace(pytest.mark.skipif(missing, reason="needs the extra `trace`")(test))
    return marked


def tiny(scenes: int = 2, seed: int = 1) -> Scenario:
    values = CANYON.model_dump(mode="json")
    values["name"] = "tiny"
    values["scenes"] = scenes
    values["users"] |= {"columns": 3, "rows": 2, "x_step_m": 60.0}
    values["solver"] |= {"samples_per_source": 10_000, "receivers_per_solve": 4, "seed": seed}
    return Scenario.model_validate(values)


def assert_equal_tables(ours: PathTable, theirs: PathTable) -> None:
    for name, values in vars(ours).items():
        np.testing.assert_array_equal(values, getattr(theirs, name), err_msg=name)


def test_rounding_keeps_the_relative_error_small() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=10_000) * 10.0 ** rng.integers(-12, 3, 10_000)).astype(np.float32)
    for bits in (8, 14, 22, 23):
        error = np.abs(round_mantissa(values, bits).astype(float) - values) / np.abs(values)
        assert error.max() <= 2.0 ** -(bits + 1) if bits < 23 else error.max() == 0
    assert not round_mantissa(np.zeros(3, np.float32), 14).any()
    np.testing.assert_array_equal(round_mantissa(round_mantissa(values, 14), 14), round_mantissa(values, 14))


def test_strongest_paths_are_kept_and_the_rest_is_accounted_for() -> None:
    gain = np.array([[1, 0.5, 2, 0.001, 9], [0, 0, 0, 0, 0]], np.complex64)
    valid = np.array([[1, 1, 1, 1, 0], [0] * 5], bool)
    delay = np.array([[1, 2, 3, 4, 5], [0] * 5], float)
    kept = tracing._strongest(gain, valid, [(delay, np.float32)], 2, weakest_db=50)
    np.testing.assert_array_equal(kept.gain, [[2, 1], [0, 0]])
    np.testing.assert_array_equal(kept.columns[0], [[3, 1], [0, 0]])
    np.testing.assert_array_equal(kept.paths, [2, 0])
    np.testing.assert_array_equal(kept.paths_found, [4, 0])
    np.testing.assert_allclose(kept.dropped_power, [(0.25 + 1e-6) / (5.25 + 1e-6), 0], rtol=1e-6)
    wide = tracing._strongest(gain, valid, [(delay, np.float32)], 7, weakest_db=50)
    np.testing.assert_array_equal(wide.paths, [3, 0])  # 66 dB below the strongest is too weak
    assert wide.gain.shape == (2, 7)


# --- The probe ----------------------------------------------------------------------------------------------------


def test_an_llvm_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_versions", lambda: {"sionna-rt": "2.2.0", "mitsuba": "3.9.1", "drjit": "1.5.0"})
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(tmp_path / "libLLVM.so.19"))
    with pytest.raises(DependencyError, match="does not exist") as caught:
        trace_site(tiny(), tmp_path / "site")
    assert "LLVM ≥ 17" in str(caught.value)
    assert "karellen-llvm-core" in str(caught.value)
    assert "LLVM 19" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PACKAGES", ("sionna-rt-that-is-not-there",))
    with pytest.raises(DependencyError, match="needs sionna-rt-that-is-not-there"):
        trace_site(tiny(), tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_another_version_of_the_ray_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_versions", lambda: {"sionna-rt": "1.2.1", "mitsuba": "3.7", "drjit": "1.2"})
    with pytest.raises(DependencyError, match=r"cannot use sionna-rt 1\.2\.1"):
        probe()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("libLLVM-15.so.1", "15"),
        ("libLLVM-14.0.6.so.1", "14.0.6"),
        ("libLLVM.so.23.1", "23.1"),
        ("libLLVM.so.19.1", "19.1"),
        ("libLLVM-23.so", "23"),
        ("libLLVM.so", None),
    ],
)
def test_llvm_versions_from_file_names(name: str, version: str | None) -> None:
    assert tracing._llvm_version(Path("/somewhere") / name) == version


def test_the_environment_names_the_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", "/somewhere/libLLVM.so.19")
    assert find_llvm() == Path("/somewhere/libLLVM.so.19")


@traced
@pytest.mark.parametrize("library", OLD_LLVM, ids=lambda path: path.name)
def test_an_llvm_that_is_too_old(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(library))
    with pytest.raises(DependencyError, match=r"signal|status") as caught:
        trace_site(tiny(), tmp_path / "site")
    message = str(caught.value)
    assert str(library) in message
    assert "too old" in message
    assert "unset DRJIT_LIBLLVM_PATH" in message
    assert "LLVM ≥ 17" in message
    assert "karellen-llvm-core" in message
    assert list(tmp_path.iterdir()) == []


@traced
def test_the_probe_accepts_this_machine() -> None:
    assert probe().packages["sionna-rt"].startswith("2.2")


# --- Tracing ------------------------------------------------------------------------------------------------------


@traced
def test_tracing_twice_gives_equal_paths_and_a_killed_trace_goes_on(tmp_path: Path) -> None:
    scenario = tiny(scenes=12)  # enough that the process is killed between two of them
    once = trace_site(scenario, tmp_path / "once")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["once"]
    assert (once.read_paths().paths > 0).all()

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    work = tmp_path / "again.partial"
    command = [sys.executable, "-c", TRACE_IN_A_PROCESS, str(file), str(tmp_path / "again")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while not (work / "scene_00000.npz").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert not (tmp_path / "again").exists(), errors

    with pytest.raises(DataError, match="of another scenario"):
        trace_site(tiny(scenes=12, seed=2), tmp_path / "again")

    progress: list[SceneProgress] = []
    again = trace_site(scenario, tmp_path / "again", on_progress=progress.append)
    assert progress[0].resumed >= 1
    assert progress[-1].done == progress[-1].scenes == 12
    assert_equal_tables(again.read_paths(), once.read_paths())
    assert again.data_hash == once.data_hash
    assert not work.exists()

    with pytest.raises(DataError, match="exists"):
        trace_site(scenario, tmp_path / "again")


@traced
def test_the_embedded_site_can_be_traced_again() -> None:
    table = open_site("canyon_small").read_paths()
    tracer = Tracer(CANYON)
    for scene in (0, 1):
        traced = tracer.trace(scene)
        np.testing.assert_array_equal(traced.condition, table.condition[scene])
        # Other processors round differently, which moves a few rays across an edge; the power stays.
        stored = 10 * np.log10((np.abs(table.gain[scene]) ** 2).sum(-1))
        now = 10 * np.log10((np.abs(traced.gain) ** 2).sum(-1))
        assert np.median(np.abs(now - stored)) < 0.05
        assert (np.abs(now - stored) < 1).mean() > 0.95
        line_of_sight = table.condition[scene] == 0
        np.testing.assert_allclose(traced.gain[line_of_sight, 0], table.gain[scene, line_of_sight, 0], rtol=1e-2)
        same = np.abs(traced.gain - table.gain[scene]) <= 1e-3 * np.abs(table.gain[scene])
        assert same.mean() > 0.8


@traced
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    work = tmp_path / "site.partial"
    work.mkdir()
    (work / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="something else"):
        trace_site(tiny(), tmp_path / "site")
    assert (work / "notes.txt").read_text() == "mine"
    shutil.rmtree(work)
