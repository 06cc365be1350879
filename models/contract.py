"""The contract of methods: what training, results and reports rely on, as laws that any method can be held to.

    LAWS             the laws, in the order in which they are told
    check_contract   all laws on one class, in all its forms

A law takes a `Subject` and raises `Violation`. What a method's own code raises is a violation, too.
Shapes: B samples of a batch, D coordinates, K conditions.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.complexity import measure_complexity
from models.methods import LabelledBatch, Method, NetworkShape, Prediction, UnlabelledBatch, build_method
from models.settings import BACKBONES, Branches

__all__ = ["BUILDS", "LAWS", "Finding", "Law", "Subject", "Violation", "check_contract"]

BATCH = 12
# What the table of epochs has columns for.
_LEARNED = ("log_var_position", "log_var_condition")


class Violation(Exception):  # noqa: N818 - it is what a law raises, and no defect of ours
    """What a method does against a law, and by how much."""


@dataclass(frozen=True)
class Subject:
    """A method in the form in which it is held to the laws.

    Attributes:
        kind: its class.
        shape: what the network has to fit.
        branches: shared or twin.
    """

    kind: type[Method]
    shape: NetworkShape
    branches: Branches = "shared"

    def build(self, seed: int = 0, **objective: Any) -> Method:
        """The method with the weights of a seed, and objective settings as a spec spells them."""
        torch.manual_seed(seed)
        return build_method(self.kind, self.shape, branches=self.branches, objective=objective)

    def source(self, count: int = BATCH, seed: int = 0) -> LabelledBatch:
        """Random labelled samples."""
        generator = torch.Generator().manual_seed(seed)
        return LabelledBatch(
            torch.rand(count, *self.shape.fingerprint, generator=generator),
            torch.randn(count, self.shape.coordinates, generator=generator),
            torch.randint(max(1, self.shape.conditions), (count,), generator=generator),
        )

    def target(self, count: int = BATCH, seed: int = 1) -> UnlabelledBatch:
        """Random unlabelled samples."""
        generator = torch.Generator().manual_seed(seed)
        return UnlabelledBatch(torch.rand(count, *self.shape.fingerprint, generator=generator))


@dataclass(frozen=True)
class Law:
    """One law.

    Attributes:
        name: what holds, in words.
        check: raises `Violation` where it does not.
    """

    name: str
    check: Callable[[Subject], None]


@dataclass(frozen=True)
class Finding:
    """What became of a law.

    Attributes:
        law: its name.
        branches: the form of the method.
        violation: what was violated and by how much; None if the law holds.
    """

    law: str
    branches: Branches
    violation: str | None


def check_contract(kind: type[Method], shape: NetworkShape) -> list[Finding]:
    """Hold a class to all laws, with shared branches and, where it can have them, with twin branches.

    The random state of the process is left as it was. A form that cannot be built is held to no further law.

    Args:
        kind: the class.
        shape: what its network has to fit; the laws try further shapes.
    """
    findings = []
    forms: tuple[Branches, ...] = ("shared", "twin") if kind.settings.twin else ("shared",)
    with torch.random.fork_rng(devices=[]):
        for branches in forms:
            subject = Subject(kind, shape, branches)
            for law in LAWS:
                findings.append(Finding(law.name, branches, _violation(law, subject)))
                if law is BUILDS and findings[-1].violation is not None:
                    break
    return findings


def _violation(law: Law, subject: Subject) -> str | None:
    try:
        law.check(subject)
    except Violation as error:
        return str(error)
    except Exception as error:  # the method's own code may raise anything
        words = str(error).partition("\n")[0]
        return f"raises {type(error).__name__}" + (f": {words}" if words else "") + _place(error, subject.kind)
    return None


def _place(error: Exception, kind: type[Method]) -> str:
    """The innermost line of the method's own file on the way to an error."""
    file = inspect.getsourcefile(kind)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({file}:{lines[-1]})" if lines else ""


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def _loss(method: Method, source: LabelledBatch, target: UnlabelledBatch, progress: float = 0.5) -> Tensor:
    """The loss as training asks for it: a method that does not read the target domain gets none."""
    return method.training_loss(source, target if method.reads_target else None, progress)


