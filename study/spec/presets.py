"""Sizes of studies in files of their own: what a spec that names a preset does not say itself. No torch here.

A preset ``NAME`` is the file ``presets/NAME.yaml`` beside the spec, or a shipped one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from study.errors import SpecError, nearest
from study.spec.document import Document
from study.spec.loading import read_yaml, validate
from study.spec.trial import TrialConfiguration

__all__ = ["Preset", "SearchSize", "presets_beside", "with_preset"]

_KIND = "preset"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SearchSize(_Settings):
    """How much every search block searches.

    Attributes:
        seeds: seeds per candidate.
        trials: candidates of samplers that draw; a grid has its points.
    """

    seeds: Annotated[int, Field(ge=1)] | None = None
    trials: Annotated[int, Field(ge=1)] | None = None


class Preset(_Settings):
    """What a preset may hold; what the spec says itself comes first.

    Attributes:
        site, seeds, base: as in a spec.
        search: how much every search block searches.
    """

    site: Annotated[str, Field(min_length=1)] | None = None
    seeds: Annotated[int, Field(ge=1, le=1000)] | None = None
    base: TrialConfiguration | None = None
    search: SearchSize = SearchSize()


def presets_beside(spec: Path) -> dict[str, Path]:
    """The presets that a spec can name: those beside it, and the shipped ones."""
    from study.resources import shipped_presets

    own = {path.stem: path for path in sorted((spec.parent / "presets").glob("*.yaml")) if path.is_file()}
    return {**shipped_presets(), **own}


def with_preset(document: Document, spec: Path, wanted: str | None = None) -> Document:
    """The spec with what its preset adds; the preset's name then stands behind the study's.

    Args:
        document: the spec as it was written, or as a results folder has it: there everything is said already.
        spec: its file.
        wanted: a preset instead of the one that the spec names; None for that.

    Raises:
        SpecError: there is no such preset, its file does not fit, or the spec takes no other.
    """
    named, study = document.data.get("preset"), document.data.get("study")
    if wanted == "":
        raise SpecError("the preset has no name", where="--preset", allowed=", ".join(presets_beside(spec)))
    if named is None and wanted is None:
        return document
    resolved = isinstance(study, str) and study.endswith(f"-{named}")
    if named is None or (resolved and wanted not in (None, named)):
        raise SpecError(
            "the sizes of this spec are its own" if named is None else f"this is a spec of the preset {named} already",
            where=f"--preset {wanted}, {document.source}",
            allowed="a spec that has a key 'preset' and leaves to it what the preset says",
            fix="leave --preset out" if named is None else "run the spec that it was made of",
        )
    name, found = wanted or named, presets_beside(spec)
    if not isinstance(name, str) or name not in found:
        raise SpecError(
            f"there is no preset {str(name)!r}{nearest(str(name), found)}",
            where="--preset" if wanted else f"{document.source}:{document.line(('preset',))}: preset",
            allowed=", ".join(found) or "none",
            fix="choose one of these, or write a file presets/NAME.yaml beside the spec",
        )
    file = read_yaml(found[name], kind=_KIND)
    validate(file, Preset, kind=_KIND)
    data = _under(file.data, document.data, ("site", "seeds", "base")) | {"preset": name}
    if isinstance(study, str) and not resolved:
        data["study"] = f"{study}-{name}"
    sizes, blocks = file.data.get("search"), data.get("search")
    if isinstance(sizes, dict) and isinstance(blocks, list):
        data["search"] = [_sized(block, sizes) for block in blocks]
    return replace(document, data=data)


def _under(preset: Mapping[str, Any], said: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """What was said, with what a preset says of these keys where nothing was; mappings are joined key by key."""
    result = dict(said)
    for key in keys:
        if key in preset and key not in said:
            result[key] = copy.deepcopy(preset[key])
        elif isinstance(preset.get(key), dict) and isinstance(said.get(key), dict):
            result[key] = _under(preset[key], said[key], preset[key])
    return result


def _sized(block: Any, sizes: Mapping[str, Any]) -> Any:
    if not isinstance(block, dict):
        return block  # what is wrong with it, the spec's own check says
    draws = block.get("sampler", "grid") != "grid"
    return {**{key: value for key, value in sizes.items() if draws or key != "trials"}, **block}
