"""Reference rows: what can be said without a network.

Both are fitted on the same labelled samples as the networks and predict from the same fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from models.methods import LabelledBatch

__all__ = ["REFERENCES", "MeanPosition", "NearestNeighbours", "Reference"]


class Reference(Protocol):
    """A deterministic predictor that has no epochs."""

    name: ClassVar[str]

    def fit(self, source: LabelledBatch, conditions: int) -> None:
        """Remember the labelled samples; ``conditions`` is the number of classes K (0: no condition task)."""

    def predict(self, fingerprint: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, C, M, N] → positions [B, D] and classes [B] (None without that task)."""


class MeanPosition:
    """Always the mean position of the labelled samples, and their most frequent condition."""

    name: ClassVar[str] = "MEAN"

    def fit(self, source: LabelledBatch, conditions: int) -> None:
        """Remember the mean position and the most frequent condition."""
        self._position = source.position.mean(dim=0)
        self._condition = source.condition.bincount(minlength=conditions).argmax() if conditions else None

    def predict(self, fingerprint: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, C, M, N] → [B, D] and [B]."""
        count = fingerprint.shape[0]
        condition = None if self._condition is None else self._condition.expand(count)
        return self._position.expand(count, -1), condition


@dataclass
class NearestNeighbours:
    """k-nearest-neighbour fingerprinting: mean position and majority condition of the k closest fingerprints.

    Attributes:
        neighbours: k.
        chunk: samples whose distances are computed at once (bounds the memory).
    """

    name: ClassVar[str] = "KNN"
    neighbours: int = 3
    chunk: int = 512

    def fit(self, source: LabelledBatch, conditions: int) -> None:
        """Remember all labelled samples."""
        self._fingerprints = source.fingerprint.flatten(1)
        self._positions, self._labels, self._conditions = source.position, source.condition, conditions

    def predict(self, fingerprint: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, C, M, N] → [B, D] and [B]. A tie between conditions goes to the one with the smaller number."""
        k = min(self.neighbours, self._fingerprints.shape[0])
        nearest = torch.cat(
            [
                torch.cdist(part.flatten(1), self._fingerprints).topk(k, largest=False).indices
                for part in fingerprint.split(self.chunk)
            ]
        )
        position = self._positions[nearest].mean(dim=1)
        if not self._conditions:
            return position, None
        votes = nnf.one_hot(self._labels[nearest], self._conditions).sum(dim=1)
        return position, votes.argmax(dim=1)


REFERENCES: dict[str, type[MeanPosition] | type[NearestNeighbours]] = {
    MeanPosition.name: MeanPosition,
    NearestNeighbours.name: NearestNeighbours,
}
