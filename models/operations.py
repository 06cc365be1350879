"""Multiply-accumulates of a step, counted from the layers' widths. No torch here: plans are made without it.

`models.complexity` counts the same by running the layers; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.settings import Backbone

__all__ = ["Operations", "count_operations"]

# A backward pass computes the gradients of a layer's inputs and of its weights: twice the work of the forward pass.
_PASSES = 3


@dataclass(frozen=True)
class Operations:
    """MACs of convolutions and linear layers.

    Attributes:
        deployed: of one sample through the branch that predicts.
        per_sample: of one sample through every branch and head, as `models.complexity.Complexity.macs_per_sample`.
        step: of one training step, forward and backward.
    """

    deployed: int
    per_sample: int
    step: int


def count_operations(
    backbone: Backbone,
    fingerprint: tuple[int, int, int],
    *,
    batch: int,
    target: bool,
    multi_task: bool,
    twin: bool,
    conditions: int,
    adversarial: bool = False,
    coordinates: int = 2,
) -> Operations:
    """Count a method's operations.

    Args:
        backbone: preset.
        fingerprint: (C, M, N).
        batch: labelled samples of a step.
        target: whether a step also sees as many unlabelled samples.
        multi_task: whether the heads have the widths of TL, MDA and HDA.
        twin: two untied branches, each of which sees one domain.
        conditions: classes of a condition head; 0 without one.
        adversarial: a domain classifier sees the features of both domains (RDA).
        coordinates: outputs of the regressor.

    Raises:
        InputTooSmallError: the fingerprint does not fit.
    """
    features = backbone.features(*fingerprint[1:])
    hidden = backbone.multi_task if multi_task else backbone.single_task
    branch = _extractor(backbone, fingerprint) + _perceptron(features, hidden, coordinates)
    if conditions:
        branch += _perceptron(features, hidden, conditions)
    domain = _perceptron(features, backbone.domain, 2) if adversarial else 0
    samples = 2 * batch if target else batch
    # Twin branches see one domain each, a shared one both: the same number of passes.
    step = _PASSES * samples * (branch + domain)
    return Operations(branch, branch * (2 if twin else 1) + domain, step)


def _extractor(backbone: Backbone, fingerprint: tuple[int, int, int]) -> int:
    channels, rows, columns = fingerprint
    macs = 0
    for width, kernel in zip(backbone.channels, backbone.kernels, strict=True):
        if backbone.padding == "valid":
            rows, columns = rows - kernel + 1, columns - kernel + 1
        macs += rows * columns * width * channels * kernel * kernel
        channels, rows, columns = width, rows // 2, columns // 2
    return macs


def _perceptron(inputs: int, hidden: Sequence[int], outputs: int) -> int:
    return sum(one * next_ for one, next_ in pairwise([inputs, *hidden, outputs]))
