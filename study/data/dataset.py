"""Site + system configuration + split → samples on the training device.

Shapes: S scenes, L positions, n samples (scene by scene), C × M × N fingerprint, D coordinates.

The target domain of a training run is fingerprints without labels; validation and test samples are held apart and reach
evaluation alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.model import FINGERPRINT_SHARE
from study.data.path_table import PathTable
from study.data.shared_fingerprints import SharedFiles, Sharing
from study.data.site import Site
from study.data.split import Part, Split, SplitParts
from study.data.synthesis import (
    Channels,
    Fingerprints,
    PathSamples,
    free_memory_bytes,
    kept_or_made,
    shared_or_made,
)
from study.data.system import ExcessDelay, SystemConfiguration, UniformPaths, condition_names
from study.errors import DataError

__all__ = [
    "ChannelData",
    "DomainData",
    "EvaluationSet",
    "Frame",
    "LabelledChannels",
    "LabelledSamples",
    "SiteData",
    "TrainingData",
    "UnlabelledSamples",
    "path_samples",
]

# Where fingerprints are: in one copy for all trials of the machine, in this process's memory, or nowhere.
Whereabouts = Literal["shared", "kept", "per batch"]


@dataclass(frozen=True)
class Frame:
    """How metres become the dimensionless coordinates of a network: centred, and one scale for all axes.

    Attributes:
        center_m: [D], the middle of the labelled positions.
        scale_m: metres per unit.
    """

    center_m: Tensor
    scale_m: float

    def encode(self, position_m: Tensor) -> Tensor:
        """Metres [n, D] → dimensionless."""
        return (position_m - self.center_m) / self.scale_m

    def decode(self, position: Tensor) -> Tensor:
        """Dimensionless [n, D] → metres."""
        return position * self.scale_m + self.center_m


class LabelledSamples(NamedTuple):
    """Source samples: fingerprint [n, C, M, N], position [n, D] (dimensionless), condition [n] (int64)."""

    fingerprint: Fingerprints
    position: Tensor
    condition: Tensor


class UnlabelledSamples(NamedTuple):
    """Target samples: fingerprint [n, C, M, N], and nothing else."""

    fingerprint: Fingerprints


@dataclass(frozen=True)
class TrainingData:
    """All that a training step may see: labelled source samples and unlabelled target samples."""

    source: LabelledSamples
    target: UnlabelledSamples


@dataclass(frozen=True)
class EvaluationSet:
    """Samples with labels, for validation or test alone.

    Attributes:
        fingerprint: [n, C, M, N].
        position_m: [n, D] in metres.
        condition: [n] int64.
        scene, index: [n] scene and position numbers.
    """

    fingerprint: Fingerprints
    position_m: Tensor
    condition: Tensor
    scene: Tensor
    index: Tensor


@dataclass(frozen=True)
class DomainData:
    """The parts of one trial's data.

    Attributes:
        training, validation, test: the samples.
        source_check: labelled samples of the source domain that measure its risk: those of the training scenes that
            were held back, or else the ones that were trained on.
        source_held_out: which of the two.
        frame: how metres become coordinates.
        conditions: names of the classes.
        fingerprints: whether all are in memory, of the machine's trials together or of this one, or are made for each
            batch.
    """

    training: TrainingData
    validation: EvaluationSet
    test: EvaluationSet
    source_check: EvaluationSet
    source_held_out: bool
    frame: Frame
    conditions: tuple[str, ...]
    fingerprints: Whereabouts


class LabelledChannels(NamedTuple):
    """Source samples for a reference that reads channels, and what is known of the base station and the array.

    Attributes:
        csi: H [n, M, N].
        position_m: [n, 3] in metres.
        condition: [n] int64.
        base_station_m: (x, y, z).
        antennas: (My, Mz).
        bandwidth_hz: occupied bandwidth in Hz.
        excess_delay: what becomes of paths later than N / bandwidth.
    """

    csi: Channels
    position_m: Tensor
    condition: Tensor
    base_station_m: tuple[float, float, float]
    antennas: tuple[int, int]
    bandwidth_hz: float
    excess_delay: ExcessDelay


@dataclass(frozen=True)
class ChannelData:
    """The channels of one trial's parts, in the order of its samples; those to predict from have no labels."""

    training: LabelledChannels
    validation: Channels
    test: Channels


class _Used(NamedTuple):
    """What a split uses of a site.

    Attributes:
        table: the paths of at least these scenes.
        scenes: scene numbers of all parts.
        parts: the split.
        positions: position numbers of all parts.
    """

    table: PathTable
    scenes: list[int]
    parts: SplitParts
    positions: NDArray[np.int64]

    def rows(self, part: Part) -> Tensor:
        """Where a part's samples are among all used ones, which are in the order of scene, then position."""
        at_scene = np.searchsorted(self.scenes, part.scenes)
        at_position = np.searchsorted(self.positions, part.positions)
        return torch.from_numpy((at_scene[:, None] * len(self.positions) + at_position).reshape(-1))


