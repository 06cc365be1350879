"""Laws of the losses, each over random inputs."""

import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given

from models import losses

SEEDS = st.integers(0, 2**31 - 1)
GAMMAS = st.one_of(st.just(0.0), st.floats(0.0, 5.0))


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _labels(seed: int, count: int, classes: int) -> torch.Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed + 1))


@given(SEEDS, st.integers(1, 9), st.integers(2, 3))
def test_coordinate_loss_is_the_mean_squared_distance(seed: int, count: int, dims: int) -> None:
    zeta, y = _random(seed, count, dims), _random(seed + 1, count, dims)
    expected = sum(math.dist(a, b) ** 2 for a, b in zip(zeta.tolist(), y.tolist(), strict=True)) / count
    assert losses.coordinate_loss(zeta, y).item() == pytest.approx(expected)
    assert losses.coordinate_loss(y, y).item() == 0


@given(SEEDS, st.integers(1, 9), st.integers(2, 4))
def test_focal_loss_without_focus_is_cross_entropy(seed: int, count: int, classes: int) -> None:
    logits, labels = _random(seed, count, classes), _labels(seed, count, classes)
    assert losses.focal_loss(logits, labels, 0.0).item() == pytest.approx(nnf.cross_entropy(logits, labels).item())


@given(SEEDS, GAMMAS, GAMMAS)
def test_more_focus_never_raises_the_loss(seed: int, one: float, other: float) -> None:
    logits, labels = _random(seed, 8, 3), _labels(seed, 8, 3)
    low, high = sorted((one, other))
    assert losses.focal_loss(logits, labels, high) <= losses.focal_loss(logits, labels, low) + 1e-12


@given(SEEDS, st.floats(-50, 50))
def test_focal_loss_does_not_see_a_shift_of_the_logits(seed: int, shift: float) -> None:
    logits, labels = _random(seed, 8, 3), _labels(seed, 8, 3)
    moved = losses.focal_loss(logits + shift, labels, 2.0).item()
    assert moved == pytest.approx(losses.focal_loss(logits, labels, 2.0).item(), rel=1e-9)


@given(SEEDS, st.integers(2, 20))
def test_symmetric_kl_is_a_symmetric_divergence(seed: int, size: int) -> None:
    p, q = torch.softmax(_random(seed, size), 0), torch.softmax(_random(seed + 1, size), 0)
    divergence = losses.symmetric_kl(p, q).item()
    assert divergence >= 0
    assert divergence == pytest.approx(losses.symmetric_kl(q, p).item())
    assert losses.symmetric_kl(p, p).item() == 0
    oracle = nnf.kl_div(q.log(), p, reduction="sum") + nnf.kl_div(p.log(), q, reduction="sum")
    assert divergence == pytest.approx(oracle.item(), rel=1e-3)


@given(SEEDS, st.floats(0.1, 100.0))
def test_feature_alignment_sees_distributions_and_not_scales(seed: int, scale: float) -> None:
    source, target = _random(seed, 6, 12).relu(), _random(seed + 1, 5, 12).relu()
    plain = losses.feature_alignment(source, target).item()
    assert losses.feature_alignment(source * scale, target).item() == pytest.approx(plain, rel=1e-9)
    assert losses.feature_alignment(source, source[torch.randperm(6)]).item() == pytest.approx(0, abs=1e-12)


@given(SEEDS, GAMMAS)
def test_output_alignment_is_zero_for_equal_domains_and_never_negative(seed: int, gamma: float) -> None:
    zeta, logits = _random(seed, 6, 2), _random(seed + 1, 6, 3)
    other_zeta, other_logits = _random(seed + 2, 6, 2), _random(seed + 3, 6, 3)
    assert losses.output_alignment(zeta, zeta, logits, logits, gamma).item() == pytest.approx(0, abs=1e-12)
    forth = losses.output_alignment(zeta, other_zeta, logits, other_logits, gamma).item()
    back = losses.output_alignment(other_zeta, zeta, other_logits, logits, gamma).item()
    assert forth >= 0
    assert forth == pytest.approx(back)


@given(st.floats(1e-3, 1e3))
def test_the_learned_coordinate_weight_is_best_at_the_logarithm_of_the_loss(value: float) -> None:
    loss = torch.tensor(value, dtype=torch.float64)

    def at(s: float) -> float:
        return losses.homoscedastic_loss(
            loss, None, None, torch.tensor([s, 0.0], dtype=torch.float64), 0.0, "standard"
        ).item()

    best = at(math.log(value))
    assert best == pytest.approx(0.5 + 0.5 * math.log(value))
    assert all(at(math.log(value) + step) > best for step in (-1.0, -0.01, 0.01, 1.0))