def _check_loss(loss: Tensor) -> None:
    _demand(isinstance(loss, Tensor), f"the loss is a {type(loss).__name__}, and no tensor")
    _demand(loss.shape == (), f"the loss has the shape {tuple(loss.shape)}, and is no scalar")
    _demand(bool(loss.isfinite()), f"the loss is {loss.item()}")


def _not_finite(method: Method) -> list[str]:
    return [
        name
        for name, parameter in method.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]


def _check_prediction(prediction: Prediction, subject: Subject, count: int) -> None:
    wanted = (count, subject.shape.coordinates)
    position, logits = prediction.position, prediction.condition_logits
    _demand(tuple(position.shape) == wanted, f"positions have the shape {tuple(position.shape)} instead of {wanted}")
    _demand(bool(position.isfinite().all()), "positions are not finite")
    if not (subject.kind.settings.joint and subject.shape.conditions):
        why = "its settings say joint=False" if subject.shape.conditions else "there are no conditions"
        _demand(logits is None, f"there are condition logits, and {why}")
        return
    if logits is None:
        raise Violation("there are no condition logits, and its settings say joint=True")
    expected = (count, subject.shape.conditions)
    _demand(tuple(logits.shape) == expected, f"condition logits have the shape {tuple(logits.shape)}, not {expected}")
    _demand(bool(logits.isfinite().all()), "condition logits are not finite")


# --- The laws -----------------------------------------------------------------------------------------------------


def can_be_built(subject: Subject) -> None:
    """With its defaults, and with its defaults written out."""
    settings = subject.kind.settings
    for method in (subject.build(), subject.build(**settings.objective_defaults())):
        kind = type(method.objective)
        _demand(kind is settings.objective, f"its objective is a {kind.__name__}, not {settings.objective.__name__}")


def predicts_the_documented_shapes(subject: Subject) -> None:
    """ζ [B, D], and u [B, K] for joint methods alone."""
    method = subject.build().eval()
    for count in (5, 1):
        _check_prediction(method(subject.source(count).fingerprint), subject, count)


def loss_reaches_every_weight(subject: Subject) -> None:
    """The loss is a finite scalar with a finite gradient for each trainable weight."""
    method = subject.build()
    loss = _loss(method, subject.source(), subject.target())
    _check_loss(loss)
    loss.backward()
    trained = [(name, parameter) for name, parameter in method.named_parameters() if parameter.requires_grad]
    missed = [name for name, parameter in trained if parameter.grad is None]
    _demand(not missed, f"{len(missed)} of {len(trained)} weights have no gradient: {_some(missed)}")
    _demand(not (bad := _not_finite(method)), f"gradients that are not finite: {_some(bad)}")


Change = Callable[[LabelledBatch, UnlabelledBatch], tuple[LabelledBatch, UnlabelledBatch]]

DEGENERATE: dict[str, Change] = {
    "no power": lambda s, t: (s._replace(fingerprint=torch.zeros_like(s.fingerprint)), t),
    "no power in the target": lambda s, t: (s, UnlabelledBatch(torch.zeros_like(t.fingerprint))),
    "one class": lambda s, t: (s._replace(condition=torch.zeros_like(s.condition)), t),
    "one position": lambda s, t: (s._replace(position=torch.zeros_like(s.position)), t),
    "one input": lambda s, t: (s._replace(fingerprint=s.fingerprint[:1].expand(BATCH, -1, -1, -1)), t),
    "two samples": lambda s, t: (LabelledBatch(*(x[:2] for x in s)), UnlabelledBatch(t.fingerprint[:2])),
    "strong input": lambda s, t: (s._replace(fingerprint=s.fingerprint * 1e6), t),
}


