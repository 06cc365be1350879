"""One training run, fully resolved: its configuration and the key that names it. No torch here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.settings import BACKBONES, METHOD_SETTINGS, Branches, InputTooSmallError, Likelihood
from study.data.split import Split
from study.data.system import SystemConfiguration, UniformPaths, fingerprint_shape
from study.errors import ConfigurationError

__all__ = [
    "MethodName",
    "NetworkSettings",
    "ObjectiveSettings",
    "TrainingSettings",
    "Trial",
    "TrialConfiguration",
    "canonical_json",
]

MethodName = Literal["MEAN", "KNN", "DCNN", "TL", "RDA", "MDA", "HDA"]

# A change of what a configuration means (a loss, a default that is not written down) needs a new number here:
# old results then no longer answer for new trials.
KEY_VERSION = 2


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)


class NetworkSettings(_Settings):
    """The backbone.

    Attributes:
        preset: ``paper`` (Table III; inputs from 43 × 43) or ``small`` (inputs from 16 × 16).
    """

    preset: Literal["paper", "small"] = "paper"


class ObjectiveSettings(_Settings):
    """Settings of the objectives; a method reads those that concern it, and only these enter its trials' keys.

    A setting that is left out has the method's own default.

    Attributes:
        lambda_: (``lambda``) weight of coordinate regression in MDA; condition prediction has 1 − λ.
        gamma: focusing parameter γ of the focal loss (MDA, HDA).
        likelihood: HDA: focal (Eq. 16) or standard (Eq. 15).
        knowledge_transfer: MDA, HDA: align source and target (Eq. 13).
        weight_regularization: MDA, HDA: λ4 of ½‖Θ‖².
        feature_weight, output_weight: TL: weights of the two alignment terms.
        neighbours: KNN: k.
    """

    lambda_: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, alias="lambda")
    gamma: Annotated[float, Field(ge=0, le=20)] | None = None
    likelihood: Likelihood | None = None
    knowledge_transfer: bool | None = None
    weight_regularization: Annotated[float, Field(ge=0)] | None = None
    feature_weight: Annotated[float, Field(ge=0)] | None = None
    output_weight: Annotated[float, Field(ge=0)] | None = None
    neighbours: Annotated[int, Field(ge=1)] | None = None


class TrainingSettings(_Settings):
    """How a network is trained.

    Attributes:
        epochs: passes over the labelled samples.
        batch_size: labelled samples a step; a step of an adaptation method sees as many unlabelled ones.
        learning_rate: the rate (``constant``) or its peak (``one_cycle``).
        schedule: ``constant``, or ``one_cycle``: up to the peak in the first 30 % of all steps, then down to zero.
        optimizer: ``adam`` or ``sgd``.
        momentum: β1 of Adam or the momentum of SGD.
        weight_decay: L2 penalty of the optimizer, on all network weights.
        coordinate_scale_m: coordinates are centred on the site and divided by this one length; a scale for each axis
            would distort the metric.
    """

    epochs: int = Field(default=200, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "one_cycle"] = "constant"
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    coordinate_scale_m: float = Field(default=30.0, gt=0)


class TrialConfiguration(_Settings):
    """Everything that a training run depends on, except its seed and the site's data."""

    method: MethodName = "HDA"
    branches: Branches = "shared"
    system: SystemConfiguration = SystemConfiguration()
    split: Split = Split()
    network: NetworkSettings = NetworkSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain data: defaults filled in, and nothing that this method does not read."""
        settings = METHOD_SETTINGS[self.method]
        values = self.model_dump(mode="json", by_alias=True)
        given = {key: value for key, value in values["objective"].items() if value is not None}
        values["split"] = self.split.resolved()
        if not isinstance(self.system.paths, UniformPaths):
            del values["split"]["data_seed"]
        values["objective"] = {key: given.get(key, default) for key, default in settings.objective_defaults().items()}
        if not settings.adapts or values["objective"].get("knowledge_transfer") is False:
            del values["split"]["target"]
        if not settings.twin:
            del values["branches"]
        if not settings.trained:
            del values["network"], values["training"]
        return values

    def check_input(self) -> None:
        """Whether the fingerprint fits the backbone.

        Raises:
            ConfigurationError: it is too small.
        """
        _, rows, columns = fingerprint_shape(self.system)
        if not METHOD_SETTINGS[self.method].trained:
            return
        try:
            BACKBONES[self.network.preset].features(rows, columns)
        except InputTooSmallError as error:
            size = error.backbone.smallest
            raise ConfigurationError(
                str(error),
                where=f"system.antennas {list(self.system.antennas)}, system.subcarriers {self.system.subcarriers}, "
                f"system.fingerprint {self.system.fingerprint}, network.preset {self.network.preset}",
                allowed=f"antennas[0] × antennas[1] ≥ {size} and subcarriers ≥ {size} (scm: antennas alone)",
                fix="enlarge the array or the number of subcarriers, or choose another network.preset: "
                + ", ".join(f"{b.name} (from {b.smallest} × {b.smallest})" for b in BACKBONES.values()),
            ) from None


def canonical_json(value: Any) -> str:
    """JSON that is equal for equal content: sorted keys, floats at 12 significant digits (0.1 + 0.2 is 0.3)."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {str(key): plain(part) for key, part in item.items()}
        if isinstance(item, list | tuple):
            return [plain(part) for part in item]
        return float(f"{item:.12g}") if isinstance(item, float) else item

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Trial:
    """A configuration with a seed, on given data.

    Attributes:
        config: what `TrialConfiguration.resolved` returned.
        seed: seed of initialization and batch order; 0 for reference rows, which are deterministic.
        data_hash: identity of the site's data.
    """

    config: dict[str, Any]
    seed: int
    data_hash: str

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the content."""
        content = {"v": KEY_VERSION, "config": self.config, "seed": self.seed, "data": self.data_hash}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.config["method"])
