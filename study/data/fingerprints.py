"""Channel state information → fingerprint: the input of the networks.

Shapes: B batch, M = My · Mz antennas, N subcarriers (delay bins after the transform), C channels of the fingerprint.
Everything is per sample: nothing is estimated from a data set, so nothing can leak between splits.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from study.data.system import Fingerprint, Normalization

__all__ = ["angle_delay_profile", "fingerprint", "normalize"]

# Unnormalized fingerprints are relative to free space here: near 1, without a look at the data.
REFERENCE_DISTANCE_M = 100.0
SPEED_OF_LIGHT_M_S = 299_792_458.0


@lru_cache(maxsize=16)
def _beams(count: int, device: torch.device) -> Tensor:
    """V_M of Eq. (6): [V]_{i,k} = M^(−1/2) e^(−j2π i (k − M/2) / M), complex64 [M, M]."""
    i = torch.arange(count, dtype=torch.float64)
    cycles = torch.remainder(i[:, None] * (i - count / 2) / count, 1.0)
    return torch.polar(torch.full_like(cycles, count**-0.5), -2 * math.pi * cycles).to(torch.complex64).to(device)


@lru_cache(maxsize=16)
def _delays(count: int, device: torch.device) -> Tensor:
    """F* of Eq. (6), the conjugate of the unitary DFT matrix, complex64 [N, N]."""
    i = torch.arange(count, dtype=torch.float64)
    cycles = torch.remainder(i[:, None] * i / count, 1.0)
    return torch.polar(torch.full_like(cycles, count**-0.5), 2 * math.pi * cycles).to(torch.complex64).to(device)


def angle_delay_profile(csi: Tensor, antennas: tuple[int, int]) -> Tensor:
    """Angle-delay power profile X = G ⊙ G*, Eqs. (5, 6).

    The Kronecker product is applied as two small products, which is faster than one M × M product and than an FFT.

    Args:
        csi: H [B, My · Mz, N].
        antennas: (My, Mz).

    Returns:
        [B, My · Mz, N] float32, ≥ 0.
    """
    rows, columns = antennas
    samples, elements, subcarriers = csi.shape
    response = torch.matmul(csi, _delays(subcarriers, csi.device))
    response = response.view(samples, rows, columns * subcarriers)
    response = torch.matmul(_beams(rows, csi.device).mH, response)
    response = response.view(samples, rows, columns, subcarriers)
    response = torch.matmul(_beams(columns, csi.device).mH, response)
    power = torch.view_as_real(response).square().sum(dim=-1)
    return power.view(samples, elements, subcarriers) / (elements * subcarriers)


def _sample_covariance(csi: Tensor) -> Tensor:
    """Sample covariance over the subcarriers, H Hᴴ / N. [B, M, N] → [B, M, M] complex64."""
    return torch.matmul(csi, csi.mH) / csi.shape[-1]


def normalize(x: Tensor, how: Normalization) -> Tensor:
    """Scale each sample so that its maximum magnitude is 1 per row, per column or as a whole.

    The magnitude is taken over the channels (real and imaginary part). A row or column without any power stays 0.

    Args:
        x: [B, C, M, N].
        how: ``antenna`` (each row), ``subcarrier`` (each column), ``matrix``, or ``none``.
    """
    if how == "none":
        return x
    magnitude = x.abs() if x.shape[1] == 1 else x.square().sum(dim=1, keepdim=True).sqrt()
    over = {"antenna": (-1,), "subcarrier": (-2,), "matrix": (-2, -1)}[how]
    largest = magnitude.amax(dim=over, keepdim=True)
    return torch.where(largest > 0, x / largest.clamp_min(torch.finfo(x.dtype).tiny), torch.zeros_like(x))


def fingerprint(
    csi: Tensor, kind: Fingerprint, normalization: Normalization, *, antennas: tuple[int, int], carrier_hz: float
) -> Tensor:
    """The network's input.

    Args:
        csi: H [B, My · Mz, N] complex64.
        kind: ``adp`` (Eqs. 5, 6), ``rcsi`` (|H|), ``rcsi_stacked`` (real and imaginary part) or ``scm`` (sample
            covariance, real and imaginary part).
        normalization: see `normalize`.
        antennas: (My, Mz).
        carrier_hz: for the constant reference level, free space at 100 m, which only ``none`` lets through.

    Returns:
        [B, C, M, N] float32 (``scm``: [B, 2, M, M]).
    """
    reference = SPEED_OF_LIGHT_M_S / carrier_hz / (4 * math.pi * REFERENCE_DISTANCE_M)
    csi = csi / reference
    if kind == "adp":
        image = angle_delay_profile(csi, antennas)[:, None]
    elif kind == "rcsi":
        image = csi.abs()[:, None]
    else:
        matrix = _sample_covariance(csi) if kind == "scm" else csi
        image = torch.view_as_real(matrix).movedim(-1, 1)
    return normalize(image, normalization).contiguous()