class _Source(NamedTuple):
    """What fingerprints are taken from.

    Attributes:
        identity: what they are of.
        samples: fingerprints, or the paths that make them.
        where: see `Whereabouts`.
    """

    identity: Hashable
    samples: Tensor | PathSamples
    where: Whereabouts


class SiteData:
    """A site's paths and the fingerprints made of them, kept for the trials of one process.

    The paths of the scenes in use stay in memory, and the fingerprints of the last system configuration on the device
    if they fit: a reused trial process reads and synthesizes once. On a CPU the trial processes of a run can share
    them: then a machine has one copy, whoever made it, and together they may take what all these processes may.

    Args:
        site: the site.
        device: where to train.
        fingerprint_bytes: memory that fingerprints may take; by default `FINGERPRINT_SHARE` of this process's share of
            what is free when they are made.
        device_share: this process's share of the device.
        sharing: with whom to share them, on a CPU; without it they are this object's own.

    Attributes:
        note: why the fingerprints of the last trial could not be shared; None where they are, or need not be.
    """

    def __init__(
        self,
        site: Site,
        device: torch.device | str = "cpu",
        *,
        fingerprint_bytes: int | None = None,
        device_share: float = 1.0,
        sharing: Sharing | None = None,
    ) -> None:
        self.site, self.device = site, torch.device(device)
        self._budget, self._share = fingerprint_bytes, device_share
        self._table: PathTable | None = None
        self._source: _Source | None = None
        self._files: SharedFiles | None = None
        self._sharers = 1 if sharing is None else sharing.processes
        self.note: str | None = None
        if sharing is not None and self.device.type == "cpu":
            try:
                self._files = SharedFiles(sharing)
            except DataError as error:
                self.note = _not_shared(error)

    def prepare(
        self, system: SystemConfiguration, split: Split, *, coordinate_scale_m: float, coordinates: int = 2
    ) -> DomainData:
        """Fingerprints and labels of every part.

        Args:
            system: system configuration.
            split: which scenes and positions are what.
            coordinate_scale_m: see `Frame`.
            coordinates: D; 2 leaves the height out.

        Raises:
            ConfigurationError: the site has too few scenes, positions or paths for the configuration.
            DataError: the site's data cannot be read.
        """
        used = self._used(system, split)
        parts, (_, source, where) = used.parts, self._source_of(system, split.data_seed, used)
        positions, conditions = self._positions(used, coordinates), self._conditions(used, system)

        def samples(part: Part) -> EvaluationSet:
            rows = used.rows(part).to(self.device)
            return EvaluationSet(
                fingerprint=Fingerprints(source, rows),
                position_m=positions[rows % len(used.positions)],
                condition=conditions[rows],
                scene=torch.tensor(part.scenes).repeat_interleave(len(part.positions)),
                index=torch.from_numpy(part.positions).repeat(len(part.scenes)),
            )

        train = samples(parts.source)
        # Of the labelled samples alone: where the test positions are must not reach training.
        frame = Frame((train.position_m.amax(dim=0) + train.position_m.amin(dim=0)) / 2, coordinate_scale_m)
        return DomainData(
            TrainingData(
                LabelledSamples(train.fingerprint, frame.encode(train.position_m), train.condition),
                UnlabelledSamples(samples(parts.target).fingerprint),
            ),
            samples(parts.validation),
            samples(parts.test),
            samples(parts.held_back) if parts.held_back.scenes else train,
            bool(parts.held_back.scenes),
            frame,
            condition_names(system.semantics),
            fingerprints=where,
        )

    def channels(self, system: SystemConfiguration, split: Split) -> ChannelData:
        """Channel state information of every part, for references that read it instead of fingerprints.

        Args:
            system: system configuration; its fingerprint and normalization are not looked at.
            split: which scenes and positions are what.

        Raises:
            ConfigurationError: the site has too few scenes, positions or paths for the configuration.
            DataError: the site's data cannot be read.
        """
        used = self._used(system, split)
        paths = self._paths_of(system, split.data_seed, used)
        train = used.rows(used.parts.source).to(self.device)
        return ChannelData(
            LabelledChannels(
                Channels(paths, train),
                self._positions(used, 3)[train % len(used.positions)],
                self._conditions(used, system)[train],
                self.site.base_station_m,
                system.antennas,
                system.bandwidth_mhz * 1e6,
                system.excess_delay,
            ),
            Channels(paths, used.rows(used.parts.validation).to(self.device)),
            Channels(paths, used.rows(used.parts.test).to(self.device)),
        )

    def _used(self, system: SystemConfiguration, split: Split) -> _Used:
        """The scenes and positions that a split uses, read.

        Raises:
            ConfigurationError: the site has too few scenes, positions or paths for the configuration.
            DataError: the site's data cannot be read.
        """
        name = f"site {self.site.name!r}"
        system.check_paths(self.site.max_paths, name)
        scenes = sorted({scene for part in split.scenes(self.site.scenes, name) for scene in part})
        table = self._read(scenes)
        parts = split.parts(self.site.scenes, table.position_m, name)
        return _Used(table, scenes, parts, np.unique(np.concatenate([part.positions for part in parts])))

    def _positions(self, used: _Used, coordinates: int) -> Tensor:
        """Of the used positions, in metres, [L, D]."""
        position = np.ascontiguousarray(used.table.position_m[used.positions, :coordinates])
        return torch.from_numpy(position).to(self.device)

    def _conditions(self, used: _Used, system: SystemConfiguration) -> Tensor:
        """Of the used positions in the used scenes, scene by scene, [R] int64."""
        at_scene = np.searchsorted(used.table.scene, used.scenes)
        conditions = torch.from_numpy(used.table.condition[at_scene][:, used.positions].astype(np.int64))
        conditions = conditions.to(self.device).flatten()
        return conditions.clamp_max(1) if system.semantics == "binary" else conditions

    def _read(self, scenes: Sequence[int]) -> PathTable:
        """The paths of at least these scenes."""
        known = [] if self._table is None else self._table.scene.tolist()
        if self._table is None or not set(scenes) <= set(known):
            self._table = self.site.read_paths({*known, *scenes})
        return self._table

    def _source_of(self, system: SystemConfiguration, data_seed: int, used: _Used) -> _Source:
        """Fingerprints of the used positions in the scenes, or the paths that make them, scene by scene."""
        # Semantics name the labels and do not touch the channels.
        system = system.model_copy(update={"semantics": "none"})
        identity = (system, data_seed, tuple(used.scenes), used.positions.tobytes())
        if self._source is None or self._source.identity != identity:
            self._source = None  # frees the old tensor before the new one is made
            self._source = self._made(identity, self._paths_of(system, data_seed, used))
        elif self._files is not None and isinstance(self._source.samples, PathSamples):
            # There was no room beside what other trials used then.
            self._source = self._made(identity, self._source.samples)
        return self._source

    def _made(self, identity: tuple[SystemConfiguration, int, tuple[int, ...], bytes], paths: PathSamples) -> _Source:
        """Fingerprints of some paths, where they fit."""
        if self._files is not None:
            self.note = None
            try:
                shared = shared_or_made(paths, self._files, self._name_of(*identity), self._room_bytes())
                return _Source(identity, shared, "shared" if isinstance(shared, Tensor) else "per batch")
            except DataError as error:
                self.note = _not_shared(error)
        budget = self._budget
        if budget is None:
            budget = int(FINGERPRINT_SHARE * self._share * free_memory_bytes(self.device))
        kept = kept_or_made(paths, budget)
        return _Source(identity, kept, "kept" if isinstance(kept, Tensor) else "per batch")

    def _room_bytes(self) -> int:
        """Memory that shared fingerprints may take: what all processes of this machine may take together."""
        if self._budget is not None:
            return self._sharers * self._budget
        return int(FINGERPRINT_SHARE * free_memory_bytes(self.device))

    def _name_of(self, system: SystemConfiguration, data_seed: int, scenes: tuple[int, ...], positions: bytes) -> str:
        """What the processes of a run find the same fingerprints by."""
        content = [system.model_dump(mode="json"), data_seed, scenes, self.site.data_hash]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode() + b"\0" + positions).hexdigest()

    def _paths_of(self, system: SystemConfiguration, data_seed: int, used: _Used) -> PathSamples:
        """The paths of the used positions in the scenes, scene by scene."""
        return path_samples(
            used.table, system, data_seed, self.site.carrier_hz, self.device, used.scenes, used.positions
        )


