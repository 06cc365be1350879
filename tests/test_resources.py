"""Shipped files are found by name, from any folder, in a checkout and in an installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cluster
import study
from study.data.scenario import load_scenario
from study.errors import SpecError
from study.resources import (
    find_cluster,
    find_spec,
    init_folder,
    shipped_clusters,
    shipped_presets,
    shipped_scenarios,
    shipped_specs,
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["local", "local.yaml", "cluster/local.yaml", "cluster/local", Path("local")])
def test_shipped_files_by_name_from_any_folder(elsewhere: Path, name: str | Path) -> None:
    assert find_cluster(name) == shipped_clusters()["local"]


def test_every_shipped_spec_is_found() -> None:
    for name, path in shipped_specs().items():
        assert path.is_file()
        assert find_spec(name).samefile(path)


def test_a_file_that_exists_wins(elsewhere: Path) -> None:
    mine = elsewhere / "local.yaml"
    mine.write_text("slots: 1\n")
    assert find_cluster("local.yaml").samefile(mine)
    assert find_cluster(mine) == mine


def test_the_copy_in_the_current_folder_wins_over_the_shipped_file(elsewhere: Path) -> None:
    init_folder(elsewhere)
    assert find_cluster("local").samefile(elsewhere / "cluster" / "local.yaml")
    assert find_cluster("cluster/local.yaml").samefile(elsewhere / "cluster" / "local.yaml")


def test_a_folder_of_the_same_name_hides_nothing(elsewhere: Path) -> None:
    (elsewhere / "local").mkdir()
    assert find_cluster("local") == shipped_clusters()["local"]
    (elsewhere / "other").mkdir()
    assert find_cluster("other") == Path("other")


@pytest.mark.parametrize("name", ["locl", "locl.yaml", "cluster/locl.yaml"])
def test_an_unknown_name_lists_what_ships(elsewhere: Path, name: str) -> None:
    with pytest.raises(SpecError, match="did you mean 'local'") as caught:
        find_cluster(name)
    assert "gpu, kuberay, local" in str(caught.value.allowed)


@pytest.mark.parametrize("path", ["/no/such/folder/local.yaml", "mine/local.yaml", "", ".."])
def test_a_mistyped_path_never_runs_something_else(elsewhere: Path, path: str) -> None:
    try:
        found = find_cluster(path)
    except SpecError:
        return
    assert found.is_dir()


def test_the_price_list_is_no_cluster_file(elsewhere: Path) -> None:
    assert "prices" not in shipped_clusters()
    with pytest.raises(SpecError, match="no cluster file 'prices'"):
        find_cluster("prices")
    assert not [copy for copy in init_folder(Path("mine")) if copy.name == "prices.yaml"]


def test_init_copies_what_ships(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    written = init_folder(target)
    assert sorted(written) == sorted(path for path in target.rglob("*") if path.is_file())
    shipped = {
        "spaces": shipped_specs(),
        "presets": shipped_presets(),
        "cluster": shipped_clusters(),
        "scenarios": shipped_scenarios(),
    }
    assert {copy.parent.name for copy in written} == set(shipped)
    for copy in written:
        assert copy.read_bytes() == shipped[copy.parent.name][copy.stem].read_bytes()


def test_a_copied_scenario_loads_as_the_shipped_one(tmp_path: Path) -> None:
    init_folder(tmp_path)
    assert load_scenario(tmp_path / "scenarios" / "canyon.yaml") == load_scenario("canyon")


@pytest.mark.parametrize("name", ["cluster/gpu.yaml", "scenarios/canyon.yaml"])
def test_init_overwrites_nothing(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir()
    mine.write_text("slots: 1\n")
    with pytest.raises(SpecError) as caught:
        init_folder(tmp_path)
    assert str(mine) in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "slots: 1\n"


def test_init_into_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        init_folder(file)


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "checkout"])
def test_specs_of_an_installed_package_and_of_a_checkout(tmp_path: Path, installed: bool) -> None:
    root = tmp_path / "root"
    for package in (study, cluster):
        assert package.__file__ is not None
        source = Path(package.__file__).parent
        shutil.copytree(source, root / source.name, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    ours, other = root / "study" / "shipped" / "spaces", root / "spaces"
    if not installed:
        ours, other = other, ours
        (root / "pyproject.toml").write_text('[project]\nname = "study"\n')
    for folder, name in ((ours, "demo"), (other, "wrong")):
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text("study: demo\n")
    code = (
        "from study.resources import find_spec, shipped_specs; print(*shipped_specs(), find_spec('spaces/demo.yaml'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.stderr == ""
    names, found = done.stdout.strip().split(" ", 1)
    assert names == "demo"
    assert Path(found) == (ours / "demo.yaml").resolve()
