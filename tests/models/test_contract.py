"""The contract can fail: for each law a method that breaks it, and what is said about it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.contract import LAWS, Subject, Violation, check_contract
from models.methods import DCNN, MDA, TL, LabelledBatch, Method, NetworkShape, Prediction, UnlabelledBatch
from models.settings import BACKBONES, Branches, MDAObjective, MethodSettings, NoObjective

SHAPE = NetworkShape((1, 16, 32), conditions=3, backbone=BACKBONES["small"])
Target = UnlabelledBatch | None


@dataclass(frozen=True)
class Nothing:
    pass


class Raising(DCNN):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        raise RuntimeError("no network today")


class ForeignObjective(DCNN):
    def __init__(self, shape: NetworkShape, objective: Any = None, branches: Branches = "shared") -> None:
        super().__init__(shape, Nothing(), branches)


class Narrow(DCNN):
    def forward(self, fingerprint: Tensor) -> Prediction:
        return Prediction(self.source_branch(fingerprint).position[:, :1], None)


class Undeclared(MDA):
    settings = MethodSettings("X", joint=False, objective=MDAObjective, adapts=True, twin=True)

    def forward(self, fingerprint: Tensor) -> Prediction:
        position = self.source_branch(fingerprint).position
        return Prediction(position, position.new_zeros(len(position), 3))


class Forgetful(DCNN):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle = nn.Linear(self.source_branch.extractor.features, 2)


class ManyLosses(DCNN):
    def training_loss(self, source: LabelledBatch, target: Target, progress: float) -> Tensor:
        return (self.source_branch(source.fingerprint).position - source.position).square().sum(1)


class Relative(DCNN):
    def training_loss(self, source: LabelledBatch, target: Target, progress: float) -> Tensor:
        error = (self.source_branch(source.fingerprint).position - source.position).square().sum(1)
        return (error / source.position.square().sum(1)).mean()


class Lazy(DCNN):
    def training_loss(self, source: LabelledBatch, target: Target, progress: float) -> Tensor:
        return 1e-6 * super().training_loss(source, target, progress) + 1e-3 * sum(
            p.square().sum() for p in self.parameters()
        )


class Moody(DCNN):
    def training_loss(self, source: LabelledBatch, target: Target, progress: float) -> Tensor:
        return random.SystemRandom().uniform(0.5, 1.5) * super().training_loss(source, target, progress)


class Peeking(TL):
    def training_loss(  # type: ignore[override]
        self, source: LabelledBatch, target: Target, progress: float, target_labels: Tensor | None = None
    ) -> Tensor:
        return super().training_loss(source, target, progress)


class Deaf(DCNN):
    settings = MethodSettings("X", joint=False, objective=NoObjective, adapts=True)


class Secret(DCNN):
    def training_loss(self, source: LabelledBatch, target: Target, progress: float) -> Tensor:
        loss = super().training_loss(source, target, progress)
        return loss if target is None else loss + target.fingerprint.mean()


class OneSize(DCNN):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.mask = torch.ones(1, 16, 32)

    def training_loss(self, source: LabelledBatch, target: Target, progress: float) -> Tensor:
        return super().training_loss(source._replace(fingerprint=source.fingerprint * self.mask), target, progress)


class ThreeClasses(MDA):
    def supervised_loss(self, output: Any, source: LabelledBatch) -> Tensor:
        return super().supervised_loss(output, source) + 0 * output.logits[:, 2].sum()


class Dropping(DCNN):
    def forward(self, fingerprint: Tensor) -> Prediction:
        return Prediction(nn.functional.dropout(self.source_branch(fingerprint).position, 0.5, training=True), None)


class Herd(DCNN):
    def forward(self, fingerprint: Tensor) -> Prediction:
        position = self.source_branch(fingerprint).position
        return Prediction(position - position.mean(0), None)


class Counting(DCNN):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, fingerprint: Tensor) -> Prediction:
        self.calls += 1
        return super().forward(fingerprint)


class Hidden(DCNN):
    offset = 0.0

    def training_loss(self, source: LabelledBatch, target: Target, progress: float) -> Tensor:
        self.offset += 1.0
        return super().training_loss(source, target, progress)

    def forward(self, fingerprint: Tensor) -> Prediction:
        return Prediction(self.source_branch(fingerprint).position + self.offset, None)


class Half(DCNN):
    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return [{"params": list(self.source_branch.regressor.parameters()), "weight_decay": weight_decay}]


class Twice(DCNN):
    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return 2 * super().parameter_groups(weight_decay)


class Unnamed(DCNN):
    def learned_weights(self) -> dict[str, Tensor]:
        return {"temperature": torch.ones(())}


class Uneven(MDA):
    def initialize(self) -> None:
        super().initialize()
        assert self.target_branch is not None
        nn.init.ones_(self.target_branch.regressor[0].weight)


class OddLayer(DCNN):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.attention = nn.Linear(7, 7)


BROKEN: dict[str, list[tuple[type[Method], Branches, str]]] = {
    "it can be built": [
        (Raising, "shared", "raises RuntimeError: no network today"),
        (ForeignObjective, "shared", "its objective is a Nothing, not NoObjective"),
    ],
    "predictions have the documented shapes": [
        (Narrow, "shared", r"\(5, 1\) instead of \(5, 2\)"),
        (Undeclared, "shared", "its settings say joint=False"),
    ],
    "the loss is a finite scalar and reaches every weight": [
        (Forgetful, "shared", r"2 of \d+ weights have no gradient: idle.weight, idle.bias"),
        (ManyLosses, "shared", r"the shape \(12,\), and is no scalar"),
    ],
    "degenerate batches have finite losses and gradients": [
        (Relative, "shared", "one position at progress 0: loss inf")
    ],
    "32 samples can be learned by heart": [(Lazy, "shared", "allowed are 15 %")],
    "the same seed gives the same training": [(Moody, "shared", "weights differ by up to")],
    "target labels have no way into a step": [(Peeking, "shared", "target_labels")],
    "the target domain is read if and only if it says so": [
        (Deaf, "shared", "a step without a target batch is not refused"),
        (Secret, "shared", "depends on a target that it says it does not read"),
    ],
    "inputs of other sizes fit": [(OneSize, "shared", r"an input of \(1, 43, 43\)")],
    "any number of conditions works": [(ThreeClasses, "shared", "0 conditions")],
    "predictions are deterministic and each on its own": [
        (Dropping, "shared", "two predictions differ"),
        (Herd, "shared", "other samples of the batch change a prediction"),
        (Counting, "shared", "a prediction changes calls"),
    ],
    "weights can be stored and restored": [(Hidden, "shared", "restored weights predict 3 off")],
    "every weight is optimized once": [
        (Half, "shared", "parameter_groups leaves out source_branch.extractor"),
        (Twice, "shared", "weights twice"),
    ],
    "learned task weights can be stored": [(Unnamed, "shared", "no column for 'temperature'")],
    "branches are those asked for, and start equal": [
        (Uneven, "twin", "regressor.0.weight differs by up to"),
        (DCNN, "twin", "asked for twin branches, it has 1"),
    ],
    "its cost can be counted": [(OddLayer, "shared", "raises RuntimeError: mat1 and mat2")],
}


def _violation(law_name: str, kind: type[Method], branches: Branches) -> str:
    (law,) = (law for law in LAWS if law.name == law_name)
    try:
        law.check(Subject(kind, SHAPE, branches))
    except Violation as error:
        return str(error)
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    return "nothing"


def test_there_is_a_broken_method_for_each_law() -> None:
    assert list(BROKEN) == [law.name for law in LAWS]


@pytest.mark.parametrize(
    ("law", "kind", "branches", "words"),
    [pytest.param(law, *case, id=f"{case[0].__name__}") for law, cases in BROKEN.items() for case in cases],
)
def test_a_broken_method_is_caught(law: str, kind: type[Method], branches: Branches, words: str) -> None:
    assert re.search(words, _violation(law, kind, branches)), _violation(law, kind, branches)


def test_all_laws_are_told_for_both_forms_and_randomness_stays_as_it_was() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    findings = check_contract(Uneven, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before)
    built, *others = findings
    assert built.branches == "shared"
    assert "raises AssertionError" in str(built.violation)
    assert "test_contract.py:" in str(built.violation)
    assert [finding.branches for finding in others] == ["twin"] * len(LAWS)  # shared: nothing to hold to a law
    violated = [finding.law for finding in others if finding.violation is not None]
    assert violated == ["branches are those asked for, and start equal"]
