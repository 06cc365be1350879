"""Errors of localization and of condition prediction.

RMSE is the root of the mean squared Euclidean error in metres (the printed formula of Section V-A divides by the
number of samples outside the root, which is a misprint).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from study.data.dataset import EvaluationSet

__all__ = ["Predictions", "accuracy", "confusion_matrix", "rmse_m"]


@dataclass(frozen=True)
class Predictions:
    """Predictions with their truth, on the CPU.

    Attributes:
        position_m: predicted positions [n, D] in metres.
        error_m: Euclidean errors [n] in metres.
        condition: true classes [n].
        condition_hat: predicted classes [n], None without that task.
    """

    position_m: Tensor
    error_m: Tensor
    condition: Tensor
    condition_hat: Tensor | None

    @classmethod
    def of(cls, samples: EvaluationSet, position_m: Tensor, condition_hat: Tensor | None) -> Predictions:
        """Compare predictions with the truth of the same samples."""
        # float64: the sum of squares over a hundred thousand samples would lose digits in float32.
        error = (position_m.double() - samples.position_m.double()).square().sum(dim=1).sqrt()
        hat = None if condition_hat is None else condition_hat.cpu()
        return cls(position_m.cpu(), error.cpu(), samples.condition.cpu(), hat)


def rmse_m(error_m: Tensor) -> float:
    """Root mean squared error in metres. [n] → scalar."""
    return float(error_m.square().mean().sqrt())


def accuracy(predictions: Predictions) -> float | None:
    """Share of right conditions; None without that task."""
    if predictions.condition_hat is None:
        return None
    return float((predictions.condition_hat == predictions.condition).double().mean())


def confusion_matrix(predictions: Predictions, classes: int) -> Tensor | None:
    """[K, K] counts, rows are true classes; None without that task."""
    if predictions.condition_hat is None:
        return None
    pairs = predictions.condition * classes + predictions.condition_hat
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
