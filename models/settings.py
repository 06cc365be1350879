"""What can be set in networks and methods. No torch here: specs are checked and planned without it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = [
    "BACKBONES",
    "METHOD_SETTINGS",
    "REFERENCE_NAMES",
    "TRAINED_METHODS",
    "Backbone",
    "BatchStatistics",
    "Branches",
    "InputTooSmallError",
    "Likelihood",
    "MethodSettings",
    "Precision",
]

Branches = Literal["shared", "twin"]
BatchStatistics = Literal["joint", "per_domain"]
Likelihood = Literal["focal", "standard"]
Precision = Literal["float32", "tf32", "bfloat16"]


class InputTooSmallError(ValueError):
    """The fingerprint is smaller than the backbone's convolutions and poolings allow."""

    def __init__(self, backbone: Backbone, rows: int, columns: int) -> None:
        self.backbone, self.rows, self.columns = backbone, rows, columns
        super().__init__(
            f"a fingerprint of {rows} × {columns} (antennas × columns) is too small for the backbone "
            f"{backbone.name!r}: the smallest that fits is {backbone.smallest} × {backbone.smallest}"
        )


@dataclass(frozen=True)
class Backbone:
    """Widths and kernels of one network family.

    Attributes:
        name: preset name.
        channels, kernels: one entry per block Conv2d → BatchNorm2d → MaxPool2d(2) → ReLU.
        padding: ``valid`` (none) or ``same``.
        single_task: hidden widths of the regressor of DCNN and RDA.
        multi_task: hidden widths of the heads of TL, MDA and HDA.
        domain: hidden widths of RDA's domain classifier.
    """

    name: str
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    padding: Literal["valid", "same"]
    single_task: tuple[int, ...]
    multi_task: tuple[int, ...]
    domain: tuple[int, ...]

    @property
    def smallest(self) -> int:
        """Smallest number of rows (and of columns) that leaves at least one output element."""
        size = 1
        for kernel in reversed(self.kernels):
            size = 2 * size + (kernel - 1 if self.padding == "valid" else 0)
        return size

    def output_size(self, size: int) -> int:
        """Rows (or columns) after the last block, for an input of ``size`` rows (or columns)."""
        for kernel in self.kernels:
            size = (size - (kernel - 1 if self.padding == "valid" else 0)) // 2
        return size

    def features(self, rows: int, columns: int) -> int:
        """Number of features F for an input of rows × columns.

        Raises:
            InputTooSmallError: the input does not fit.
        """
        if min(rows, columns) < self.smallest:
            raise InputTooSmallError(self, rows, columns)
        return self.channels[-1] * self.output_size(rows) * self.output_size(columns)


BACKBONES: dict[str, Backbone] = {
    # Table III: these widths give the paper's parameter and MAC counts to the last digit.
    "paper": Backbone("paper", (32, 64, 96, 128), (6, 4, 3, 2), "valid", (128, 16), (481, 16), (128,)),
    # For few antennas or subcarriers and for short studies: any input from 16 × 16.
    "small": Backbone("small", (16, 32, 48, 64), (3, 3, 3, 3), "same", (128, 16), (128, 16), (64,)),
}


@dataclass(frozen=True)
class NoObjective:
    """DCNN, RDA and the mean position: nothing to set."""


@dataclass(frozen=True)
class TLObjective:
    """TL: weights of the alignment of features and of outputs."""

    feature_weight: float = 0.9
    output_weight: float = 0.1


@dataclass(frozen=True)
class MDAObjective:
    """MDA: λ is the weight of coordinate regression (λ1), 1 − λ that of condition prediction (λ2)."""

    lambda_: float = 0.5
    gamma: float = 2.0
    knowledge_transfer: bool = True
    weight_regularization: float = 0.05


@dataclass(frozen=True)
class HDAObjective:
    """HDA: ``likelihood`` focal is Eq. (16), standard is Eq. (15)."""

    gamma: float = 2.0
    likelihood: Likelihood = "focal"
    knowledge_transfer: bool = True
    weight_regularization: float = 0.05


@dataclass(frozen=True)
class NeighboursObjective:
    """k-nearest neighbours: k."""

    neighbours: int = 3


@dataclass(frozen=True)
class ModelBasedObjective:
    """Model-based localization: the first path is the earliest that is at most this much weaker than the strongest."""

    first_path_db: float = 10.0


@dataclass(frozen=True)
class MethodSettings:
    """What a spec may set for a method.

    Attributes:
        name: the name in tables, and in specs for the methods below (a class of a user's own is named by its import
            path there).
        joint: predicts the propagation condition.
        objective: dataclass of the objective's settings with their defaults; ``lambda_`` is spelt ``lambda`` in specs.
        trained: has epochs, seeds and a network; otherwise a deterministic reference row.
        adapts: reads the unlabelled target domain, so that a step sees about twice as many samples.
        twin: can have two untied branches.
    """

    name: str
    joint: bool
    objective: type[Any]
    trained: bool = True
    adapts: bool = False
    twin: bool = False

    def objective_defaults(self) -> dict[str, Any]:
        """Settings and defaults, spelt as in a spec (``lambda``, not ``lambda_``)."""
        return {key.rstrip("_"): value for key, value in asdict(self.objective()).items()}


_CATALOGUE = (
    MethodSettings("MEAN", joint=True, objective=NoObjective, trained=False),
    MethodSettings("KNN", joint=True, objective=NeighboursObjective, trained=False),
    MethodSettings("MODEL", joint=True, objective=ModelBasedObjective, trained=False),
    MethodSettings("DCNN", joint=False, objective=NoObjective),
    MethodSettings("TL", joint=False, objective=TLObjective, adapts=True, twin=True),
    MethodSettings("RDA", joint=False, objective=NoObjective, adapts=True),
    MethodSettings("MDA", joint=True, objective=MDAObjective, adapts=True, twin=True),
    MethodSettings("HDA", joint=True, objective=HDAObjective, adapts=True, twin=True),
)

METHOD_SETTINGS: dict[str, MethodSettings] = {item.name: item for item in _CATALOGUE}
TRAINED_METHODS: tuple[str, ...] = tuple(item.name for item in _CATALOGUE if item.trained)
REFERENCE_NAMES: tuple[str, ...] = tuple(item.name for item in _CATALOGUE if not item.trained)
