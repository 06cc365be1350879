"""Fingerprints: the input of the networks, from channel state information or straight from the paths.

    fingerprint            of channel state information, any kind
    path_profile           angle-delay profile of paths, without their channel state information
    normalize              scale each sample

Shapes: B batch, M = My · Mz antennas, N subcarriers (delay bins after the transform), C channels of the fingerprint.
Everything is per sample: nothing is estimated from a data set, so nothing can leak between splits.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from scipy.constants import speed_of_light
from torch import Tensor

from study.data.system import ExcessDelay, Fingerprint, Normalization

__all__ = ["angle_delay_profile", "fingerprint", "normalize", "path_profile", "reference_amplitude"]

# Unnormalized fingerprints are relative to free space here: near 1, without a look at the data.
REFERENCE_DISTANCE_M = 100.0


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


def path_profile(
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
    """`angle_delay_profile` of `channel_response`, without making the channel.

    Along each axis of the array and along the subcarriers a path is a geometric series, and so is its transform: a
    Dirichlet kernel, centred on the path's angle or delay. Its phase is one for all paths in each bin, which the power
    does not see, and one for the path in all bins, which goes into the gain. What is left is real: a profile costs one
    real matrix product of the paths' beams and delays.

    Args:
        gain: α [B, P] complex64; absent paths have gain 0.
        delay_s: τ [B, P] in seconds.
        zenith_rad, azimuth_rad: departure angles [B, P].
        bandwidth_hz: occupied bandwidth in Hz.
        subcarriers: N.
        antennas: (My, Mz).
        excess_delay: see `channel_response`.

    Returns:
        [B, My · Mz, N] float32, ≥ 0.
    """
    samples = gain.shape[0]
    theta, phi = zenith_rad.double(), azimuth_rad.double()
    delay_cycles = delay_s.double() * (bandwidth_hz / subcarriers)
    if excess_delay == "drop":
        gain = torch.where(delay_cycles < 1.0, gain, torch.zeros_like(gain))
    # Beam k of V looks at (k − M/2)/M cycles per element, a path arrives from half its direction cosine.
    y, y_scale, y_turn = _dirichlet(0.5 - 0.5 * theta.sin() * phi.sin(), antennas[0])
    z, z_scale, z_turn = _dirichlet(0.5 - 0.5 * theta.cos(), antennas[1])
    delay, delay_scale, delay_turn = _dirichlet(delay_cycles, subcarriers)
    # Every transform is unitary, and Eq. (5) divides the power by M · N.
    scale = (y_scale * z_scale) * (delay_scale / (antennas[0] * antennas[1] * subcarriers))
    turn = (torch.remainder(y_turn + z_turn + delay_turn, 1.0) * (2 * math.pi)).float()
    weight = gain * torch.complex(scale * turn.cos(), scale * turn.sin())
    y_weighted = torch.view_as_real(weight).transpose(1, 2)[:, :, None, :] * y.transpose(1, 2)[:, None]  # [B, 2, My, P]
    beams = y_weighted[:, :, :, None, :] * z.transpose(1, 2)[:, None, None]  # [B, 2, My, Mz, P]
    response = torch.bmm(beams.flatten(1, 3), delay).view(samples, 2, -1, subcarriers)
    real, imaginary = response[:, 0], response[:, 1]
    return real.square_().addcmul_(imaginary, imaginary)


def _dirichlet(cycles: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_n e^(j2πn(k/count − cycles)) over n = 0 … count − 1, as kernel · scale · e^(j2π·turn).

    With δ = count · cycles the sum is e^(jπ(count−1)(k−δ)/count) · sin π(k−δ) / sin(π(k−δ)/count). The factors that
    depend on the bin k alone are left out. With i = round δ and ε = δ − i, sin π(k−δ) is ± sin πε for all bins, and
    sin(π(k−δ)/count) is sin(π(k−i)/count) cos(πε/count) − cos(π(k−i)/count) sin(πε/count): two tables and a tangent.

    Args:
        cycles: [B, P] float64.
        count: number of terms and of bins.

    Returns:
        The kernel [B, P, count] and the path's scale [B, P] in float32, and its turn [B, P] in float64.
    """
    # δ in −½ … count − ½, so that i is a bin.
    centre = cycles * count
    centre = centre - torch.floor((centre + 0.5) / count) * count
    nearest = centre.round().clamp_max(count - 1)
    # From float64: on a bin both sines are as small as ε. At ε = 0 their ratio has a limit, which is as near as this.
    offset = (centre - nearest).float()
    offset = torch.where(offset.abs() < 1e-9, torch.full_like(offset, 1e-9), offset)
    sine, cosine = _bin_angles(count, cycles.device)
    row = nearest.long().flatten()
    shape = (*cycles.shape, count)
    angle = offset * (math.pi / count)
    kernel = torch.addcmul(
        sine.index_select(0, row).view(shape),
        cosine.index_select(0, row).view(shape),
        angle.tan()[:, :, None],
        value=-1,
    )
    scale = (offset * -math.pi).sin() / angle.cos()
    return kernel.reciprocal_(), scale, 0.5 * nearest - centre * ((count - 1) / (2 * count))


@lru_cache(maxsize=16)
def _bin_angles(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sine and cosine of π(k − i)/count, float32 [count (i), count (k)]."""
    bins = torch.arange(count, dtype=torch.float64)
    angle = (bins[None, :] - bins[:, None]) * (math.pi / count)
    return angle.sin().float().to(device), angle.cos().float().to(device)


def _sample_covariance(csi: Tensor) -> Tensor:
    """Sample covariance over the subcarriers, H Hᴴ / N. [B, M, N] → [B, M, M] complex64."""
    return torch.matmul(csi, csi.mH) / csi.shape[-1]


def normalize(x: Tensor, how: Normalization, out: Tensor | None = None) -> Tensor:
    """Scale each sample so that its maximum magnitude is 1 per row, per column or as a whole.

    The magnitude is taken over the channels (real and imaginary part). A row or column without any power stays 0.

    Args:
        x: [B, C, M, N]; not negative where C is 1.
        how: ``antenna`` (each row), ``subcarrier`` (each column), ``matrix``, or ``none``.
        out: where to put the result.
    """
    if how == "none":
        return x if out is None else out.copy_(x)
    magnitude = x if x.shape[1] == 1 else x.square().sum(dim=1, keepdim=True).sqrt()
    over = {"antenna": (-1,), "subcarrier": (-2,), "matrix": (-2, -1)}[how]
    largest = magnitude.amax(dim=over, keepdim=True)
    return torch.div(x, torch.where(largest > 0, largest, torch.ones_like(largest)), out=out)


def reference_amplitude(carrier_hz: float) -> float:
    """Free-space path gain at 100 m: what fingerprints are relative to."""
    return speed_of_light / carrier_hz / (4 * math.pi * REFERENCE_DISTANCE_M)


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
    csi = csi / reference_amplitude(carrier_hz)
    if kind == "adp":
        image = angle_delay_profile(csi, antennas)[:, None]
    elif kind == "rcsi":
        image = csi.abs()[:, None]
    else:
        matrix = _sample_covariance(csi) if kind == "scm" else csi
        image = torch.view_as_real(matrix).movedim(-1, 1)
    return normalize(image, normalization).contiguous()
