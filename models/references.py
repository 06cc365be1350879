"""Reference rows: what can be said without a network.

All are fitted on the same labelled samples as the networks. MEAN and KNN predict from the same fingerprint, MODEL from
the channels that the fingerprint is made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from models.model_based import ModelBased

__all__ = ["REFERENCES", "MeanPosition", "NearestNeighbours", "Reference"]


_CHUNK_VALUES = 2**24  # 64 MB in float32


class FingerprintSet(Protocol):
    """Fingerprints [n, C, M, N] of which some can be had at a time; a tensor is one."""

    @property
    def shape(self) -> torch.Size:
        """[n, C, M, N]."""

    def split(self, size: int, /) -> Iterable[Tensor]:
        """All of them in their order, ``size`` at a time."""


class LabelledSet(Protocol):
    """Labelled samples: fingerprint [n, C, M, N], position [n, D], condition [n]."""

    @property
    def fingerprint(self) -> FingerprintSet:
        """Fingerprints [n, C, M, N]."""

    @property
    def position(self) -> Tensor:
        """Positions [n, D]."""

    @property
    def condition(self) -> Tensor:
        """Classes [n]."""


class Reference(Protocol):
    """A deterministic predictor that has no epochs and reads fingerprints."""

    name: ClassVar[str]

    def fit(self, source: LabelledSet, conditions: int) -> None:
        """Remember the labelled samples; ``conditions`` is the number of classes K (0: no condition task)."""

    def predict(self, fingerprint: FingerprintSet) -> tuple[Tensor, Tensor | None]:
        """[B, C, M, N] → positions [B, D] and classes [B] (None without that task)."""


class MeanPosition:
    """Always the mean position of the labelled samples, and their most frequent condition."""

    name: ClassVar[str] = "MEAN"

    def fit(self, source: LabelledSet, conditions: int) -> None:
        """Remember the mean position and the most frequent condition."""
        self._position = source.position.mean(dim=0)
        self._condition = source.condition.bincount(minlength=conditions).argmax() if conditions else None

    def predict(self, fingerprint: FingerprintSet) -> tuple[Tensor, Tensor | None]:
        """[B, C, M, N] → [B, D] and [B]."""
        count = fingerprint.shape[0]
        condition = None if self._condition is None else self._condition.expand(count)
        return self._position.expand(count, -1), condition


@dataclass
class NearestNeighbours:
    """k-nearest-neighbour fingerprinting: mean position and majority condition of the k closest fingerprints.

    Attributes:
        neighbours: k.
        chunk: samples that are compared with as many labelled ones at once; by default as many as take 64 MB.
    """

    name: ClassVar[str] = "KNN"
    neighbours: int = 3
    chunk: int | None = None

    def fit(self, source: LabelledSet, conditions: int) -> None:
        """Remember all labelled samples."""
        self._fingerprints = source.fingerprint
        self._positions, self._labels, self._conditions = source.position, source.condition, conditions

    def predict(self, fingerprint: FingerprintSet) -> tuple[Tensor, Tensor | None]:
        """[B, C, M, N] → [B, D] and [B]. A tie between conditions goes to the one with the smaller number."""
        size = self._size()
        nearest = torch.cat([self._nearest(part.flatten(1), size) for part in fingerprint.split(size)])
        position = self._positions[nearest].mean(dim=1)
        if not self._conditions:
            return position, None
        votes = nnf.one_hot(self._labels[nearest], self._conditions).sum(dim=1)
        return position, votes.argmax(dim=1)

    def _size(self) -> int:
        return self.chunk or max(1, min(4096, _CHUNK_VALUES // self._fingerprints.shape[1:].numel()))

    def _nearest(self, samples: Tensor, size: int) -> Tensor:
        """Numbers of the k closest labelled samples, closest first. [B, C · M · N] → [B, k]."""
        start = 0
        distance = samples.new_empty((len(samples), 0))
        number = torch.empty((len(samples), 0), dtype=torch.int64, device=samples.device)
        for part in self._fingerprints.split(size):
            found = torch.cdist(samples, part.flatten(1))
            near, index = found.topk(min(self.neighbours, found.shape[1]), largest=False)
            distance, number = torch.cat([distance, near], dim=1), torch.cat([number, index + start], dim=1)
            distance, best = distance.topk(min(self.neighbours, distance.shape[1]), largest=False)
            number = number.gather(1, best)
            start += len(part)
        return number


REFERENCES: dict[str, type[MeanPosition] | type[NearestNeighbours] | type[ModelBased]] = {
    MeanPosition.name: MeanPosition,
    NearestNeighbours.name: NearestNeighbours,
    ModelBased.name: ModelBased,
}
