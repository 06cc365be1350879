"""Channels and fingerprints against a direct float64 evaluation of the paper's equations."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.constants import speed_of_light

from study.data.channels import channel_response, steering_vectors, strongest_paths
from study.data.fingerprints import (
    REFERENCE_DISTANCE_M,
    angle_delay_profile,
    fingerprint,
    normalize,
    path_profile,
)
from study.data.synthesis import Fingerprints, PathSamples, kept_or_made, synthesize
from study.data.system import SystemConfiguration, fingerprint_shape

SYSTEMS = st.fixed_dictionaries(
    {
        "bandwidth_hz": st.sampled_from([20e6, 100e6, 500e6]),
        "subcarriers": st.sampled_from([2, 16, 33, 64]),
        "antennas": st.sampled_from([(1, 1), (4, 4), (8, 8), (2, 16), (64, 1)]),
        "paths": st.integers(1, 25),
        "seed": st.integers(0, 2**31 - 1),
    }
)
CARRIER_HZ = 3.5e9


def _paths(seed: int, count: int, batch: int = 3) -> tuple[torch.Tensor, ...]:
    random = np.random.default_rng(seed)
    gain = (random.normal(size=(batch, count)) + 1j * random.normal(size=(batch, count))) * 1e-5
    return (
        torch.from_numpy(gain.astype(np.complex64)),
        torch.from_numpy(random.uniform(0, 2e-6, (batch, count)).astype(np.float32)),
        torch.from_numpy(random.uniform(0, np.pi, (batch, count)).astype(np.float32)),
        torch.from_numpy(random.uniform(-np.pi, np.pi, (batch, count)).astype(np.float32)),
    )


def _direct_csi(paths: tuple[torch.Tensor, ...], bandwidth: float, n: int, antennas: tuple[int, int]) -> np.ndarray:
    """Eq. (1), one antenna, subcarrier and path after the other, in float64."""
    gain, delay, theta, phi = (x.numpy().astype(np.complex128 if x.is_complex() else np.float64) for x in paths)
    my, mz = antennas
    h = np.zeros((len(gain), my * mz, n), dtype=np.complex128)
    for y in range(my):
        for z in range(mz):
            phase = np.pi * (y * np.sin(theta) * np.sin(phi) + z * np.cos(theta))
            for k in range(n):
                terms = gain * np.exp(1j * phase) * np.exp(-2j * np.pi * (k * bandwidth / n) * delay)
                h[:, y * mz + z, k] = terms.sum(axis=1)
    return h


def _direct_adp(h: np.ndarray, antennas: tuple[int, int]) -> np.ndarray:
    """Eqs. (5, 6) with the Kronecker product written out."""

    def beams(count: int) -> np.ndarray:
        i = np.arange(count)
        return np.exp(-2j * np.pi * np.outer(i, i - count / 2) / count) / np.sqrt(count)

    n = h.shape[-1]
    f = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
    g = np.kron(beams(antennas[0]).conj().T, beams(antennas[1]).conj().T) @ h @ f.conj() / np.sqrt(h.shape[1] * n)
    return np.abs(g) ** 2


def _relative(value: torch.Tensor, truth: np.ndarray) -> float:
    return float(np.linalg.norm(value.numpy() - truth) / np.linalg.norm(truth))


@settings(deadline=None, max_examples=40)
@given(SYSTEMS)
def test_csi_and_adp_agree_with_the_equations_to_1e_5(system: dict) -> None:  # type: ignore[type-arg]
    paths = _paths(system["seed"], system["paths"])
    bandwidth, n, antennas = system["bandwidth_hz"], system["subcarriers"], system["antennas"]
    csi = channel_response(*paths, bandwidth_hz=bandwidth, subcarriers=n, antennas=antennas)
    truth = _direct_csi(paths, bandwidth, n, antennas)
    assert csi.shape == truth.shape
    assert _relative(csi, truth) < 1e-5
    profile = _direct_adp(truth, antennas)
    assert _relative(angle_delay_profile(csi, antennas), profile) < 1e-5
    array = {"bandwidth_hz": bandwidth, "subcarriers": n, "antennas": antennas}
    assert _relative(path_profile(*paths, **array), profile) < 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [2, 5, 8, 64])
@pytest.mark.parametrize("away", [0.0, 1e-9, -1e-9, 1e-4, -1e-4, 0.499999, 0.5])
def test_the_profile_of_paths_that_arrive_on_or_near_a_bin(n: int, away: float) -> None:
    """Where the kernel is 0/0, or nearly: a path in each bin, moved by a share of a bin, and the window's two ends."""
    bandwidth = 100e6
    bins = np.arange(-1, n + 1)
    delay = (bins + away) % n / bandwidth
    paths = (
        torch.ones(len(bins), 1, dtype=torch.complex64),
        torch.from_numpy(delay[:, None]),
        torch.full((len(bins), 1), np.pi / 2),
        torch.zeros(len(bins), 1),
    )
    profile = path_profile(*paths, bandwidth_hz=bandwidth, subcarriers=n, antennas=(4, 1))
    truth = _direct_adp(_direct_csi(paths, bandwidth, n, (4, 1)), (4, 1))
    assert torch.isfinite(profile).all()
    assert _relative(profile, truth) < 1e-5


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(["adp", "rcsi", "rcsi_stacked", "scm"]),
    st.sampled_from(["antenna", "subcarrier", "matrix", "none"]),
    st.sampled_from(["wrap", "drop"]),
    st.integers(0, 999),
)
def test_synthesis_is_the_fingerprint_of_the_channel(kind: str, how: str, excess: str, seed: int) -> None:
    system = SystemConfiguration.model_validate(
        {"subcarriers": 16, "antennas": [4, 2], "fingerprint": kind, "normalization": how, "excess_delay": excess}
    )
    paths = _paths(seed, 6, batch=5)
    csi = channel_response(
        *paths, bandwidth_hz=100e6, subcarriers=16, antennas=(4, 2), excess_delay=system.excess_delay
    )
    expected = fingerprint(csi, system.fingerprint, system.normalization, antennas=(4, 2), carrier_hz=CARRIER_HZ)
    found = synthesize(*paths, system, CARRIER_HZ)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 299), max_size=300), st.integers(1, 4))
