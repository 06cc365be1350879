"""The methods that a study compares: which heads, which objective, which branches.

Shapes: B source batch, T target batch, C input channels, M antennas, N columns, D coordinates, K conditions.

A method is a torch module with two duties: `training_loss` for one step and `forward` for prediction. The target
domain enters a step as `UnlabelledBatch`, a type without labels: they cannot leak into training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, get_args

import torch
from torch import Tensor, nn

from models import losses
from models.backbone import FeatureExtractor, initialize, perceptron, reverse_gradient
from models.settings import BACKBONES, METHOD_SETTINGS, Backbone, BatchStatistics, Branches, MethodSettings

__all__ = [
    "DCNN",
    "HDA",
    "MDA",
    "METHODS",
    "RDA",
    "TL",
    "LabelledBatch",
    "Method",
    "NetworkShape",
    "Prediction",
    "UnlabelledBatch",
    "build_method",
    "required_target",
]


class LabelledBatch(NamedTuple):
    """Source samples: fingerprint [B, C, M, N], position [B, D] (dimensionless), condition [B] (int64)."""

    fingerprint: Tensor
    position: Tensor
    condition: Tensor


class UnlabelledBatch(NamedTuple):
    """Target samples: fingerprint [T, C, M, N], and nothing else."""

    fingerprint: Tensor


class Prediction(NamedTuple):
    """ζ [B, D] (dimensionless) and the condition logits u [B, K], None without that task."""

    position: Tensor
    condition_logits: Tensor | None


@dataclass(frozen=True)
class NetworkShape:
    """What the network has to fit.

    Attributes:
        fingerprint: (C, M, N).
        conditions: number of propagation conditions K; 0 drops the task.
        coordinates: D, 2 or 3.
        backbone: preset.
    """

    fingerprint: tuple[int, int, int]
    conditions: int = 3
    coordinates: int = 2
    backbone: Backbone = field(default_factory=lambda: BACKBONES["paper"])


class _BranchOutput(NamedTuple):
    features: Tensor  # ω [B, F]
    position: Tensor  # ζ [B, D]
    logits: Tensor | None  # u [B, K]


class Branch(nn.Module):
    """One Θ1 with its heads Θ2 and, for joint tasks, Θ3."""

    def __init__(self, shape: NetworkShape, hidden: tuple[int, ...], *, condition_head: bool) -> None:
        super().__init__()
        self.extractor = FeatureExtractor(shape.backbone, shape.fingerprint)
        self.regressor = perceptron(self.extractor.features, hidden, shape.coordinates)
        self.classifier = (
            perceptron(self.extractor.features, hidden, shape.conditions)
            if condition_head and shape.conditions
            else None
        )

    def forward(self, fingerprint: Tensor) -> _BranchOutput:
        """[B, C, M, N] → ω, ζ, u."""
        omega = self.extractor(fingerprint)
        return _BranchOutput(omega, self.regressor(omega), self.classifier(omega) if self.classifier else None)


class Method(nn.Module, ABC):
    """Base class of all methods.

    Args:
        shape: what the network has to fit.
        objective: the settings, an instance of the method's objective dataclass; its defaults when None.
        branches: see `build_method`.

    Attributes:
        settings: the method's name, what it predicts and reads, and what a spec may set for it.
        batch_statistics: see `both_domains`.
    """

    settings: ClassVar[MethodSettings]
    batch_statistics: BatchStatistics = "joint"

    def __init__(self, shape: NetworkShape, objective: Any = None, branches: Branches = "shared") -> None:
        super().__init__()
        self.shape = shape
        settings = self.settings
        self.objective = objective if objective is not None else settings.objective()
        hidden = shape.backbone.multi_task if settings.twin else shape.backbone.single_task
        twin = settings.twin and branches == "twin"
        self.source_branch = Branch(shape, hidden, condition_head=settings.joint)
        self.target_branch = Branch(shape, hidden, condition_head=settings.joint) if twin else None

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.settings.name

    @property
    def reads_target(self) -> bool:
        """Whether a step needs a target batch, as this method is set."""
        return self.settings.adapts

    def initialize(self) -> None:
        """Xavier initialization; twin branches start equal, so that their features can be compared."""
        initialize(self)
        if self.target_branch is not None:
            self.target_branch.load_state_dict(self.source_branch.state_dict())

    def forward(self, fingerprint: Tensor) -> Prediction:
        """Prediction of the deployed branch, the one that learned from labels. [B, C, M, N] → ζ, u."""
        output = self.source_branch(fingerprint)
        return Prediction(output.position, output.logits)

    def both_domains(self, source: Tensor, target: Tensor) -> tuple[_BranchOutput, _BranchOutput]:
        """Outputs for a source and a target batch.

        Shared branches see both in one pass, so that one set of batch-normalization statistics describes both domains,
        or with ``batch_statistics`` per_domain first one domain and then the other; twin branches see one domain each.
        """
        if self.target_branch is not None:
            return self.source_branch(source), self.target_branch(target)
        if self.batch_statistics == "per_domain":
            return self.source_branch(source), self.source_branch(target)
        both = self.source_branch(torch.cat([source, target]))
        count = source.shape[0]
        return _rows(both, slice(None, count)), _rows(both, slice(count, None))

    @abstractmethod
    def training_loss(self, source: LabelledBatch, target: UnlabelledBatch | None, progress: float) -> Tensor:
        """The loss of one step.

        Args:
            source: labelled samples.
            target: unlabelled samples of the target domain; None for methods that do not read it.
            progress: κ, the share of training that is done, 0 … 1.

        Returns:
            A scalar that depends on every trainable parameter the method uses.
        """

    def network_parameters(self) -> Iterator[nn.Parameter]:
        """Θ: the weights of all branches, without the learned task weights."""
        return (p for name, p in self.named_parameters() if name != "log_var")

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: the learned task weights have no weight decay."""
        groups: list[dict[str, Any]] = [{"params": list(self.network_parameters()), "weight_decay": weight_decay}]
        scalars = [p for name, p in self.named_parameters() if name == "log_var"]
        if scalars:
            groups.append({"params": scalars, "weight_decay": 0.0})
        return groups

    def learned_weights(self) -> dict[str, Tensor]:
        """Learned task weights to record each epoch (HDA); empty for the others."""
        return {}