@given(SEEDS)
def test_unit_variances_without_focus_give_half_the_squared_error_plus_cross_entropy(seed: int) -> None:
    logits, labels = _random(seed, 8, 3), _labels(seed, 8, 3)
    coordinate = _random(seed, 1).abs().sum()
    ones = torch.zeros(2, dtype=torch.float64)
    expected = 0.5 * coordinate + nnf.cross_entropy(logits, labels)
    assert losses.homoscedastic_loss(coordinate, logits, labels, ones, 0.0, "standard").item() == pytest.approx(
        expected.item()
    )


@given(SEEDS, st.floats(-3, 3), st.floats(-3, 3))
def test_both_likelihoods_agree_without_focus(seed: int, s1: float, s2: float) -> None:
    logits, labels = _random(seed, 8, 3), _labels(seed, 8, 3)
    coordinate, log_var = _random(seed, 1).abs().sum(), torch.tensor([s1, s2], dtype=torch.float64)
    standard, focal = (
        losses.homoscedastic_loss(coordinate, logits, labels, log_var, 0.0, kind).item()
        for kind in ("standard", "focal")
    )
    assert focal == pytest.approx(standard)


@given(SEEDS, GAMMAS)
def test_the_learned_weights_cannot_make_the_loss_fall_for_ever(seed: int, gamma: float) -> None:
    """The printed Eq. (16) falls without end as σ2 goes to 0; this one must rise on both sides."""
    logits, labels = _random(seed, 16, 3), _labels(seed, 16, 3)
    coordinate = _random(seed, 1).abs().sum() + 0.1

    def at(s: float) -> float:
        log_var = torch.full((2,), s, dtype=torch.float64)
        return losses.homoscedastic_loss(coordinate, logits, labels, log_var, gamma, "focal").item()

    middle = min(at(s / 4) for s in range(-24, 25))
    assert at(-12.0) > middle
    assert at(40.0) > middle


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("logit", [0.0, 200.0, -200.0])
def test_extreme_predictions_give_finite_losses_and_gradients(gamma: float, logit: float) -> None:
    logits = torch.tensor([[logit, 0.0, 0.0]] * 4, requires_grad=True)
    zeta = torch.zeros(4, 2, requires_grad=True)
    features = torch.zeros(4, 8, requires_grad=True)
    log_var = torch.zeros(2, requires_grad=True)
    labels = torch.zeros(4, dtype=torch.long)
    other = torch.randn(4, 3)
    total = (
        losses.focal_loss(logits, labels, gamma)
        + losses.output_alignment(zeta, torch.randn(4, 2), logits, other, gamma)
        + losses.feature_alignment(features, torch.rand(4, 8))
        + losses.homoscedastic_loss(zeta.square().sum(), logits, labels, log_var, gamma, "focal")
    )
    total.backward()
    assert total.isfinite()
    for tensor in (logits, zeta, features, log_var):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_domain_loss_of_an_undecided_classifier_is_log_two() -> None:
    assert losses.domain_loss(torch.zeros(3, 2), torch.zeros(5, 2)).item() == pytest.approx(math.log(2))
    sure = torch.tensor([[20.0, -20.0]])
    assert losses.domain_loss(sure.repeat(3, 1), -sure.repeat(5, 1)).item() == pytest.approx(0, abs=1e-6)


@given(SEEDS)
def test_weight_regularization_is_half_the_squared_norm_and_pulls_to_zero(seed: int) -> None:
    parameters = [
        _random(seed, 3, 4).requires_grad_(),
        _random(seed + 1, 5).requires_grad_(),
        torch.zeros(2).requires_grad_(),
    ]
    value = losses.weight_regularization(parameters)
    value.backward()
    assert value.item() == pytest.approx(0.5 * sum(p.detach().square().sum().item() for p in parameters))
    for parameter in parameters:
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, parameter.detach())


def test_transfer_weight_rises_from_zero_to_nearly_one() -> None:
    values = [losses.transfer_weight(step / 100) for step in range(101)]
    assert values[0] == 0
    assert values == sorted(values)
    assert 0.999 < values[-1] < 1
