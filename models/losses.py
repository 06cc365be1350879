"""The losses of the paper, one pure function each.

Shapes: B batch, F features, D coordinates (2 or 3), K propagation conditions.
Coordinates are dimensionless here: metres, centred and divided by one length for all axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, overload

import torch
import torch.nn.functional as nnf
from torch import Tensor

__all__ = [
    "coordinate_loss",
    "domain_loss",
    "feature_alignment",
    "focal_loss",
    "homoscedastic_loss",
    "output_alignment",
    "symmetric_kl",
    "transfer_weight",
    "weight_regularization",
]

# Smallest probability or probability complement that enters a logarithm or a power. A class that is never
# predicted, or a feature that is zero in a whole batch, so gives a large but finite loss and gradient.
EPSILON = 1e-6


def coordinate_loss(zeta: Tensor, y: Tensor) -> Tensor:
    """L_CR, Eq. (8): mean squared Euclidean distance. ζ, y [B, D] → scalar."""
    return (zeta - y).square().sum(dim=1).mean()


def _log_likelihood(logits: Tensor, condition: Tensor) -> Tensor:
    """log ξ_c of the true class. u [B, K], c [B] → [B]."""
    return nnf.log_softmax(logits, dim=1).gather(1, condition[:, None]).squeeze(1)


def _modulation(probability: Tensor, gamma: float) -> Tensor:
    """(1 − p)^γ with a base of at least EPSILON: for γ < 1 the derivative at p = 1 would be infinite."""
    return (1 - probability).clamp_min(EPSILON) ** gamma


def focal_loss(logits: Tensor, condition: Tensor, gamma: float) -> Tensor:
    """L_PCP, Eq. (9): mean of −(1 − ξ_c)^γ log ξ_c with ξ = softmax(u); γ = 0 is cross-entropy.

    Args:
        logits: u [B, K].
        condition: true class c [B], int64.
        gamma: focusing parameter, ≥ 0.
    """
    log_xi = _log_likelihood(logits, condition)
    return -(_modulation(log_xi.exp(), gamma) * log_xi).mean()


def symmetric_kl(p: Tensor, q: Tensor) -> Tensor:
    """D_KL(p‖q) + D_KL(q‖p) of two distributions, Eq. (10). p, q [n], each sums to 1 → scalar ≥ 0."""
    return ((p - q) * (p.clamp_min(EPSILON).log() - q.clamp_min(EPSILON).log())).sum()


def feature_alignment(omega_source: Tensor, omega_target: Tensor) -> Tensor:
    """L_loc, Eq. (10): symmetric KL of the batch-mean features, each normalized by its sum. ω [B, F], ω ≥ 0."""

    def distribution(omega: Tensor) -> Tensor:
        mean = omega.mean(dim=0)
        share = mean / mean.sum().clamp_min(EPSILON) + EPSILON
        return share / share.sum()

    return symmetric_kl(distribution(omega_source), distribution(omega_target))


def _condition_map(zeta: Tensor, logits: Tensor | None, gamma: float) -> Tensor:
    """Φ⊗, Eq. (12): −(1 − ξ)^γ log ξ ⊗ ζ, averaged over the batch. ζ [B, D], u [B, K] → [K·D] (no u: [D])."""
    if logits is None:
        return zeta.mean(dim=0)
    log_xi = nnf.log_softmax(logits, dim=1)
    surprise = -_modulation(log_xi.exp(), gamma) * log_xi
    return torch.einsum("bk,bd->kd", surprise, zeta).flatten() / zeta.shape[0]


def output_alignment(
    zeta_source: Tensor,
    zeta_target: Tensor,
    logits_source: Tensor | None = None,
    logits_target: Tensor | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """L_global, Eqs. (11, 12): symmetric KL of the batch-mean condition maps.

    ζ may be negative, so a map is normalized by a softmax over its elements and not by its sum. Without logits
    (one task) the map is the mean output itself: this is the output term of TL.
    """
    source = torch.softmax(_condition_map(zeta_source, logits_source, gamma), dim=0)
    target = torch.softmax(_condition_map(zeta_target, logits_target, gamma), dim=0)
    return symmetric_kl(source, target)


def homoscedastic_loss(
    coordinate: Tensor,
    logits: Tensor | None,
    condition: Tensor | None,
    log_var: Tensor,
    gamma: float,
    likelihood: Literal["focal", "standard"],
) -> Tensor:
    """Negative log-likelihood of the joint task with learned task weights, Eq. (15) or (16).

    With s1 = log σ1² and s2 = log σ2²:
    ½ e^(−s1) L_CR + e^(−s2) L_PCP + ½ s1 + s2.

    ``standard`` (15): L_PCP is the cross-entropy. ``focal`` (16): L_PCP is the mean of
    −(1 − σ2⁻² ξ_c^(1/σ2²))^γ log ξ_c, with the base kept above zero. Eq. (16) as printed has lost the factor σ2⁻²
    that Eq. (25) still has; without it the loss has no lower bound in σ2, so it is kept here, and γ = 0 gives (15).

    Args:
        coordinate: L_CR, scalar.
        logits: u [B, K], or None for coordinate regression alone.
        condition: true class c [B], or None.
        log_var: [s1, s2].
        gamma: focusing parameter, ≥ 0 (``focal`` only).
        likelihood: which of the two.
    """
    s1, s2 = log_var[0], log_var[1]
    loss = 0.5 * torch.exp(-s1) * coordinate + 0.5 * s1
    if logits is None or condition is None:
        return loss
    precision = torch.exp(-s2)
    log_xi = _log_likelihood(logits, condition)
    if likelihood == "focal":
        surprise = -(_modulation(precision * torch.exp(precision * log_xi), gamma) * log_xi).mean()
    else:
        surprise = -log_xi.mean()
    return loss + precision * surprise + s2


def domain_loss(logits_source: Tensor, logits_target: Tensor) -> Tensor:
    """Cross-entropy of the domain classifier of RDA; class 0 is the source. [B, 2] each → scalar."""
    logits = torch.cat([logits_source, logits_target])
    domain = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    domain[logits_source.shape[0] :] = 1
    return nnf.cross_entropy(logits, domain)


def weight_regularization(parameters: Iterable[Tensor]) -> Tensor:
    """L_WR: ½‖Θ‖² over all given parameters → scalar."""
    norms = torch._foreach_norm(list(parameters))
    return 0.5 * torch.stack(norms).square().sum()


@overload
def transfer_weight(progress: float) -> float: ...
@overload
def transfer_weight(progress: Tensor) -> Tensor: ...
def transfer_weight(progress: float | Tensor) -> float | Tensor:
    """λ3 = 2 / (1 + e^(−10κ)) − 1 with the training progress κ in 0 … 1: rises from 0 to nearly 1 (Section V-A)."""
    if isinstance(progress, Tensor):
        return 2.0 / (1.0 + torch.exp(-10.0 * progress)) - 1.0
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0