def test_fingerprints_do_not_depend_on_what_is_asked_with_them(rows: list[int], most: int) -> None:
    system = SystemConfiguration(subcarriers=8, antennas=(2, 2))
    paths = _paths(1, 4, batch=300)
    count = torch.from_numpy(np.random.default_rng(2).integers(1, most, 300, endpoint=True))
    samples = PathSamples(*paths, count, system, CARRIER_HZ)
    index = torch.tensor(rows, dtype=torch.int64)
    kept = kept_or_made(samples, samples.fingerprint_bytes)
    assert isinstance(kept, torch.Tensor)
    assert kept.shape == samples.shape
    assert kept_or_made(samples, samples.fingerprint_bytes - 1) is samples
    for source in (samples, kept):
        some = Fingerprints(source, index)
        assert some.shape == (len(rows), 1, 4, 8)
        torch.testing.assert_close(some[:], kept[index], rtol=1e-5, atol=1e-6)
        parts = list(some.split(7))
        assert all(len(part) == 7 for part in parts[:-1])
        torch.testing.assert_close(torch.cat(parts) if rows else some[:], kept[index], rtol=1e-5, atol=1e-6)


def test_one_path_from_a_beam_direction_fills_one_bin() -> None:
    """A path whose direction cosines and delay lie on the grid has all its power in one angle-delay bin."""
    antennas, n, bandwidth = (8, 8), 64, 100e6
    beam_y, beam_z, tap = 6, 3, 17
    # The phase-shifted DFT's column k looks at π·sin = −2π (k − M/2)/M.
    sin_y, cos_z = -2 * (beam_y - 4) / 8, -2 * (beam_z - 4) / 8
    theta = np.arccos(cos_z)
    phi = np.arcsin(sin_y / np.sin(theta))
    paths = [torch.tensor([[v]]) for v in (1 + 0j, tap / bandwidth, theta, phi)]
    csi = channel_response(
        paths[0].to(torch.complex64), *paths[1:], bandwidth_hz=bandwidth, subcarriers=n, antennas=antennas
    )
    profile = angle_delay_profile(csi, antennas)[0]
    assert divmod(int(profile.argmax()), n) == (beam_y * 8 + beam_z, tap)
    assert profile.max() / profile.sum() > 0.999


def test_energy_is_kept_by_the_transform() -> None:
    antennas, n = (4, 4), 32
    csi = channel_response(*_paths(1, 9), bandwidth_hz=1e8, subcarriers=n, antennas=antennas)
    power = csi.abs().square().sum((1, 2))
    torch.testing.assert_close(angle_delay_profile(csi, antennas).sum((1, 2)) * 16 * n, power, rtol=1e-5, atol=0)