class DCNN(Method):
    """Supervised coordinate regression: L_CR (Eq. 8)."""

    settings = METHOD_SETTINGS["DCNN"]

    def training_loss(self, source: LabelledBatch, target: UnlabelledBatch | None, progress: float) -> Tensor:
        """L_CR; the target domain is not read."""
        return losses.coordinate_loss(self.source_branch(source.fingerprint).position, source.position)


class TL(Method):
    """Transfer learning: L_CR + λ3 · (0.9 · SKL(features) + 0.1 · SKL(outputs))."""

    settings = METHOD_SETTINGS["TL"]

    def training_loss(self, source: LabelledBatch, target: UnlabelledBatch | None, progress: float) -> Tensor:
        """L_CR and the alignment of features and outputs."""
        s, t = self.both_domains(source.fingerprint, required_target(target).fingerprint)
        alignment = self.objective.feature_weight * losses.feature_alignment(
            s.features, t.features
        ) + self.objective.output_weight * losses.output_alignment(s.position, t.position)
        return losses.coordinate_loss(s.position, source.position) + losses.transfer_weight(progress) * alignment


class RDA(Method):
    """Adversarial regressive domain adaptation: L_CR + domain classification through gradient reversal."""

    settings = METHOD_SETTINGS["RDA"]

    def __init__(self, shape: NetworkShape, objective: Any = None, branches: Branches = "shared") -> None:
        super().__init__(shape, objective, branches)
        self.domain_classifier = perceptron(self.source_branch.extractor.features, shape.backbone.domain, 2)

    def training_loss(self, source: LabelledBatch, target: UnlabelledBatch | None, progress: float) -> Tensor:
        """L_CR and the domain loss; the strength of the reversal is λ3."""
        s, t = self.both_domains(source.fingerprint, required_target(target).fingerprint)
        omega = reverse_gradient(torch.cat([s.features, t.features]), losses.transfer_weight(progress))
        domain = self.domain_classifier(omega)
        count = s.features.shape[0]
        return losses.coordinate_loss(s.position, source.position) + losses.domain_loss(domain[:count], domain[count:])


class _Joint(Method):
    """What MDA and HDA share: both tasks, knowledge transfer (Eq. 13) and weight regularization."""

    @property
    def reads_target(self) -> bool:
        """Without knowledge transfer the target domain is not read."""
        return bool(self.objective.knowledge_transfer)

    def training_loss(self, source: LabelledBatch, target: UnlabelledBatch | None, progress: float) -> Tensor:
        """Supervised loss + λ3 L_KT + λ4 L_WR (Eqs. 7, 17)."""
        settings = self.objective
        loss = torch.zeros((), device=source.position.device)
        if settings.knowledge_transfer:
            s, t = self.both_domains(source.fingerprint, required_target(target).fingerprint)
            transfer = losses.feature_alignment(s.features, t.features) + losses.output_alignment(
                s.position, t.position, s.logits, t.logits, settings.gamma
            )
            loss = losses.transfer_weight(progress) * transfer
        else:
            s = self.source_branch(source.fingerprint)
        if settings.weight_regularization:
            loss = loss + settings.weight_regularization * losses.weight_regularization(self.network_parameters())
        return loss + self.supervised_loss(s, source)

    @abstractmethod
    def supervised_loss(self, output: _BranchOutput, source: LabelledBatch) -> Tensor:
        """The weighted losses of the two tasks."""


