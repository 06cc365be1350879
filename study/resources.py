"""The files that ship with the project: study specs, cluster files and scenarios.

In a checkout the specs lie in ``spaces/`` beside the package, in an installed wheel in ``study/shipped/spaces/``.
Cluster files and scenarios lie in their packages. Specs and cluster files are found by name from any folder here;
`study.data.scenario` finds the scenarios.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import cluster
import study
from study.errors import SpecError, nearest

__all__ = [
    "find_cluster",
    "find_spec",
    "init_folder",
    "shipped_clusters",
    "shipped_presets",
    "shipped_scenarios",
    "shipped_specs",
]

_SPECS = "spaces"
_PRESETS = "spaces/presets"
_CLUSTERS = "cluster"
# Beside the cluster files lies a price list. It is not copied: a copy would grow old unseen.
_PRICES = "prices"
_SCENARIOS = "scenarios"


def shipped_specs() -> dict[str, Path]:
    """The shipped study specs by name (the file name without ``.yaml``), sorted."""
    return _yaml_files(_folder_of_specs())


def shipped_presets() -> dict[str, Path]:
    """The shipped presets of study specs by name (the file name without ``.yaml``), sorted."""
    return _yaml_files(_folder_of_specs() / "presets")


def shipped_clusters() -> dict[str, Path]:
    """The shipped cluster files by name (the file name without ``.yaml``), sorted."""
    files = _yaml_files(_folder_of(cluster.__file__))
    return {name: path for name, path in files.items() if name != _PRICES}


def shipped_scenarios() -> dict[str, Path]:
    """The shipped scenario files by name (the file name without ``.yaml``), sorted."""
    from study.data.scenario import list_scenarios, scenario_file  # brings NumPy, which the others do without

    return {name: scenario_file(name) for name in list_scenarios()}


def find_spec(name_or_path: str | Path) -> Path:
    """The study spec that a user names.

    In this order: a file of that path; for a bare name, ``spaces/NAME.yaml`` in the current folder (where ``study
    init`` puts copies to edit); the shipped spec of that name. ``spaces/quickstart.yaml`` also finds the shipped one,
    so that a command of the documentation works from any folder.

    Raises:
        SpecError: nothing found; lists what ships.
    """
    return _find(name_or_path, _SPECS, shipped_specs(), "study spec")


def find_cluster(name_or_path: str | Path) -> Path:
    """The cluster file that a user names; as `find_spec`, with ``cluster/`` for ``spaces/``.

    Raises:
        SpecError: nothing found; lists what ships.
    """
    return _find(name_or_path, _CLUSTERS, shipped_clusters(), "cluster file")


def init_folder(target: Path) -> list[Path]:
    """Copy the shipped specs with their presets, cluster files and scenarios to ``spaces``, ``cluster``, ``scenarios``.

    Returns:
        The files written.

    Raises:
        SpecError: a file is there already (nothing is written then), or the folder cannot be written.
    """
    shipped = {
        _SPECS: shipped_specs(),
        _PRESETS: shipped_presets(),
        _CLUSTERS: shipped_clusters(),
        _SCENARIOS: shipped_scenarios(),
    }
    copies = {target / folder / file.name: file for folder, files in shipped.items() for file in files.values()}
    present = [str(copy) for copy in copies if copy.exists() or copy.is_symlink()]
    if present:
        raise SpecError(
            f"{len(present)} of the files to write are there already, and none was touched",
            where=", ".join(present),
            allowed="a folder without these files",
            fix="name another folder, or move these files away",
        )
    try:
        for copy, source in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            # The content alone: an installation may be read-only, its copies are there to be edited.
            shutil.copyfile(source, copy)
    except OSError as error:
        raise SpecError(
            f"the files cannot be written: {error.strerror or error}",
            where=str(error.filename or target),
            fix="name a folder that you may write to",
        ) from None
    return list(copies)


def _find(name_or_path: str | Path, folder: str, shipped: dict[str, Path], kind: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    bare = path.parent == Path() and path.name != ""
    name = path.name.removesuffix(".yaml")
    if bare:
        own = Path(folder) / f"{name}.yaml"
        if own.is_file():
            return own
    # Only these forms mean a shipped file: a mistyped folder of the user's own must not run something else.
    if (bare or path.parent == Path(folder)) and name in shipped:
        return shipped[name]
    if path.exists():
        # A folder, or something else that no YAML can be read from: reading it says so.
        return path
    raise SpecError(
        f"there is no {kind} {str(name_or_path)!r}{nearest(name, shipped)}",
        where=str(Path.cwd()),
        allowed=f"the path of a YAML file, or a shipped {kind}: {', '.join(shipped) or 'none'}",
        fix="check the name; `study init DIR` copies the shipped files to start from",
    )


def _yaml_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _folder_of_specs() -> Path:
    package = _folder_of(study.__file__)
    return package.parent / _SPECS if _is_checkout(package.parent) else package / "shipped" / _SPECS


def _folder_of(module_file: str | None) -> Path:
    assert module_file is not None, "study and cluster are regular packages"
    return Path(module_file).resolve().parent


def _is_checkout(folder: Path) -> bool:
    """Whether the folder above the package is this project's, and not a site-packages or somebody's project."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return project.get("project", {}).get("name") == "study" and (folder / _SPECS).is_dir()
