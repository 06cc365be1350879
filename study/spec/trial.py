"""One training run, fully resolved: its configuration and the key that names it. No torch here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from models.settings import (
    BACKBONES,
    METHOD_SETTINGS,
    REFERENCE_NAMES,
    BatchStatistics,
    Branches,
    InputTooSmallError,
    Likelihood,
    MethodSettings,
    Precision,
)
from study.data.split import Split
from study.data.system import SystemConfiguration, UniformPaths, fingerprint_shape
from study.errors import ConfigurationError, nearest
from study.selection import is_trained
from study.spec.problems import UNKNOWN_KEY, Allowed, InvalidValue, InvalidValues

__all__ = [
    "METHOD_PATH",
    "OBJECTIVE_CONTEXT",
    "MethodName",
    "MethodPath",
    "NetworkSettings",
    "ObjectiveSettings",
    "TrainingSettings",
    "Trial",
    "TrialConfiguration",
    "UserMethod",
    "canonical_json",
    "method_settings",
    "unknown_settings",
]

METHOD_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_PATH_WORDS = "the import path of a class of your own, package.module:Class"

# Key of the validation context: the objective settings of the user's methods that a spec names.
OBJECTIVE_CONTEXT = "objective_settings"


def _method_name(name: str) -> str:
    if name in METHOD_SETTINGS or METHOD_PATH.fullmatch(name):
        return name
    raise InvalidValue("no method has this name", hint=nearest(name, METHOD_SETTINGS).removeprefix("; ") or None)


def _method_path(path: str) -> str:
    if METHOD_PATH.fullmatch(path):
        return path
    raise InvalidValue("this is no import path")


_PATH_SCHEMA = {"type": "string", "pattern": f"^{METHOD_PATH.pattern}$"}

MethodName = Annotated[
    str,
    AfterValidator(_method_name),
    Allowed(f"{', '.join([*METHOD_SETTINGS][:-1])} or {[*METHOD_SETTINGS][-1]}; or {_PATH_WORDS}"),
    WithJsonSchema({"anyOf": [{"type": "string", "enum": list(METHOD_SETTINGS)}, _PATH_SCHEMA]}),
]
MethodPath = Annotated[str, AfterValidator(_method_path), Allowed(_PATH_WORDS), WithJsonSchema(_PATH_SCHEMA)]

# A change of what a configuration means (a loss, a default that is not written down) needs a new number here:
# old results then no longer answer for new trials.
KEY_VERSION = 4


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)


SettingValue = bool | int | float | str


class UserMethod(_Settings):
    """What is known about a class of a user's own, as plain data: reading it imports nothing.

    Attributes:
        name: the name in tables.
        joint: predicts the propagation condition.
        adapts: reads the unlabelled target domain.
        twin: can have two untied branches.
        objective: settings of its objective with their defaults.
        source: the first 16 hex digits of the SHA-256 of the file that defines the class.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.+-]*$", max_length=40)
    joint: bool
    adapts: bool
    twin: bool
    objective: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)], SettingValue]
    source: str = Field(pattern=r"^[0-9a-f]{16}$")

    @field_validator("name")
    @classmethod
    def _own_name(cls, name: str) -> str:
        if name in METHOD_SETTINGS:
            raise InvalidValue("a method of the project has this name", allowed="a name of its own")
        return name

    @property
    def trained(self) -> bool:
        """A user's method has a network; reference rows come with the project."""
        return True

    def objective_defaults(self) -> dict[str, Any]:
        """Settings and defaults, spelt as in a spec."""
        return dict(self.objective)


def method_settings(config: dict[str, Any]) -> MethodSettings | UserMethod:
    """What the method of a resolved configuration is and reads; nothing is imported."""
    described = config.get("user_method")
    return METHOD_SETTINGS[config["method"]] if described is None else UserMethod.model_validate(described)


class NetworkSettings(_Settings):
    """The backbone.

    Attributes:
        preset: ``paper`` (Table III; inputs from 43 × 43) or ``small`` (inputs from 16 × 16).
        batch_statistics: of an adaptation method with shared branches: ``joint`` (source and target pass together, and
            one set of batch-normalization statistics describes both) or ``per_domain`` (one pass for each).
    """

    preset: Literal["paper", "small"] = "paper"
    batch_statistics: BatchStatistics = "joint"


class ObjectiveSettings(_Settings):
    """Settings of the objectives; a method reads those that concern it, and only these enter its trials' keys.

    A setting that is left out has the method's own default. A method of a user's own may have further settings.

    Attributes:
        lambda_: (``lambda``) weight of coordinate regression in MDA; condition prediction has 1 − λ.
        gamma: focusing parameter γ of the focal loss.
        likelihood: how HDA weighs the condition: ``focal`` (Eq. 16) or ``standard`` (Eq. 15).
        knowledge_transfer: align source and target (Eq. 13).
        weight_regularization: λ4 of ½‖Θ‖².
        feature_weight, output_weight: weights of TL's two alignment terms.
        neighbours: k of the nearest neighbours.
        first_path_db: model-based localization takes the earliest path that is at most this much weaker than the
            strongest for the first.
    """

    model_config = ConfigDict(extra="allow")  # which of them some method has, the study knows: see `unknown_settings`

    lambda_: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, alias="lambda")
    gamma: Annotated[float, Field(ge=0, le=20)] | None = None
    likelihood: Likelihood | None = None
    knowledge_transfer: bool | None = None
    weight_regularization: Annotated[float, Field(ge=0)] | None = None
    feature_weight: Annotated[float, Field(ge=0)] | None = None
    output_weight: Annotated[float, Field(ge=0)] | None = None
    neighbours: Annotated[int, Field(ge=1)] | None = None
    first_path_db: Annotated[float, Field(gt=0, le=60)] | None = None

    @model_validator(mode="after")
    def _of_some_method(self, info: ValidationInfo) -> ObjectiveSettings:
        # Where the reader of the file knows the user's methods, a mistake here is told with all the others.
        known = (info.context or {}).get(OBJECTIVE_CONTEXT)
        if known is not None and (problems := unknown_settings(self, known)):
            raise InvalidValues(problems)
        return self


