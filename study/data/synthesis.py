"""Fingerprints of a site's samples, made when they are asked for, or made once and kept.

    PathSamples      paths on a device; indexing makes fingerprints
    Fingerprints     some samples of either kind, indexed like a tensor
    Channels         channel state information of some samples
    kept_or_made     which kind fits the memory
    shared_or_made   the same for the processes of a machine together

Shapes: R samples of the site that are used, n of one part, P paths, C × M × N fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cluster.check import free_machine_bytes
from study.data.channels import channel_response, strongest_paths
from study.data.fingerprints import fingerprint, normalize, path_profile, reference_amplitude
from study.data.shared_fingerprints import SharedFiles
from study.data.system import SystemConfiguration, fingerprint_shape

__all__ = [
    "Channels",
    "Fingerprints",
    "PathSamples",
    "free_memory_bytes",
    "kept_or_made",
    "shared_or_made",
    "synthesize",
]

# Samples made at once: on a CPU what a core's cache holds, on a GPU what keeps it busy.
_CHUNK, _GPU_CHUNK = 128, 4096


def synthesize(
    gain: Tensor,
    delay_s: Tensor,
    zenith_rad: Tensor,
    azimuth_rad: Tensor,
    system: SystemConfiguration,
    carrier_hz: float,
    out: Tensor | None = None,
) -> Tensor:
    """Paths → fingerprints, all at once.

    Args:
        gain: α [B, P] complex64; absent paths have gain 0.
        delay_s, zenith_rad, azimuth_rad: delays in seconds and departure angles [B, P].
        system: system configuration; its number of paths is not looked at.
        carrier_hz: the site's carrier frequency.
        out: where to put the result.

    Returns:
        [B, C, M, N] float32.
    """
    if system.fingerprint == "adp":
        relative = gain / reference_amplitude(carrier_hz)
        profile = path_profile(relative, delay_s, zenith_rad, azimuth_rad, **_array(system))
        return normalize(profile[:, None], system.normalization, out)
    csi = channel_response(gain, delay_s, zenith_rad, azimuth_rad, **_array(system))
    image = fingerprint(csi, system.fingerprint, system.normalization, antennas=system.antennas, carrier_hz=carrier_hz)
    return image if out is None else out.copy_(image)


def _array(system: SystemConfiguration) -> dict[str, Any]:
    """What makes channels of paths."""
    return {
        "bandwidth_hz": system.bandwidth_mhz * 1e6,
        "subcarriers": system.subcarriers,
        "antennas": system.antennas,
        "excess_delay": system.excess_delay,
    }


@dataclass(frozen=True)
class PathSamples:
    """Paths of R samples on a device; indexing makes their fingerprints.

    Attributes:
        gain: [R, P] complex64.
        delay_s, zenith_rad, azimuth_rad: [R, P] float32.
        paths: how many of the strongest paths each sample has, [R].
        system: system configuration.
        carrier_hz: the site's carrier frequency.
    """

    gain: Tensor
    delay_s: Tensor
    zenith_rad: Tensor
    azimuth_rad: Tensor
    paths: Tensor
    system: SystemConfiguration
    carrier_hz: float

    @property
    def shape(self) -> torch.Size:
        """Of all fingerprints, [R, C, M, N]."""
        return torch.Size((len(self.gain), *fingerprint_shape(self.system)))

    @property
    def fingerprint_bytes(self) -> int:
        """Memory that all fingerprints would take."""
        return self.shape.numel() * 4

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Fingerprints of some samples, [n, C, M, N] float32."""
        images = self.gain.new_empty((len(rows), *self.shape[1:]), dtype=torch.float32)
        chunk = _CHUNK if self.gain.device.type == "cpu" else _GPU_CHUNK
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            synthesize(
                strongest_paths(self.gain[part], self.paths[part]),
                self.delay_s[part],
                self.zenith_rad[part],
                self.azimuth_rad[part],
                self.system,
                self.carrier_hz,
                out=images[start : start + chunk],
            )
        return images

    def channels(self, rows: Tensor) -> Tensor:
        """Channel state information H of some samples, Eq. (1), [n, M, N] complex64."""
        return channel_response(
            strongest_paths(self.gain[rows], self.paths[rows]),
            self.delay_s[rows],
            self.zenith_rad[rows],
            self.azimuth_rad[rows],
            **_array(self.system),
        )


class Fingerprints:
    """Some samples of a larger number, indexed like a tensor [n, C, M, N]. Nothing is copied before it is asked for.

    Args:
        source: all samples, as fingerprints [R, C, M, N] or as paths.
        rows: which of them, [n].
    """

    def __init__(self, source: Tensor | PathSamples, rows: Tensor) -> None:
        self._source, self._rows = source, rows
        self.shape = torch.Size((len(rows), *source.shape[1:]))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Fingerprints of some samples, [m, C, M, N]."""
        return self._source[self._rows[index]]

    def split(self, size: int) -> Iterator[Tensor]:
        """All samples in their order, ``size`` at a time."""
        for rows in self._rows.split(size):
            yield self._source[rows]

    def take(self, index: Tensor) -> Fingerprints:
        """Some of the samples; nothing is made yet."""
        return Fingerprints(self._source, self._rows[index])


class Channels:
    """Channel state information H of some samples, [n, M, N] complex64, made when it is asked for and not kept.

    Whatever the fingerprint is: these are the channels that it is made of, with the same drawn numbers of paths.

    Args:
        source: the paths of all samples.
        rows: which of them, [n].
    """

    def __init__(self, source: PathSamples, rows: Tensor) -> None:
        self._source, self._rows = source, rows
        elements = source.system.antennas[0] * source.system.antennas[1]
        self.shape = torch.Size((len(rows), elements, source.system.subcarriers))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice) -> Channels:
        """Some of the samples; nothing is made yet."""
        return Channels(self._source, self._rows[index])

    def split(self, size: int) -> Iterator[Tensor]:
        """All samples in their order, ``size`` at a time."""
        for rows in self._rows.split(size):
            yield self._source.channels(rows)


def kept_or_made(samples: PathSamples, budget_bytes: int) -> Tensor | PathSamples:
    """All fingerprints, made once, where they fit the budget; otherwise the paths, which make them for each batch.

    Paths are about 30 times smaller than 64 × 64 fingerprints. Making a batch costs less than training on it.
    """
    if samples.fingerprint_bytes > budget_bytes:
        return samples
    return samples[torch.arange(len(samples.gain), device=samples.gain.device)]


def shared_or_made(samples: PathSamples, files: SharedFiles, name: str, room_bytes: int) -> Tensor | PathSamples:
    """All fingerprints as one copy for all processes of this machine, or the paths where they do not fit.

    The values are those of `kept_or_made`, bit for bit: they are made of the same chunks.

    Args:
        samples: the paths, on the CPU.
        files: of this machine.
        name: what the processes find them by.
        room_bytes: memory for the shared fingerprints of all system configurations that are in use.

    Raises:
        DataError: they cannot be shared.
    """

    def pieces() -> Iterator[memoryview]:
        for rows in torch.arange(len(samples.gain)).split(_CHUNK):
            yield samples[rows].numpy().data

    mapped = files.fetch(name, samples.fingerprint_bytes, pieces, room_bytes)
    return samples if mapped is None else torch.frombuffer(mapped, dtype=torch.float32).view(samples.shape)


def free_memory_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    if device.type != "cuda":
        return free_machine_bytes()
    # What torch has taken from the driver and does not use is free too.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + kept)
