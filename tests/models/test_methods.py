"""The contract that every method keeps, and what is particular to each."""

from dataclasses import fields

import pytest
import torch

from models.backbone import reverse_gradient
from models.contract import LAWS, Law, Subject
from models.methods import METHODS, LabelledBatch, Method, NetworkShape, UnlabelledBatch, build_method
from models.references import REFERENCES
from models.settings import BACKBONES, METHOD_SETTINGS, Branches, InputTooSmallError

SHAPE = NetworkShape((1, 16, 32), conditions=3, backbone=BACKBONES["small"])
VARIANTS: list[tuple[str, Branches]] = [
    *((name, "shared") for name in METHODS),
    *((name, "twin") for name, item in METHOD_SETTINGS.items() if item.twin),
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(variant))
def method(request: pytest.FixtureRequest) -> Method:
    torch.manual_seed(0)
    name, branches = request.param
    return build_method(name, SHAPE, branches=branches)


def _source(count: int = 12, seed: int = 0) -> LabelledBatch:
    generator = torch.Generator().manual_seed(seed)
    return LabelledBatch(
        torch.rand(count, *SHAPE.fingerprint, generator=generator),
        torch.randn(count, 2, generator=generator),
        torch.randint(3, (count,), generator=generator),
    )


def _target(count: int = 12, seed: int = 1) -> UnlabelledBatch:
    return UnlabelledBatch(torch.rand(count, *SHAPE.fingerprint, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(variant))
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name.replace(" ", "-"))
def test_every_method_keeps_every_law(law: Law, variant: tuple[str, Branches]) -> None:
    name, branches = variant
    law.check(Subject(METHODS[name], SHAPE, branches))


def test_methods_that_adapt_refuse_a_step_without_a_target(method: Method) -> None:
    if method.reads_target:
        with pytest.raises(ValueError, match="target batch"):
            method.training_loss(_source(), None, 0.5)
    else:
        assert method.training_loss(_source(), None, 0.5).isfinite()


def test_without_knowledge_transfer_the_target_is_not_read() -> None:
    for name in ("MDA", "HDA"):
        method = build_method(name, SHAPE, objective={"knowledge_transfer": False})
        assert not method.reads_target
        assert method.training_loss(_source(), None, 0.5).isfinite()


def test_the_task_weight_of_mda_moves_between_its_tasks() -> None:
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        settings = {"lambda": weight, "knowledge_transfer": False, "weight_regularization": 0.0}
        losses[weight] = build_method("MDA", SHAPE, objective=settings).training_loss(_source(), None, 0.0).item()
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2, rel=1e-6)


def test_without_conditions_a_joint_method_regresses_coordinates() -> None:
    shape = NetworkShape((1, 16, 32), conditions=0, backbone=BACKBONES["small"])
    for name in ("MDA", "HDA"):
        method = build_method(name, shape)
        method.training_loss(_source(), _target(), 0.5).backward()
        assert method(_source().fingerprint).condition_logits is None


def test_learned_weights_have_no_weight_decay_and_are_no_network_parameters() -> None:
    method = build_method("HDA", SHAPE)
    network, scalars = method.parameter_groups(0.1)
    assert network["weight_decay"] == 0.1
    assert scalars["weight_decay"] == 0.0
    assert [p.numel() for p in scalars["params"]] == [2]
    assert sum(p.numel() for p in method.parameters()) == sum(p.numel() for p in method.network_parameters()) + 2
    assert set(method.learned_weights()) == {"log_var_position", "log_var_condition"}


def test_reversed_gradients_are_negated_and_scaled() -> None:
    x = torch.ones(3, requires_grad=True)
    y = reverse_gradient(x, 0.25)
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-0.25, -0.5, -0.75]


def test_twin_branches_start_equal_and_are_two() -> None:
    method = build_method("MDA", SHAPE, branches="twin")
    assert method.target_branch is not None
    for left, right in zip(method.source_branch.parameters(), method.target_branch.parameters(), strict=True):
        assert torch.equal(left, right)
        assert left is not right


def test_the_catalogue_names_the_classes_that_exist() -> None:
    assert {name for name, item in METHOD_SETTINGS.items() if item.trained} == set(METHODS)
    assert {name for name, item in METHOD_SETTINGS.items() if not item.trained} == set(REFERENCES)
    for name, kind in METHODS.items():
        assert kind.settings is METHOD_SETTINGS[name]
        assert build_method(name, SHAPE).name == name
        assert type(build_method(name, SHAPE).objective) is METHOD_SETTINGS[name].objective
        assert build_method(name, SHAPE).reads_target == METHOD_SETTINGS[name].adapts


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown method 'MDB'"):
        build_method("MDB", SHAPE)
    with pytest.raises(ValueError, match="no objective setting"):
        build_method("DCNN", SHAPE, objective={"lambda": 0.5})
    with pytest.raises(ValueError, match="branches"):
        build_method("MDA", SHAPE, branches="three")  # type: ignore[arg-type]
    assert not fields(METHOD_SETTINGS["DCNN"].objective)


@pytest.mark.parametrize("preset", list(BACKBONES))
def test_the_smallest_input_fits_and_one_less_does_not(preset: str) -> None:
    backbone = BACKBONES[preset]
    size = backbone.smallest
    method = build_method("DCNN", NetworkShape((1, size, size), 3, backbone=backbone))
    assert method.eval()(torch.zeros(1, 1, size, size)).position.shape == (1, 2)
    with pytest.raises(InputTooSmallError, match=f"{size} × {size}"):
        build_method("DCNN", NetworkShape((1, size - 1, size), 3, backbone=backbone))


def test_reference_rows_predict_what_they_say() -> None:
    source = _source(9)
    mean = REFERENCES["MEAN"]()
    mean.fit(source, 3)
    position, condition = mean.predict(source.fingerprint[:4])
    torch.testing.assert_close(position, source.position.mean(0).expand(4, 2))
    assert condition is not None
    assert len(set(condition.tolist())) == 1

    nearest = REFERENCES["KNN"](neighbours=1)  # type: ignore[call-arg]
    nearest.fit(source, 3)
    position, condition = nearest.predict(source.fingerprint)
    torch.testing.assert_close(position, source.position)
    assert condition is not None
    assert torch.equal(condition, source.condition)

    everyone = REFERENCES["KNN"](neighbours=50)  # type: ignore[call-arg]
    everyone.fit(source, 0)
    position, condition = everyone.predict(source.fingerprint[:2])
    torch.testing.assert_close(position, source.position.mean(0).expand(2, 2))
    assert condition is None
