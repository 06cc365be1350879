"""The command line as a user meets it: right input, wrong input, exit codes."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import SMALL_BASE, Result

import study.cli
from study.resources import shipped_clusters
from study.store import Store, TrialTables

Cli = Callable[..., Result]
WriteSpec = Callable[..., Path]

COMMANDS = {
    "run": ["run"],
    "report": ["report"],
    "status": ["status"],
    "validate": ["validate"],
    "schema": ["schema"],
    "methods": ["methods"],
    "check-method": ["check-method"],
    "compact": ["compact"],
    "rerun": ["rerun"],
    "init": ["init"],
    "data list": ["data", "list"],
    "plan": ["plan"],
    "calibrate": ["calibrate"],
    "data info": ["data", "info"],
    "data trace": ["data", "trace"],
    "data import-deepmimo": ["data", "import-deepmimo"],
}


def _refused(result: Result, *words: str) -> None:
    """One clear message on stderr, exit code 2, no traceback."""
    assert result.code == 2, result
    assert result.err.startswith(("study: ", "Usage: "))
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_help_and_is_in_the_readme(cli: Cli, command: list[str]) -> None:
    result = cli(*command, "--help")
    assert result.code == 0
    assert len(result.out.splitlines()) > 4
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"study {' '.join(command)}" in readme


def test_every_command_is_listed_here() -> None:
    def names(app: typer.Typer, prefix: str = "") -> set[str]:
        found = {prefix + (c.name or c.callback.__name__) for c in app.registered_commands}  # type: ignore[union-attr]
        for group in app.registered_groups:
            found |= names(group.typer_instance, f"{group.name} ")  # type: ignore[arg-type]
        return found

    assert names(study.cli.app) == set(COMMANDS)
    for command in study.cli.app.registered_commands:
        assert inspect.getdoc(command.callback)  # type: ignore[arg-type]


def _imported(*arguments: str) -> set[str]:
    """Top-level modules that a command has imported at its end."""
    code = (
        "import sys\n"
        "from study.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('imported', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_neither_torch_nor_ray() -> None:
    assert not _imported("--help") & {"torch", "ray", "pandas", "optuna", "numpy", "pyarrow", "pydantic", "yaml"}


def test_validate_and_status_import_neither_torch_nor_ray(write_spec: WriteSpec, tmp_path: Path) -> None:
    from study.spec.loading import load_yaml
    from study.spec.model import StudySpec

    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    Store(tmp_path / "small").write_spec(spec.model_dump(mode="json", by_alias=True))
    assert not _imported("validate", str(write_spec())) & {"torch", "ray", "optuna"}
    assert not _imported("status", str(tmp_path / "small")) & {"torch", "ray"}


def test_methods_prints_table_iii(cli: Cli) -> None:
    result = cli("methods", "--preset", "paper", "--branches", "twin", "--batch", "256", "--json")
    costs = {row["method"]: row for row in json.loads(result.out)}
    assert {name: (row["parameters"], row["macs_paper"]) for name, row in costs.items()} == {
        "DCNN": (207_378, 8_801_280_000),
        "TL": (789_642, 17_698_711_552),
        "RDA": (273_556, 8_818_253_824),
        "MDA": (1_300_628, 17_829_777_408),
        "HDA": (1_300_628, 17_829_777_408),
    }
    assert costs["DCNN"]["flops_batch"] == 17_257_545_728
    assert costs["DCNN"]["macs_per_sample"] == 33_706_144
    table = cli("methods", "--branches", "twin").out
    assert "207.378 K" in table
    assert "17.830 G" in table


def test_validate_counts_cells_and_trials(cli: Cli, write_spec: WriteSpec) -> None:
    result = cli("validate", write_spec())
    assert result.code == 0
    assert "5 cells, 10 trials (3 of them search)" in result.out
    assert "16 subcarriers over 100 MHz see delays up to 0.16 µs" in result.out
    assert "canyon_small" in result.out


def test_data_list_and_info(cli: Cli) -> None:
    assert "canyon_small" in cli("data", "list").out
    told = json.loads(cli("data", "info", "canyon_small", "--json").out)
    assert told["scenes"] == 120
    assert told["positions"] == 160
    assert "canyon_small" in cli("data", "info", "canyon_small").out


def test_init_copies_what_ships_and_overwrites_nothing(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", tmp_path / "mine").code == 0
    assert (tmp_path / "mine" / "spaces" / "quickstart.yaml").exists()
    assert (tmp_path / "mine" / "cluster" / "local.yaml").exists()
    _refused(cli("init", tmp_path / "mine"), "quickstart.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sede": 3}, ["sede", "spec.yaml:"]),
        ({"seeds": "many"}, ["seeds", "whole number"]),
        ({"axes": {"method": ["DCNN", "MDDA", "HDA"]}}, ["MDDA", "DCNN, TL, RDA, MDA or HDA"]),
        ({"base": {**SMALL_BASE, "objective": {"lambda": 1.5}}}, ["lambda", "1.5", "from 0 to 1"]),
        ({"search": [{"when": {"method": "TL"}, "space": {"objective.lambda": {"values": [0.1]}}}]}, ["never matches"]),
        ({"site": "canyon_smal"}, ["canyon_smal", "did you mean 'canyon_small'"]),
        ({"base": {**SMALL_BASE, "network": {"preset": "paper"}}}, ["too small", "43 × 43"]),
        ({"base": {**SMALL_BASE, "split": {"train_scenes": 100}}}, ["170 scenes", "has 120"]),
        ({"axes": {"method": ["DCNN"], "system.paths": [40]}, "search": []}, ["40 paths", "at most 25"]),
        ({"search": [{"space": {"system.paths": {"values": [10, 40]}}}]}, ["40 paths", "at most 25"]),
        ({"search": [{"space": {"system.subcarriers": {"values": [8, 16]}}}]}, ["too small", "16 × 16"]),
    ],
)
def test_a_spec_that_cannot_work_starts_and_writes_nothing(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    spec = write_spec(**changes)
    _refused(cli("run", spec, "--results", tmp_path / "results"), *words)
    _refused(cli("validate", spec), *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["does not exist"]),
        ("", ["empty"]),
        ("study: [a", ["not valid YAML"]),
        ("- a\n- b\n", ["mapping"]),
        ("study: a\nstudy: b\n", ["twice", "study"]),
        ("study: x\n\tsite: y\n", ["tab"]),
    ],
)
def test_a_file_that_is_no_spec_is_named(cli: Cli, tmp_path: Path, content: str | None, words: list[str]) -> None:
    path = tmp_path / "broken.yaml"
    if content is None:
        path = tmp_path / "none" / "broken.yaml"
        words = ["broken.yaml", "quickstart"]
    else:
        path.write_text(content)
    _refused(cli("run", path, "--results", tmp_path / "results"), *words)
    assert not (tmp_path / "results").exists()


def _damaged_site(tmp_path: Path, damage: Callable[[Path], None]) -> Path:
    from study.data.site import open_site

    copy = tmp_path / "site"
    shutil.copytree(open_site("canyon_small").folder, copy)
    damage(next((copy / "paths").glob("*.parquet")))
    return copy


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def _other_schema(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"scene": [0], "power": [1.0]}), path)


@pytest.mark.parametrize(("damage", "words"), [(_truncate, ["part-"]), (_other_schema, ["power", "gain_re"])])
def test_a_damaged_path_table_is_found_before_anything_starts(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path, damage: Callable[[Path], None], words: list[str]
) -> None:
    spec = write_spec(site=str(_damaged_site(tmp_path, damage)))
    _refused(cli("run", spec, "--results", tmp_path / "results"), ".parquet", *words)
    assert not (tmp_path / "results").exists()


def test_a_cluster_that_wants_a_gpu_that_is_not_there(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # Whatever Ray the machine of the tests may run.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray_tmp"))
    result = cli("run", write_spec(), "--cluster", shipped_clusters()["gpu"], "--results", tmp_path / "results")
    _refused(result, "GPU", "gpu.yaml", "cluster/local.yaml")
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written(cli: Cli, write_spec: WriteSpec, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    _refused(cli("run", write_spec(), "--results", blocked), "cannot be written", "--results")
    assert blocked.read_text() == "not a folder"


def test_a_results_folder_of_another_spec_is_left_alone(cli: Cli, write_spec: WriteSpec, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "small"
    other = {**SMALL_BASE, "training": {**SMALL_BASE["training"], "epochs": 99}}
    from study.data.site import open_site
    from study.spec.loading import load_yaml
    from study.spec.model import StudySpec

    spec = load_yaml(write_spec(base=other), StudySpec, kind="study spec")
    store = Store(folder)
    store.write_spec(spec.model_dump(mode="json", by_alias=True))
    store.write_site({"data_hash": open_site("canyon_small").data_hash})
    store.write(TrialTables({"key": "0" * 16, "state": "done", "method": "DCNN", "seed": 0, "config": "{}"}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _refused(
        cli("run", write_spec(), "--results", tmp_path / "results"),
        "another spec",
        "base.training.epochs: 99 there, 2 here",
        "--results",
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_lost_site_file_is_asked_for_and_written_anew_by_the_next_run(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path
) -> None:
    from study.data.site import open_site
    from study.spec.expand import expand
    from study.spec.loading import load_yaml
    from study.spec.model import StudySpec

    file = write_spec(axes={"method": ["DCNN"]}, search=[], references=[])
    spec, data_hash = load_yaml(file, StudySpec, kind="study spec"), open_site("canyon_small").data_hash
    folder = tmp_path / "results" / spec.study
    store = Store(folder)
    store.write_spec(spec.model_dump(mode="json", by_alias=True))
    for trial in expand(spec)[0].trials(spec.seeds, data_hash):
        row = {"key": trial.key, "method": trial.method, "seed": trial.seed, "config": json.dumps(trial.config)}
        store.write(TrialTables({**row, "state": "failed", "data_hash": data_hash}))
    for command in ("status", "report"):
        _refused(cli(command, folder), "site.json", "study again")
    assert cli("run", file, "--results", tmp_path / "results").code in (0, 1)
    assert store.read_data_hash() == data_hash
    assert cli("status", folder).code == 0


def test_compact_merges_files_and_is_refused_while_a_driver_runs(
    cli: Cli, write_spec: WriteSpec, tmp_path: Path
) -> None:
    from study.spec.loading import load_yaml
    from study.spec.model import StudySpec

    folder = tmp_path / "small"
    store = Store(folder)
    _refused(cli("compact", folder), "no study.yaml")
    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    store.write_spec(spec.model_dump(mode="json", by_alias=True))
    for number in range(3):
        row = {"key": f"{number:016x}", "state": "failed", "method": "DCNN", "seed": 0, "config": "{}"}
        store.write(TrialTables(row))
    rows = store.load().rows
    with store.locked():
        _refused(cli("compact", folder), f"process {os.getpid()}")
    result = cli("compact", folder)
    assert result.code == 0
    assert "3 trials in one file of each kind; 3 files are 3" in result.out
    assert Store(folder).load().rows == rows
    assert "nothing to merge" in cli("compact", folder).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "{tmp}/none"], ["no study", "study.yaml"]),
        (["report", "{tmp}/none"], ["none"]),
        (["compact", "{tmp}/none"], ["no study.yaml"]),
        (["status", "ftp://host/study"], ["scheme 'ftp'", "s3"]),
        (["report", "s3:///study"], ["no bucket"]),
        (["rerun", "abc", "--results", "{tmp}/none"], ["no results", "--results"]),
        (["rerun", "abc", "--study", "{tmp}/none"], ["no results", "{tmp}/none"]),
        (["validate", "/dev/zero"], ["too large"]),
        (["validate", "x" * 5000], ["too long"]),
        (["methods", "--antennas", "9999999"], ["antennas"]),
        (["data", "info", "{tmp}/none"], ["canyon_small"]),
        (["data", "trace", "{tmp}/none.yaml", "--out", "{tmp}/site"], ["none.yaml", "canyon_small"]),
        (["methods", "--preset", "pape"], ["did you mean 'paper'"]),
        (["methods", "--branches", "two"], ["shared, twin"]),
        (["methods", "--antennas", "16"], ["43 × 43"]),
        (["run", "quickstart", "--retry", "done"], ["failed, out_of_memory, diverged"]),
        (["run", "quickstart", "--seeds", "0"], ["seeds"]),
        (["run", "quickstart", "--cluster", "moon"], ["moon", "local"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_wrong_arguments_are_refused(cli: Cli, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    filled = [[text.replace("{tmp}", str(tmp_path)) for text in part] for part in (arguments, words)]
    _refused(cli(*filled[0]), *filled[1])


@pytest.mark.parametrize("library", ["missing", "too old"])
def test_tracing_without_a_usable_llvm_says_what_to_install(tmp_path: Path, library: str) -> None:
    path = tmp_path / "libLLVM-none.so"
    if library == "too old":
        found = sorted(Path("/usr/lib").glob("*-linux-gnu/libLLVM-1[4-6].so*"))
        if not found:
            pytest.skip("this machine has no LLVM 14 to 16 to try")
        path = found[-1]
    done = subprocess.run(
        [sys.executable, "-m", "study", "data", "trace", "canyon_small", "--out", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "DRJIT_LIBLLVM_PATH": str(path)},
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert "karellen-llvm-core" in done.stderr
    assert not list(tmp_path.glob("site*"))


def test_a_resolved_study_file_can_be_validated(cli: Cli, write_spec: WriteSpec, tmp_path: Path) -> None:
    from study.spec.loading import load_yaml
    from study.spec.model import StudySpec

    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", by_alias=True)))
    assert cli("validate", path).code == 0


def test_a_report_that_cannot_be_written_says_so(cli: Cli, tmp_path: Path, write_spec: WriteSpec) -> None:
    from study.data.site import open_site
    from study.spec.expand import expand
    from study.spec.loading import load_yaml
    from study.spec.model import StudySpec

    spec = load_yaml(write_spec(), StudySpec, kind="study spec")
    store = Store(tmp_path / "small")
    data_hash = open_site("canyon_small").data_hash
    trial = expand(spec)[0].trial(0, data_hash)
    store.write_spec(spec.model_dump(mode="json", by_alias=True))
    store.write_site({"name": "canyon_small", "data_hash": data_hash})
    row = {"key": trial.key, "method": trial.method, "seed": 0, "config": json.dumps(trial.config)}
    store.write(TrialTables({**row, "state": "done", "test_rmse_m": 3.0, "data_hash": data_hash}))
    assert cli("report", tmp_path / "small").code == 0
    (tmp_path / "file").write_text("")
    _refused(cli("report", tmp_path / "small", "--out", tmp_path / "file" / "x"), "cannot be written", "--out")
    _refused(cli("rerun", "*", "--study", tmp_path / "small"), "starts with '*'")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "Oracle"},
        {"method": None},
        {"user_method": {"name": "Own"}},
        {"objective": {}},
        {"objective": None},
        {"system": {"paths": -1}},
        {"from_the_future": 3},
    ],
)
def test_a_trial_whose_configuration_is_unknown_is_not_repeated(
    cli: Cli, tmp_path: Path, changes: dict[str, Any]
) -> None:
    from study.data.site import open_site
    from study.spec.trial import TrialConfiguration

    store = Store(tmp_path / "small")
    data_hash = open_site("canyon_small").data_hash
    store.write_site({"name": "canyon_small", "folder": "nowhere", "data_hash": data_hash})
    config = TrialConfiguration.model_validate(SMALL_BASE | {"method": "MDA"}).resolved() | changes
    row = {"key": "abc", "state": "done", "method": "MDA", "seed": 0, "config": json.dumps(config)}
    store.write(TrialTables(row | {"data_hash": data_hash, "study_version": "9.8.7"}))
    _refused(cli("rerun", "abc", "--study", store.folder), "trial abc", "9.8.7")


def test_a_cluster_that_does_not_answer_is_found_at_once(cli: Cli, tmp_path: Path, write_spec: WriteSpec) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("address: 127.0.0.1:1\n")
    result = cli("run", write_spec(), "--cluster", cluster, "--results", tmp_path / "results")
    _refused(result, "nothing answers", "127.0.0.1:1")
    assert not (tmp_path / "results").exists()


def test_validate_shows_what_each_split_takes_and_what_it_lacks(cli: Cli, write_spec: Callable[..., Path]) -> None:
    split = {**SMALL_BASE["split"], "positions": "held_out"}
    axes = {"method": ["DCNN"], "split.area": ["all", [-60, 60, -20, 0]]}
    shown = cli("validate", write_spec(base={**SMALL_BASE, "split": split}, axes=axes, search=[]))
    assert shown.code == 0, shown.err
    assert "training: 3 scenes × 112 positions:" in shown.out
    assert "test: 2 scenes × 32 positions:" in shown.out
    assert "training: 3 scenes × 24 positions:" in shown.out
    assert "warning: no SNLOS in training; no DNLOS in test; no SNLOS in test" in shown.out


def test_validate_shows_cells_as_a_tree_of_the_axes(cli: Cli, write_spec: WriteSpec) -> None:
    axes = {"system.paths": [10, {"uniform": [10, 25]}], "method": ["DCNN", "MDA"], "objective.gamma": [1, 2]}
    spec = write_spec(axes=axes, exclude=[{"method": "DCNN", "system.paths": 10}])
    lines = [line.rstrip() for line in cli("validate", spec).out.splitlines()]
    head = "small: 14 cells, 22 trials (12 of them search); site canyon_small, 160 positions × 120 scenes"
    assert lines[:12] == [
        head,
        "├── 2 more combinations are excluded",
        "├── objective.gamma = 1: 7 cells, 14 trials (6 of them search)",
        "│   ├── system.paths = 10: 3 cells, 6 trials (3 of them search)",
        "│   │   ├── MEAN: 1 trial",
        "│   │   ├── KNN: 1 trial",
        "│   │   └── MDA: 4 trials, grid over objective.lambda",
        "│   └── system.paths = 10–25: 4 cells, 8 trials (3 of them search)",
        "│       ├── MEAN: 1 trial",
        "│       ├── KNN: 1 trial",
        "│       ├── DCNN: 2 trials, seeds 0 … 1",
        "│       └── MDA: 4 trials, grid over objective.lambda",
    ]
    assert "│       ├── DCNN: the trials of DCNN gamma=1 paths=10–25" in lines
    assert "└── search in 4 cells: grid: 3 candidates × 1 seed, then the winner on 1 more" in lines
    assert "    └── objective.lambda: 0.2 … 0.8 in steps of 0.3" in lines


def test_validate_gives_the_same_as_data(cli: Cli, write_spec: WriteSpec) -> None:
    from study.search import StudyQueue
    from study.spec.loading import load_yaml
    from study.spec.model import StudySpec

    stopping = {"rule": "median", "grace_epochs": 1}
    search = {
        "when": {"method": "MDA"},
        "space": {"objective.lambda": {"float": [0.1, 0.9]}},
        "sampler": "tpe",
        "trials": 5,
        "early_stopping": stopping,
    }
    spec = write_spec(axes={"method": ["DCNN", "MDA"], "objective.gamma": [1, 2]}, search=[search])
    told = json.loads(cli("validate", spec, "--json").out)
    queue = StudyQueue(load_yaml(spec, StudySpec, kind="study spec"), "", {})
    assert told["trials"] == queue.progress().wanted
    assert told["search_trials"] == 2 * 5
    assert sum(cell["trials"] for cell in told["cells"]) == told["trials"]
    searched = next(cell for cell in told["cells"] if cell["search"])
    assert searched["values"] == {"objective.gamma": 1, "method": "MDA"}
    assert searched["configuration"]["objective"]["gamma"] == 1
    assert searched["search"]["candidates"] == 5
    assert searched["search"]["early_stopping"]["rule"] == "median"
    assert searched["search"]["winner_repeats"] == 1
    assert [cell["same_trials_as"] for cell in told["cells"] if cell["label"].startswith("DCNN")] == [
        None,
        "DCNN gamma=1",
    ]
    assert "early stopping: median after 1 epoch" in cli("validate", spec).out


def test_validate_folds_a_large_study(cli: Cli, write_spec: WriteSpec) -> None:
    spec = write_spec(axes={"method": ["DCNN", "MDA"], "training.epochs": list(range(1, 31))}, search=[])
    folded = cli("validate", spec).out
    assert "method: 4 values" in folded
    assert "DCNN: 30 cells, 60 trials" in folded
    assert "… and 10 more" in folded
    assert "120 cells are too many to show here; --all shows each" in folded
    everything = cli("validate", spec, "--all").out
    assert everything.count("seeds 0 … 1") == 60
    assert "--all" not in everything


def test_validate_writes_to_a_terminal_that_knows_ascii_only(write_spec: WriteSpec) -> None:
    spec = write_spec(axes={"method": ["DCNN"], "system.paths": [{"uniform": [10, 25]}]}, search=[])
    done = subprocess.run(
        [sys.executable, "-m", "study", "validate", str(spec)],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done
    shown = done.stdout.decode("ascii")
    assert "`-- system.paths = 10-25: 3 cells, 4 trials" in shown
    assert "DCNN: 2 trials, seeds 0 ... 1" in shown


def test_schema_is_printed_or_written(cli: Cli, tmp_path: Path) -> None:
    printed = json.loads(cli("schema").out)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert printed["title"] == "Study spec"
    for name in ("spec", "cluster", "scenario"):
        path = tmp_path / f"{name}.json"
        assert cli("schema", name, "--out", path).code == 0
        assert json.loads(path.read_text(encoding="utf-8"))["$id"] == f"urn:study:schema:{name}"
    _refused(cli("schema", "clustr"), "clustr", "did you mean 'cluster'")
    _refused(cli("schema", "--out", tmp_path / "none" / "x.json"), "cannot be written", "--out")
