"""Presets: what a spec does not say itself, in one place."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.errors import SpecError
from study.methods import load_study
from study.resources import shipped_presets, shipped_specs
from study.spec.outline import outline

PAPER = {
    "table2_losses", "semantics", "fig2_lambda", "fig3_map", "fig4_mpc", "fig5_fingerprints", "fig6_bandwidth",
    "fig7_normalization", "table3_complexity", "mpc_bandwidth",
}  # fmt: skip


def _files(folder: Path, spec: dict[str, Any], **presets: dict[str, Any]) -> Path:
    (folder / "presets").mkdir(exist_ok=True)
    for name, values in presets.items():
        (folder / "presets" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"study": "mine", **spec}))
    return path


def test_what_the_spec_says_comes_first_and_the_rest_is_the_presets(tmp_path: Path) -> None:
    path = _files(
        tmp_path,
        {"preset": "tiny", "base": {"system": {"subcarriers": 48}}, "seeds": 2},
        tiny={
            "site": "canyon_small",
            "seeds": 4,
            "base": {"system": {"subcarriers": 32, "antennas": [4, 4]}, "network": {"preset": "small"}},
        },
    )
    spec = load_study(path)
    assert (spec.study, spec.preset, spec.site, spec.seeds) == ("mine-tiny", "tiny", "canyon_small", 2)
    assert (spec.base.system.subcarriers, spec.base.system.antennas) == (48, (4, 4))


def test_every_search_block_is_as_large_as_the_preset_says(tmp_path: Path) -> None:
    space = {"space": {"objective.gamma": {"float": [0, 4]}}, "sampler": "tpe"}
    path = _files(
        tmp_path,
        {
            "preset": "tiny",
            "axes": {"method": ["MDA", "HDA"], "system.paths": [10, 25]},
            "search": [
                {"when": {"method": "MDA"}, "space": {"objective.lambda": {"grid": [0, 1, 0.5]}}},
                {"when": {"method": "HDA", "system.paths": 10}, **space},
                {"when": {"method": "HDA", "system.paths": 25}, **space, "trials": 3},
            ],
        },
        tiny={"site": "canyon_small", "search": {"trials": 7, "seeds": 2}},
    )
    assert [(search.trials, search.seeds) for search in load_study(path).search] == [(None, 2), (7, 2), (3, 2)]


def test_a_resolved_spec_stays_what_it_is(tmp_path: Path) -> None:
    spec = load_study(shipped_specs()["fig6_bandwidth"])
    stored = tmp_path / "study.yaml"
    stored.write_text(yaml.safe_dump(spec.model_dump(mode="json", by_alias=True)))
    assert load_study(stored) == spec
    assert load_study(stored, "small") == spec
    with pytest.raises(SpecError, match="of the preset small already"):
        load_study(stored, "paper")


@pytest.mark.parametrize(
    ("spec", "preset", "words"),
    [
        ({"site": "canyon_small"}, "small", "sizes of this spec are its own"),
        ({"preset": "smal"}, None, r"mine.yaml:\d+: preset.*'small'|did you mean 'small'"),
        ({"preset": "small"}, "papr", "did you mean 'paper'"),
        ({"preset": "../small"}, None, "no preset"),
        ({"preset": 3}, None, "no preset"),
        ({"preset": "wrong"}, None, "epochs"),
        ({"preset": "pipe"}, None, "no preset 'pipe'"),
        ({"preset": "small"}, "", "the preset has no name"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, spec: dict[str, Any], preset: str | None, words: str) -> None:
    path = _files(tmp_path, spec, wrong={"base": {"training": {"epochs": 0}}})
    os.mkfifo(tmp_path / "presets" / "pipe.yaml")
    with pytest.raises(SpecError) as caught:
        load_study(path, preset)

    assert re.search(words, str(caught.value)), str(caught.value)


def test_a_mistake_in_a_preset_is_said_to_be_there(tmp_path: Path) -> None:
    path = _files(tmp_path, {"preset": "wrong"}, wrong={"study": "x", "base": {"training": {"epochs": 0}}})
    with pytest.raises(SpecError) as caught:
        load_study(path)
    assert "wrong.yaml:" in str(caught.value)
    assert "mine.yaml" not in str(caught.value)


def test_every_result_of_the_paper_has_a_spec() -> None:
    assert set(shipped_specs()) >= PAPER
    assert set(shipped_presets()) == {"small", "paper"}


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_specs_of_the_paper_have_both_sizes_and_every_reference(name: str) -> None:
    small, paper = (load_study(shipped_specs()[name], preset) for preset in ("small", "paper"))
    assert [small.study, paper.study] == [f"{name}-small", f"{name}-paper"]
    assert small.site == "canyon_small"
    assert (paper.base.training.epochs, paper.site) == (2000, "sites/canyon")
    assert small.claims
    assert set(small.references) == {"MEAN", "KNN", "MODEL"}
    assert small.axes == paper.axes  # the experiment is the same, its size is not
    # On two cores an hour has place for some 150 trials of the small size.
    assert sum(cell.trials for cell in outline(small).cells) <= 150


def test_sizes_stand_in_one_place() -> None:
    for name in PAPER - {"fig5_fingerprints"}:  # whose few antennas the paper's network cannot have
        said = yaml.safe_load(shipped_specs()[name].read_text())
        assert "site" not in said
        assert not {"training", "network"} & set(said.get("base", {})), name
