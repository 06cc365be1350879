"""Site + system configuration + split → tensors on the training device.

Shapes: S scenes, L positions, n samples (scene-major), C × M × N fingerprint, D coordinates.

The target domain of a training run is a tensor of fingerprints without labels; validation and test samples are held
apart and reach evaluation alone.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.methods import LabelledBatch, UnlabelledBatch
from study.data.channels import channel_response, strongest_paths
from study.data.fingerprints import fingerprint
from study.data.path_table import PathTable
from study.data.site import Site
from study.data.split import Split
from study.data.system import SystemConfiguration, UniformPaths, condition_names
from study.errors import ConfigurationError

__all__ = ["DomainData", "EvaluationSet", "Frame", "SiteData", "TrainingData", "synthesize"]

# Samples synthesized at once: bounds the memory of the complex channels (64 × 64 × 8 B = 32 kB each).
CHUNK = 1024


@dataclass(frozen=True)
class Frame:
    """How metres become the dimensionless coordinates of a network: centred, and one scale for all axes.

    Attributes:
        center_m: [D], the middle of the site's user area.
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


@dataclass(frozen=True)
class TrainingData:
    """All that a training step may see: labelled source samples and unlabelled target samples."""

    source: LabelledBatch
    target: UnlabelledBatch


@dataclass(frozen=True)
class EvaluationSet:
    """Samples with labels, for validation or test alone.

    Attributes:
        fingerprint: [n, C, M, N].
        position_m: [n, D] in metres.
        condition: [n] int64.
        scene, index: [n] scene and position numbers.
    """

    fingerprint: Tensor
    position_m: Tensor
    condition: Tensor
    scene: Tensor
    index: Tensor


@dataclass(frozen=True)
class DomainData:
    """The parts of one trial's data."""

    training: TrainingData
    validation: EvaluationSet
    test: EvaluationSet
    frame: Frame
    conditions: tuple[str, ...]


class SiteData:
    """A site's paths and the fingerprints made of them, kept for the trials of one process.

    The fingerprints of the last system configuration stay on the device: a reused trial process synthesizes once.
    """

    def __init__(self, site: Site, device: torch.device | str = "cpu") -> None:
        self.site, self.device = site, torch.device(device)
        self._table: PathTable | None = None
        self._cached: tuple[Hashable, Tensor] | None = None

    @property
    def table(self) -> PathTable:
        """The path table, read on first use."""
        if self._table is None:
            self._table = self.site.read_paths()
        return self._table

    def prepare(
        self, system: SystemConfiguration, split: Split, *, coordinate_scale_m: float, coordinates: int = 2
    ) -> DomainData:
        """Fingerprints and labels of every part.

        Args:
            system: system configuration.
            split: which scenes are what.
            coordinate_scale_m: see `Frame`.
            coordinates: D; 2 leaves the height out.

        Raises:
            ConfigurationError: the site has too few scenes or paths for the configuration.
            DataError: the site's data cannot be read.
        """
        parts = split.scenes(self.site.scenes, f"site {self.site.name!r}")
        system.check_paths(self.site.max_paths, f"site {self.site.name!r}")
        images = self.fingerprints(system, split.data_seed)
        table = self.table
        positions = torch.from_numpy(np.ascontiguousarray(table.position_m[:, :coordinates])).to(self.device)
        center = (positions.amax(dim=0) + positions.amin(dim=0)) / 2
        frame = Frame(center, coordinate_scale_m)
        conditions = torch.from_numpy(table.condition.astype(np.int64)).to(self.device)
        if system.semantics == "binary":
            conditions = conditions.clamp_max(1)

        def part(scenes: range) -> EvaluationSet:
            count = len(scenes)
            return EvaluationSet(
                fingerprint=images[scenes.start : scenes.stop].flatten(0, 1),
                position_m=positions.repeat(count, 1),
                condition=conditions[scenes.start : scenes.stop].flatten(),
                scene=torch.arange(scenes.start, scenes.stop).repeat_interleave(len(positions)),
                index=torch.arange(len(positions)).repeat(count),
            )

        train, validation, test = part(parts.train), part(parts.validation), part(parts.test)
        source = LabelledBatch(train.fingerprint, frame.encode(train.position_m), train.condition)
        target = test if split.target == "test" else validation
        return DomainData(
            TrainingData(source, UnlabelledBatch(target.fingerprint)),
            validation,
            test,
            frame,
            condition_names(system.semantics),
        )

    def fingerprints(self, system: SystemConfiguration, data_seed: int) -> Tensor:
        """Fingerprints of every scene and position, [S, L, C, M, N] on the device."""
        # Semantics name the labels and do not touch the channels.
        identity = (system.model_copy(update={"semantics": "none"}), data_seed)
        if self._cached is None or self._cached[0] != identity:
            self._cached = None  # frees the old tensor before the new one is made
            self._cached = (identity, synthesize(self.table, system, data_seed, self.site.carrier_hz, self.device))
        return self._cached[1]


def synthesize(
    table: PathTable, system: SystemConfiguration, data_seed: int, carrier_hz: float, device: torch.device | str
) -> Tensor:
    """Fingerprints of a whole path table.

    Args:
        table: paths of S scenes × L positions.
        system: system configuration.
        data_seed: seed of the drawn numbers of paths.
        carrier_hz: the site's carrier frequency.
        device: where to compute and keep them.

    Returns:
        [S, L, C, M, N] float32.
    """
    scenes, positions, width = table.gain.shape
    if isinstance(system.paths, UniformPaths):
        low, high = system.paths.uniform
        # Drawn for the whole grid at once: the number of a channel does not depend on the split or on the device.
        drawn = np.random.default_rng(data_seed).integers(low, high, size=(scenes, positions), endpoint=True)
        count = torch.from_numpy(drawn.reshape(-1))
    else:
        count = torch.full((scenes * positions,), system.paths)
    columns = [
        torch.from_numpy(values.reshape(-1, width))
        for values in (table.gain, table.delay_s, table.zenith_rad, table.azimuth_rad)
    ]
    images: Tensor | None = None
    for start in range(0, scenes * positions, CHUNK):
        gain, delay, zenith, azimuth = (values[start : start + CHUNK].to(device) for values in columns)
        gain = strongest_paths(gain, count[start : start + CHUNK].to(device))
        csi = channel_response(
            gain,
            delay,
            zenith,
            azimuth,
            bandwidth_hz=system.bandwidth_mhz * 1e6,
            subcarriers=system.subcarriers,
            antennas=system.antennas,
            excess_delay=system.excess_delay,
        )
        part = fingerprint(
            csi, system.fingerprint, system.normalization, antennas=system.antennas, carrier_hz=carrier_hz
        )
        if images is None:
            images = part.new_empty((scenes * positions, *part.shape[1:]))
        images[start : start + CHUNK] = part
    if images is None:
        raise ConfigurationError("the site has no samples")
    return images.view(scenes, positions, *images.shape[1:])
