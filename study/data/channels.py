"""Ray-traced paths → channel frequency response, Eq. (1).

Shapes: B batch, P paths, My × Mz antennas of a uniform planar array in the y-z plane (M = My · Mz, row index
my · Mz + mz as in the Kronecker product of Eq. 6), N subcarriers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from study.data.system import ExcessDelay

__all__ = ["channel_response", "steering_vectors", "strongest_paths"]


def _phasor(cycles: Tensor) -> Tensor:
    """e^(j2π·cycles) in complex64 from float64 cycles.

    The whole cycles are taken off in float64: in float32 a phase of thousands of radians has lost its fraction.
    """
    angle = (torch.remainder(cycles, 1.0) * (2 * math.pi)).float()
    return torch.polar(torch.ones_like(angle), angle)


def _powers(cycles: Tensor, count: int) -> Tensor:
    """e^(j2π·k·cycles) for k = 0 … count − 1. [B, P] → [B, P, count].

    Built as a product of coarse and fine steps: about 2·√count sines and cosines each instead of count.
    """
    fine = max(1, round(count**0.5))
    coarse = -(-count // fine)
    steps = torch.arange(max(fine, coarse), dtype=torch.float64, device=cycles.device)
    small = _phasor(cycles[:, :, None] * steps[:fine])
    large = _phasor(cycles[:, :, None] * (steps[:coarse] * fine))
    return (large[:, :, :, None] * small[:, :, None, :]).flatten(2)[:, :, :count]


def steering_vectors(zenith_rad: Tensor, azimuth_rad: Tensor, antennas: tuple[int, int]) -> Tensor:
    """Array response of a half-wavelength planar array for each path, no beam squint.

    Args:
        zenith_rad: θ [B, P], from the +z axis.
        azimuth_rad: φ [B, P], from the +x axis.
        antennas: (My, Mz).

    Returns:
        [B, My · Mz, P] complex64.
    """
    theta, phi = zenith_rad.double(), azimuth_rad.double()
    # Half a wavelength between elements is half a cycle per unit direction cosine.
    per_element = (0.5 * theta.sin() * phi.sin(), 0.5 * theta.cos())
    y, z = (
        _phasor(torch.arange(count, dtype=torch.float64, device=theta.device)[:, None] * cycles[:, None, :])
        for count, cycles in zip(antennas, per_element, strict=True)
    )
    return (y[:, :, None, :] * z[:, None, :, :]).flatten(1, 2)


def channel_response(
    gain: Tensor,
    delay_s: Tensor,
    zenith_rad: Tensor,
    azimuth_rad: Tensor,
    *,
    bandwidth_hz: float,
    subcarriers: int,
    antennas: tuple[int, int],
    excess_delay: ExcessDelay = "wrap",
) -> Tensor:
    """Channel state information H of Eq. (1) on subcarriers k · bandwidth / N, k = 0 … N − 1.

    Args:
        gain: α [B, P] complex64; absent paths have gain 0.
        delay_s: τ [B, P] in seconds.
        zenith_rad, azimuth_rad: departure angles [B, P].
        bandwidth_hz: occupied bandwidth in Hz.
        subcarriers: N.
        antennas: (My, Mz).
        excess_delay: N subcarriers see delays modulo N / bandwidth. ``wrap`` lets later paths fold back, as in a
            receiver's DFT; ``drop`` leaves them out, as the DeepMIMO generator does.

    Returns:
        [B, My · Mz, N] complex64.
    """
    spacing_hz = bandwidth_hz / subcarriers
    cycles = delay_s.double() * spacing_hz
    if excess_delay == "drop":
        gain = torch.where(cycles < 1.0, gain, torch.zeros_like(gain))
    delays = _powers(-torch.remainder(cycles, 1.0), subcarriers)
    return torch.matmul(steering_vectors(zenith_rad, azimuth_rad, antennas) * gain[:, None, :], delays)


def strongest_paths(gain: Tensor, count: Tensor | int) -> Tensor:
    """Gains with all but the strongest ``count`` paths set to 0; paths are sorted, the strongest first.

    Args:
        gain: [B, P].
        count: one number for all, or [B].
    """
    index = torch.arange(gain.shape[1], device=gain.device)
    limit = count[:, None] if isinstance(count, Tensor) else count
    return torch.where(index < limit, gain, torch.zeros_like(gain))
