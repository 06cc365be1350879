"""What is calibrated where no spec is named: every method, in both network presets."""

from __future__ import annotations

from models.settings import TRAINED_METHODS
from study.spec.model import StudySpec

__all__ = ["usual_specs"]


def usual_specs() -> list[StudySpec]:
    """A study of the paper's input and network, and one of the small ones."""
    found = []
    for preset, system, batch in (
        ("paper", {}, 256),
        ("small", {"subcarriers": 32, "antennas": [4, 4]}, 128),
    ):
        base = {"system": system, "network": {"preset": preset}, "training": {"batch_size": batch}}
        content = {
            "study": f"usual-{preset}",
            "site": "canyon_small",
            "base": base,
            "axes": {"method": list(TRAINED_METHODS)},
            "seeds": 1,
        }
        found.append(StudySpec.model_validate(content))
    return found