def test_late_paths_fold_back_or_are_dropped() -> None:
    n, bandwidth = 64, 100e6
    window = n / bandwidth
    gain = torch.tensor([[1 + 0j, 0.5 + 0j]], dtype=torch.complex64)
    angles = torch.full((1, 2), 1.2)
    common = {"bandwidth_hz": bandwidth, "subcarriers": n, "antennas": (2, 2)}

    def at(delays: list[float], excess: str, use: torch.Tensor = gain) -> torch.Tensor:
        return channel_response(use, torch.tensor([delays]).double(), angles, angles, excess_delay=excess, **common)  # type: ignore[arg-type]

    late, early = [1e-7, 2e-7 + window], [1e-7, 2e-7]
    torch.testing.assert_close(at(late, "wrap"), at(early, "wrap"), rtol=1e-5, atol=1e-5)
    alone = torch.tensor([[1 + 0j, 0]], dtype=torch.complex64)
    torch.testing.assert_close(at(late, "drop"), at(early, "wrap", alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(at(early, "drop"), at(early, "wrap"))


def test_the_strongest_paths_are_the_first() -> None:
    gain = _paths(0, 6)[0]
    kept = strongest_paths(gain, 2)
    assert torch.equal(kept[:, :2], gain[:, :2])
    assert not kept[:, 2:].any()
    drawn = strongest_paths(gain, torch.tensor([1, 3, 6]))
    assert (drawn != 0).sum(1).tolist() == [1, 3, 6]


def test_a_single_antenna_has_no_direction() -> None:
    theta, phi = torch.rand(2, 5), torch.rand(2, 5)
    assert torch.equal(steering_vectors(theta, phi, (1, 1)), torch.ones(2, 1, 5, dtype=torch.complex64))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["adp", "rcsi", "rcsi_stacked", "scm"]), st.integers(0, 1000), st.floats(1e-8, 1e3))
def test_normalized_fingerprints_do_not_see_the_level(kind: str, seed: int, level: float) -> None:
    paths = _paths(seed, 7)
    antennas, n = (4, 4), 32
    csi = channel_response(*paths, bandwidth_hz=1e8, subcarriers=n, antennas=antennas)
    for how, dims in (("antenna", -1), ("subcarrier", -2), ("matrix", (-2, -1))):
        image = fingerprint(csi, kind, how, antennas=antennas, carrier_hz=CARRIER_HZ)  # type: ignore[arg-type]
        scaled = fingerprint(csi * level, kind, how, antennas=antennas, carrier_hz=CARRIER_HZ)  # type: ignore[arg-type]
        torch.testing.assert_close(image, scaled, rtol=1e-4, atol=1e-6)
        largest = image.square().sum(1).sqrt().amax(dims)
        torch.testing.assert_close(largest, torch.ones_like(largest), rtol=1e-5, atol=1e-5)
        system = SystemConfiguration(antennas=antennas, subcarriers=n, fingerprint=kind)  # type: ignore[arg-type]
        assert tuple(image.shape[1:]) == fingerprint_shape(system)


def test_a_channel_without_power_stays_zero_and_finite() -> None:
    csi = torch.zeros(2, 16, 32, dtype=torch.complex64)
    for kind in ("adp", "rcsi", "rcsi_stacked", "scm"):
        for how in ("antenna", "subcarrier", "matrix", "none"):
            image = fingerprint(csi, kind, how, antennas=(4, 4), carrier_hz=CARRIER_HZ)  # type: ignore[arg-type]
            assert not image.any()


def test_unnormalized_fingerprints_are_relative_to_free_space_at_100_m() -> None:
    level = speed_of_light / CARRIER_HZ / (4 * np.pi * REFERENCE_DISTANCE_M)
    csi = torch.full((1, 4, 8), level, dtype=torch.complex64)
    image = fingerprint(csi, "rcsi", "none", antennas=(2, 2), carrier_hz=CARRIER_HZ)
    torch.testing.assert_close(image, torch.ones_like(image))


def test_sample_covariance_is_hermitian_with_real_power_on_its_diagonal() -> None:
    csi = channel_response(*_paths(3, 5), bandwidth_hz=1e8, subcarriers=32, antennas=(4, 4))
    image = fingerprint(csi, "scm", "none", antennas=(4, 4), carrier_hz=CARRIER_HZ)
    real, imaginary = image[:, 0], image[:, 1]
    torch.testing.assert_close(real, real.mT)
    torch.testing.assert_close(imaginary, -imaginary.mT, rtol=1e-4, atol=1e-4)
    assert (real.diagonal(dim1=1, dim2=2) > 0).all()


def test_unknown_normalization_is_a_defect_and_not_silent() -> None:
    with pytest.raises(KeyError):
        normalize(torch.ones(1, 1, 2, 2), "rows")  # type: ignore[arg-type]