class MDA(_Joint):
    """Multi-task domain adaptation with fixed task weights (Eq. 7): λ L_CR + (1 − λ) L_PCP + λ3 L_KT + λ4 L_WR."""

    settings = METHOD_SETTINGS["MDA"]

    def supervised_loss(self, output: _BranchOutput, source: LabelledBatch) -> Tensor:
        """λ L_CR + (1 − λ) L_PCP; without conditions L_CR alone."""
        coordinate = losses.coordinate_loss(output.position, source.position)
        if output.logits is None:
            return coordinate
        weight = self.objective.lambda_
        condition = losses.focal_loss(output.logits, source.condition, self.objective.gamma)
        return weight * coordinate + (1 - weight) * condition


class HDA(_Joint):
    """Homoscedastic domain adaptation (Eq. 17): the two task weights are learned as s = log σ²."""

    settings = METHOD_SETTINGS["HDA"]

    def __init__(self, shape: NetworkShape, objective: Any = None, branches: Branches = "shared") -> None:
        super().__init__(shape, objective, branches)
        self.log_var = nn.Parameter(torch.zeros(2))

    def supervised_loss(self, output: _BranchOutput, source: LabelledBatch) -> Tensor:
        """Negative log-likelihood of the joint task."""
        return losses.homoscedastic_loss(
            losses.coordinate_loss(output.position, source.position),
            output.logits,
            source.condition,
            self.log_var,
            self.objective.gamma,
            self.objective.likelihood,
        )

    def learned_weights(self) -> dict[str, Tensor]:
        """log σ1² of coordinate regression and log σ2² of condition prediction."""
        values = self.log_var.detach()
        return {"log_var_position": values[0], "log_var_condition": values[1]}


METHODS: dict[str, type[Method]] = {method.settings.name: method for method in (DCNN, TL, RDA, MDA, HDA)}


def build_method(
    method: str | type[Method],
    shape: NetworkShape,
    *,
    branches: Branches = "shared",
    batch_statistics: BatchStatistics = "joint",
    objective: dict[str, Any] | None = None,
) -> Method:
    """An initialized method.

    Args:
        method: one of METHODS, or a class.
        shape: what the network has to fit.
        branches: ``shared`` (Eqs. 8-13) or ``twin`` (what Table III counts); DCNN and RDA have one branch either way.
        batch_statistics: ``joint`` or ``per_domain``, see `Method.both_domains`.
        objective: settings of the method's objective, keys as in a spec.

    Raises:
        InputTooSmallError: the fingerprint does not fit the backbone.
        ValueError: an unknown name, branches, batch statistics or objective setting.
    """
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    if branches not in get_args(Branches):
        raise ValueError(f"branches must be one of {get_args(Branches)}, but got {branches!r}")
    if batch_statistics not in get_args(BatchStatistics):
        raise ValueError(f"batch_statistics must be one of {get_args(BatchStatistics)}, but got {batch_statistics!r}")
    kind = METHODS[method] if isinstance(method, str) else method
    dataclass_ = kind.settings.objective
    known = {item.name.rstrip("_"): item.name for item in fields(dataclass_)}
    settings = objective or {}
    if unknown := set(settings) - set(known):
        raise ValueError(f"{kind.settings.name} has no objective setting {sorted(unknown)}; it has {sorted(known)}")
    built = kind(shape, dataclass_(**{known[key]: value for key, value in settings.items()}), branches)
    built.batch_statistics = batch_statistics
    built.initialize()
    return built


def _rows(output: _BranchOutput, rows: slice) -> _BranchOutput:
    logits = None if output.logits is None else output.logits[rows]
    return _BranchOutput(output.features[rows], output.position[rows], logits)


def required_target(target: UnlabelledBatch | None) -> UnlabelledBatch:
    """The target batch of a method that reads it.

    Raises:
        ValueError: there is none.
    """
    if target is None:
        raise ValueError("this method reads the target domain: training_loss needs a target batch")
    return target


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in parameters if p.requires_grad)
