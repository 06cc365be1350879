"""An installed wheel does everything that a checkout does."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_specs_cluster_files_templates_and_the_site(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "study/shipped/spaces/quickstart.yaml",
        "study/shipped/spaces/mpc_bandwidth.yaml",
        "cluster/local.yaml",
        "cluster/gpu.yaml",
        "cluster/kuberay.yaml",
        "cluster/prices.yaml",
        "models/fused_block.c",
        "reports/templates/report.html.j2",
        "study/data/sites/canyon_small/site.json",
        "study/data/scenarios/canyon_small.yaml",
    ):
        assert wanted in names
    assert any(name.startswith("study/data/sites/canyon_small/paths/") for name in names)
    tops = {name.partition("/")[0] for name in names}
    assert tops - {"study", "models", "reports", "cluster"} == {next(top for top in tops if top.endswith(".dist-info"))}
    site = sum(i.file_size for i in zipfile.ZipFile(wheel).infolist() if i.filename.startswith("study/data/sites/"))
    assert site < 10_000_000


@pytest.mark.slow
def test_an_installed_wheel_runs_a_study_and_writes_its_report(
    wheel: Path, tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def study(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "study", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(target)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(target) in study("data", "info", "canyon_small")
    assert "19 trials" in study("validate", "quickstart")
    assert "DCNN" in study("methods")
    study("init", "mine")
    assert (elsewhere / "mine" / "spaces" / "quickstart.yaml").exists()
    spec = write_spec(axes={"method": ["DCNN", "HDA"]}, search=[], seeds=1)
    out = study("run", spec, "--cluster", "cluster/local.yaml")
    assert "4 trials executed" in out
    assert (elsewhere / "results" / "small" / "report" / "index.html").exists()
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.suffix not in (".pyc", "")}
    study("report", "small")
    assert {path: path.stat().st_mtime_ns for path in before} == before