def degenerate_batches_have_finite_gradients(subject: Subject) -> None:
    """At the start and at the end of training."""
    found = []
    for name, change in DEGENERATE.items():
        for progress in (0.0, 1.0):
            method = subject.build()
            source, target = change(subject.source(), subject.target())
            loss = _loss(method, source, target, progress)
            loss.backward()
            bad = _not_finite(method)
            if bad or not loss.isfinite():
                found.append(f"{name} at progress {progress:g}: loss {loss.item():g}, {len(bad)} gradients not finite")
    _demand(not found, "; ".join(found))


def learns_32_samples(subject: Subject) -> None:
    """After 150 steps of Adam the training samples are known: 15 % of their variance, 90 % of their conditions."""
    # A penalty on the weights is there to hinder exactly this.
    penalty = "weight_regularization"
    settings: dict[str, Any] = {penalty: 0.0} if penalty in subject.kind.settings.objective_defaults() else {}
    method = subject.build(**settings)
    source, target = subject.source(32), subject.target(32)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    method.train()
    for _ in range(150):
        optimizer.zero_grad()
        _loss(method, source, target, progress=0.05).backward()
        optimizer.step()
    # As a step sees them, with batch statistics: what is asked is whether the network can represent the samples.
    with torch.no_grad():
        prediction = _predict_as_in_training(method, source, target)
    error = (prediction.position - source.position).square().sum(1).mean()
    share = float(error / source.position.square().sum(1).mean())
    _demand(share < 0.15, f"the squared error of the positions is {share:.0%} of their variance; allowed are 15 %")
    if prediction.condition_logits is not None:
        right = float((prediction.condition_logits.argmax(1) == source.condition).float().mean())
        _demand(right > 0.9, f"{right:.0%} of the conditions are right; wanted are more than 90 %")


def _predict_as_in_training(method: Method, source: LabelledBatch, target: UnlabelledBatch) -> Prediction:
    # A step of an adaptation method has both domains in its batch statistics. A prediction of its own is left to it.
    if method.reads_target and type(method).forward is Method.forward:
        output = method.both_domains(source.fingerprint, target.fingerprint)[0]
        return Prediction(output.position, output.logits)
    prediction: Prediction = method(source.fingerprint)
    return prediction