def unknown_settings(objective: ObjectiveSettings, known: Collection[str]) -> list[InvalidValue]:
    """The settings that neither the project's methods have nor the given ones of a user's methods."""
    allowed = [field.alias or name for name, field in ObjectiveSettings.model_fields.items()]
    allowed += [name for name in known if name not in allowed]
    return [
        InvalidValue(
            UNKNOWN_KEY,
            allowed=", ".join(allowed),
            at=(name,),
            hint=nearest(name, allowed).removeprefix("; ") or None,
        )
        for name in objective.model_extra or {}
        if name not in allowed
    ]


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
        precision: arithmetic of the feature extractor: ``float32``, ``bfloat16`` or ``tf32`` (GPUs); float32 where the
            device has no such arithmetic, which the row then says. Heads, losses and weights are always float32.
    """

    epochs: int = Field(default=200, ge=1, le=1_000_000)
    batch_size: int = Field(default=256, ge=2, le=10_000_000)
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "one_cycle"] = "constant"
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    coordinate_scale_m: float = Field(default=30.0, gt=0)
    precision: Precision = "float32"


class TrialConfiguration(_Settings):
    """Everything that a training run depends on, except its seed, the site's data and the code of a user's method.

    Attributes:
        method: what is trained; the reference rows MEAN, KNN and MODEL can stand on an axis.
        branches: of TL, MDA and HDA: ``shared`` weights for source and target (Eqs. 8-13) or ``twin`` (what Table III
            counts).
        system: the communication system.
        split: the data protocol.
        network: the backbone.
        objective: settings of the method.
        training: how a network is trained.
    """

    method: MethodName = "HDA"
    branches: Branches = "shared"
    system: SystemConfiguration = SystemConfiguration()
    split: Split = Split()
    network: NetworkSettings = NetworkSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()

    def resolved(self, user_method: UserMethod | None = None) -> dict[str, Any]:
        """The configuration as plain data: defaults filled in, and nothing that this method does not read.

        Args:
            user_method: what `method` is, where it is a user's; it becomes a part of the result, and so does its code.
        """
        settings = METHOD_SETTINGS[self.method] if user_method is None else user_method
        values = self.model_dump(mode="json", by_alias=True)
        given = {key: value for key, value in values["objective"].items() if value is not None}
        values["split"] = self.split.resolved()
        if not isinstance(self.system.paths, UniformPaths):
            del values["split"]["data_seed"]
        values["objective"] = {
            key: _like(default, given.get(key, default)) for key, default in settings.objective_defaults().items()
        }
        # What a user's method means by its settings is its own affair: with all of them it may read the target.
        alone = user_method is None and values["objective"].get("knowledge_transfer") is False
        if not settings.adapts or alone:
            del values["split"]["target"]
        if not settings.adapts or alone or (settings.twin and self.branches == "twin"):
            del values["network"]["batch_statistics"]
        if not settings.twin:
            del values["branches"]
        if not settings.trained:
            del values["network"], values["training"]
        if user_method is not None:
            values["user_method"] = user_method.model_dump(mode="json")
        return values

    def check_input(self) -> None:
        """Whether the fingerprint fits the backbone.

        Raises:
            ConfigurationError: it is too small.
        """
        _, rows, columns = fingerprint_shape(self.system)
        if self.method in REFERENCE_NAMES:
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


def _like(default: Any, value: Any) -> Any:
    """2 for a setting whose default is 0.5 is 2.0: one value, one key."""
    return float(value) if isinstance(default, float) else value


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
        text: the canonical JSON of the configuration, where it is known: making it takes most of a key's time.
    """

    config: dict[str, Any]
    seed: int
    data_hash: str
    text: str | None = field(default=None, compare=False, repr=False)

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the content: a mapping of v, config, seed and data, canonical."""
        text = canonical_json(self.config) if self.text is None else self.text
        rest = canonical_json({"data": self.data_hash, "seed": self.seed, "v": KEY_VERSION})
        return hashlib.sha256(f'{{"config":{text},{rest[1:]}'.encode()).hexdigest()[:16]

    @property
    def method(self) -> str:
        """The method's name, as tables show it."""
        return method_settings(self.config).name

    @property
    def locates(self) -> bool:
        """Whether the objective trains coordinates: MDA with λ = 0 learns to predict conditions alone."""
        return is_trained(self.config, "position")

    @property
    def user_method(self) -> UserMethod | None:
        """What the method was when the trial was asked for, where it is a user's."""
        described = self.config.get("user_method")
        return None if described is None else UserMethod.model_validate(described)

    @property
    def configuration(self) -> TrialConfiguration:
        """The configuration, without the description of a user's method."""
        values = {key: value for key, value in self.config.items() if key != "user_method"}
        return TrialConfiguration.model_validate(values)
