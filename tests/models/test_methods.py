"""The contract that every method keeps."""

import inspect
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from models.backbone import reverse_gradient
from models.methods import METHODS, LabelledBatch, Method, NetworkShape, UnlabelledBatch, build_method
from models.references import REFERENCES
from models.settings import BACKBONES, METHOD_SETTINGS, InputTooSmallError

SHAPE = NetworkShape((1, 16, 32), conditions=3, backbone=BACKBONES["small"])
VARIANTS = [
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


def _loss(method: Method, source: LabelledBatch, target: UnlabelledBatch, progress: float = 0.5) -> Tensor:
    return method.training_loss(source, target if method.reads_target else None, progress)


def test_predictions_have_the_documented_shapes(method: Method) -> None:
    method.eval()
    prediction = method(_source(5).fingerprint)
    assert prediction.position.shape == (5, 2)
    if METHOD_SETTINGS[method.name].joint:
        assert prediction.condition_logits.shape == (5, 3)
    else:
        assert prediction.condition_logits is None


def test_loss_is_a_finite_scalar_and_reaches_every_weight(method: Method) -> None:
    loss = _loss(method, _source(), _target())
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s, t: (s._replace(fingerprint=torch.zeros_like(s.fingerprint)), t), id="no power"),
        pytest.param(lambda s, t: (s, UnlabelledBatch(torch.zeros_like(t.fingerprint))), id="no power in the target"),
        pytest.param(lambda s, t: (s._replace(condition=torch.zeros_like(s.condition)), t), id="one class"),
        pytest.param(lambda s, t: (s._replace(position=torch.zeros_like(s.position)), t), id="one position"),
        pytest.param(
            lambda s, t: (s._replace(fingerprint=s.fingerprint[:1].expand(12, -1, -1, -1)), t), id="one input"
        ),
        pytest.param(lambda s, t: (LabelledBatch(*(x[:2] for x in s)), UnlabelledBatch(t.fingerprint[:2])), id="two"),
        pytest.param(lambda s, t: (s._replace(fingerprint=s.fingerprint * 1e6), t), id="strong input"),
    ],
)
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_degenerate_batches_give_finite_gradients(method: Method, change, progress: float) -> None:  # type: ignore[no-untyped-def]
    source, target = change(_source(), _target())
    _loss(method, source, target, progress).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_every_method_can_learn_32_samples_by_heart(method: Method) -> None:
    if hasattr(method.objective, "weight_regularization"):
        settings = {"weight_regularization": 0.0}
        torch.manual_seed(0)
        method = build_method(
            method.name, SHAPE, branches="twin" if method.target_branch is not None else "shared", objective=settings
        )
    source, target = _source(32), _target(32)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    method.train()
    for _ in range(150):
        optimizer.zero_grad()
        _loss(method, source, target, progress=0.05).backward()
        optimizer.step()
    # As a step sees them, with batch statistics: what is asked is whether the network can represent the samples.
    with torch.no_grad():
        output = (
            method.both_domains(source.fingerprint, target.fingerprint)[0]
            if method.reads_target
            else method.source_branch(source.fingerprint)
        )
    error = (output.position - source.position).square().sum(1).mean()
    assert error < 0.15 * source.position.square().sum(1).mean()
    if output.logits is not None:
        assert (output.logits.argmax(1) == source.condition).float().mean() > 0.9


def test_the_same_seed_gives_the_same_training(method: Method) -> None:
    def train() -> dict[str, Tensor]:
        torch.manual_seed(3)
        branches = "twin" if method.target_branch is not None else "shared"
        copy = build_method(method.name, SHAPE, branches=branches)
        optimizer = torch.optim.Adam(copy.parameter_groups(1e-4), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            _loss(copy, _source(seed=step), _target(seed=step)).backward()
            optimizer.step()
        return copy.state_dict()

    first, second = train(), train()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_target_labels_have_no_way_into_a_step(method: Method) -> None:
    assert UnlabelledBatch._fields == ("fingerprint",)
    parameters = list(inspect.signature(type(method).training_loss).parameters)
    assert parameters == ["self", "source", "target", "progress"]


def test_methods_that_adapt_use_the_target_and_the_others_refuse_nothing(method: Method) -> None:
    torch.manual_seed(0)
    source = _source()
    if not method.reads_target:
        assert method.training_loss(source, None, 0.5).isfinite()
        return
    with pytest.raises(ValueError, match="target batch"):
        method.training_loss(source, None, 0.5)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    near = _loss(method, source, UnlabelledBatch(source.fingerprint)).item()
    method.load_state_dict(state)
    far = _loss(method, source, UnlabelledBatch(torch.zeros_like(source.fingerprint))).item()
    assert near != far


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
        assert kind.name == name
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