def _not_shared(error: DataError) -> str:
    """A note of one line for the trial's row."""
    return f"{error.what} ({error.where}), so that each trial needs memory for its own: {error.fix}"


def path_samples(
    table: PathTable,
    system: SystemConfiguration,
    data_seed: int,
    carrier_hz: float,
    device: torch.device | str,
    scenes: Sequence[int] | None = None,
    positions: NDArray[np.int64] | None = None,
) -> PathSamples:
    """The paths of some scenes and positions on a device, scene by scene.

    Args:
        table: the site's paths.
        system: system configuration.
        data_seed: seed of the drawn numbers of paths.
        carrier_hz: the site's carrier frequency.
        device: where to keep them and to make fingerprints.
        scenes: scene numbers; all by default.
        positions: position numbers; all by default.
    """
    scenes = table.scene.tolist() if scenes is None else scenes
    positions = np.arange(len(table.position_m)) if positions is None else positions
    at = np.ix_(np.searchsorted(table.scene, scenes), positions)
    if isinstance(system.paths, UniformPaths):
        low, most = system.paths.uniform
        # Drawn for each scene's whole grid: the number of a channel does not depend on the split or on the device.
        drawn = [
            np.random.default_rng((data_seed, scene)).integers(low, most, len(table.position_m), endpoint=True)
            for scene in scenes
        ]
        count = torch.from_numpy(np.stack(drawn)[:, positions].reshape(-1))
    else:
        most = system.paths
        count = torch.full((len(scenes) * len(positions),), most)
    gain, delay, zenith, azimuth = (
        torch.from_numpy(values[at][..., :most].reshape(len(count), -1)).to(device)
        for values in (table.gain, table.delay_s, table.zenith_rad, table.azimuth_rad)
    )
    return PathSamples(gain, delay, zenith, azimuth, count.to(device), system, carrier_hz)