def same_seed_same_training(subject: Subject) -> None:
    """Three steps from one seed end at the same weights, to the last bit."""

    def train() -> dict[str, Tensor]:
        method = subject.build(seed=3)
        optimizer = torch.optim.Adam(method.parameter_groups(1e-4), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            _loss(method, subject.source(seed=step), subject.target(seed=step)).backward()
            optimizer.step()
        return method.state_dict()

    first, second = train(), train()
    _demand(list(first) == list(second), "the two have different weights")
    other = {name: value for name, value in first.items() if not torch.equal(value, second[name])}
    worst = max(((value - second[name]).abs().max().item() for name, value in other.items()), default=0.0)
    _demand(not other, f"{len(other)} of {len(first)} weights differ by up to {worst:.2g}: {_some(other)}")


def target_labels_cannot_enter(subject: Subject) -> None:
    """A step gets labelled source samples, unlabelled target samples, the progress, and nothing else."""
    _demand(UnlabelledBatch._fields == ("fingerprint",), f"a target batch has {', '.join(UnlabelledBatch._fields)}")
    found = list(inspect.signature(subject.kind.training_loss).parameters)
    wanted = ["self", "source", "target", "progress"]
    _demand(found == wanted, f"training_loss has the parameters {', '.join(found)} instead of {', '.join(wanted)}")


def reads_the_target_iff_it_says_so(subject: Subject) -> None:
    """Also with each on/off setting of its objective turned over."""
    settings = subject.kind.settings
    method = subject.build()
    says, reads = f"adapts={settings.adapts}", bool(method.reads_target)
    _demand(reads == settings.adapts, f"reads_target is {reads}, and its settings say {says}")
    flags = {name: value for name, value in settings.objective_defaults().items() if isinstance(value, bool)}
    for objective in [{}, *({name: not value} for name, value in flags.items())]:
        _check_target(subject, objective)


def _check_target(subject: Subject, objective: dict[str, Any]) -> None:
    words = "".join(f" (with {name}={value})" for name, value in objective.items())
    source = subject.source()

    def loss(target: UnlabelledBatch | None) -> float:
        method = subject.build(**objective)
        torch.manual_seed(1)
        return method.training_loss(source, target, 0.5).item()

    near, far = UnlabelledBatch(source.fingerprint), UnlabelledBatch(torch.zeros_like(source.fingerprint))
    if not subject.build(**objective).reads_target:
        _demand(math.isfinite(loss(None)), f"without a target the loss is not finite{words}")
        _demand(loss(near) == loss(far), f"the loss depends on a target that it says it does not read{words}")
        return
    try:
        loss(None)
    except ValueError:
        pass
    else:
        raise Violation(f"a step without a target batch is not refused with a ValueError{words}")
    _demand(loss(near) != loss(far), f"two target domains give one loss, {loss(near):g}: it is not read{words}")


def other_inputs_fit(subject: Subject) -> None:
    """The smallest input of each backbone, and one with two channels and odd numbers of rows and columns."""
    for backbone in BACKBONES.values():
        size = backbone.smallest
        for fingerprint in ((1, size, size), (2, size + 3, size + 9)):
            shape = replace(subject.shape, fingerprint=fingerprint, backbone=backbone)
            _check_step(replace(subject, shape=shape), f"an input of {fingerprint} for the backbone {backbone.name}")


def any_number_of_conditions_works(subject: Subject) -> None:
    """0, 2 and 3; without conditions a joint method predicts positions alone."""
    for conditions in (0, 2, 3):
        shape = replace(subject.shape, conditions=conditions)
        _check_step(replace(subject, shape=shape), f"{conditions} conditions")


def _check_step(subject: Subject, what: str) -> None:
    try:
        method = subject.build()
        loss = _loss(method, subject.source(), subject.target())
        _check_loss(loss)
        loss.backward()
        _demand(not (bad := _not_finite(method)), f"gradients that are not finite: {_some(bad)}")
        _check_prediction(method.eval()(subject.source(4).fingerprint), subject, 4)
    except Violation as error:
        raise Violation(f"{what}: {error}") from None
    except Exception as error:
        error.args = (f"{what}: {error}",)  # the type and the place stay
        raise


def predictions_are_deterministic(subject: Subject) -> None:
    """A prediction depends on its own sample alone, is repeated to the last bit, and changes nothing in the method."""
    method = subject.build()
    with torch.no_grad():
        _loss(method, subject.source(), subject.target())  # running statistics that are not those of the start
    method.eval()
    samples = subject.source(6).fingerprint
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        first, second, part = method(samples), method(samples), method(samples[2:4])
    for name, one, two, some in zip(Prediction._fields, first, second, part, strict=True):
        if one is None:
            continue
        _demand(torch.equal(one, two), f"{name}: two predictions differ by up to {(one - two).abs().max().item():.2g}")
        gap = (one[2:4] - some).abs().max().item()
        close = torch.allclose(one[2:4], some, rtol=1e-3, atol=1e-4)
        _demand(close, f"{name}: other samples of the batch change a prediction by up to {gap:.2g}")
    changed = [name for name, value in method.state_dict().items() if not torch.equal(value, before[name])]
    _demand(not changed, f"a prediction changes {_some(changed)}")


def weights_can_be_restored(subject: Subject) -> None:
    """Another instance with the same weights predicts the same: nothing that was learned is kept elsewhere."""
    method, other = subject.build(), subject.build(seed=1)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        _loss(method, subject.source(seed=step), subject.target(seed=step)).backward()
        optimizer.step()
    other.load_state_dict(method.state_dict())
    samples = subject.source(6).fingerprint
    with torch.no_grad():
        pairs = list(zip(Prediction._fields, method.eval()(samples), other.eval()(samples), strict=True))
    for name, one, two in pairs:
        if one is not None:
            gap = (one - two).abs().max().item()
            _demand(torch.allclose(one, two, rtol=1e-5, atol=1e-6), f"{name}: restored weights predict {gap:.2g} off")


def every_weight_is_optimized_once(subject: Subject) -> None:
    """The parameter groups hold each trainable weight, and none twice."""
    method = subject.build()
    given = [id(parameter) for group in method.parameter_groups(0.1) for parameter in group["params"]]
    missed = [name for name, p in method.named_parameters() if p.requires_grad and id(p) not in given]
    _demand(not missed, f"parameter_groups leaves out {_some(missed)}")
    _demand(len(given) == len(set(given)), f"parameter_groups has {len(given) - len(set(given))} weights twice")


def learned_weights_can_be_stored(subject: Subject) -> None:
    """`learned_weights` names what the table of epochs has columns for, with finite scalars."""
    for name, value in subject.build().learned_weights().items():
        _demand(name in _LEARNED, f"there is no column for {name!r}; there are {', '.join(_LEARNED)}")
        number = torch.as_tensor(value)
        _demand(number.numel() == 1 and bool(number.isfinite()), f"{name} is {value}, and no finite number")


def branches_are_those_asked_for(subject: Subject) -> None:
    """One, or two with weights of their own, which are equal at the start."""
    method = subject.build()
    twin = method.target_branch is not None
    _demand(twin == (subject.branches == "twin"), f"asked for {subject.branches} branches, it has {1 + twin}")
    if method.target_branch is None:
        return
    source: nn.Module = method.source_branch
    for (name, left), right in zip(source.named_parameters(), method.target_branch.parameters(), strict=True):
        _demand(left is not right, f"the two branches share {name}")
        _demand(torch.equal(left, right), f"{name} differs by up to {(left - right).abs().max().item():.2g}")


def cost_can_be_counted(subject: Subject) -> None:
    """Layers besides the branches take the features ω [B, F]; what is deployed is a part of the whole."""
    cost = measure_complexity(subject.build())
    for what, deployed, whole in (
        ("parameters", cost.parameters_deployed, cost.parameters),
        ("MACs", cost.macs_deployed, cost.macs_per_sample),
    ):
        _demand(0 < deployed <= whole, f"{deployed} of {whole} {what} are deployed")


def _some(names: Any) -> str:
    shown = list(names)
    return ", ".join(shown[:3]) + (" …" if len(shown) > 3 else "")


BUILDS = Law("it can be built", can_be_built)
LAWS: tuple[Law, ...] = (
    BUILDS,
    Law("predictions have the documented shapes", predicts_the_documented_shapes),
    Law("the loss is a finite scalar and reaches every weight", loss_reaches_every_weight),
    Law("degenerate batches have finite losses and gradients", degenerate_batches_have_finite_gradients),
    Law("32 samples can be learned by heart", learns_32_samples),
    Law("the same seed gives the same training", same_seed_same_training),
    Law("target labels have no way into a step", target_labels_cannot_enter),
    Law("the target domain is read if and only if it says so", reads_the_target_iff_it_says_so),
    Law("inputs of other sizes fit", other_inputs_fit),
    Law("any number of conditions works", any_number_of_conditions_works),
    Law("predictions are deterministic and each on its own", predictions_are_deterministic),
    Law("weights can be stored and restored", weights_can_be_restored),
    Law("every weight is optimized once", every_weight_is_optimized_once),
    Law("learned task weights can be stored", learned_weights_can_be_stored),
    Law("branches are those asked for, and start equal", branches_are_those_asked_for),
    Law("its cost can be counted", cost_can_be_counted),
)
