"""What a study is held against: statements about its results, and numbers that were published. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from study.errors import nearest
from study.spec.problems import Allowed, InvalidValue

__all__ = [
    "CLAIM_KINDS",
    "PUBLISHED_NUMBERS",
    "AnyClaim",
    "Claim",
    "ClaimMetric",
    "Comparison",
    "Dependence",
    "OptimumShift",
    "Published",
    "Steadiness",
    "TrialMetric",
]

TrialMetric = Literal[
    "test_rmse",
    "test_median_error",
    "test_p90_error",
    "test_accuracy",
    "best_epoch",
    "parameters",
    "macs_paper",
]
ClaimMetric = Literal[TrialMetric, "spent_trials", "spent_seconds"]

Condition = Annotated[dict[str, Any], Field(min_length=1)]


class _Statement(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    paper: str = ""


class Comparison(_Statement):
    """``better`` has a better metric than ``than``: a lower error, cost or epoch, a higher accuracy.

    Cells are paired where the settings that neither side names are equal, and trials where their seeds are; of a
    search, or of MDA's weights on an axis, the winner counts. Of a list, each value is meant:
    ``than: {method: [DCNN, TL]}`` is better than both. What both sides name alike is paired as well. Configurations are
    averaged; where some contradict the average significantly, the claim is inconclusive. Reference rows count only
    where they are named.

    Attributes:
        name: the claim in words.
        paper: what the paper says, with its numbers.
        better, than: key path → value, the two sides.
        metric: what is compared; ``spent_trials`` and ``spent_seconds`` (training time) count all that was needed to
            get there, a search included.
        margin: how much better at least, in the metric's unit (metres, share, epochs, …); below 0 it is how much worse
            is still as good.
        factor: how many times better at least (2 is half of the error, or twice the accuracy); below 1 it is a share
            that is still as good.
    """

    better: Condition
    than: Condition
    metric: ClaimMetric = "test_rmse"
    margin: float = 0.0
    factor: float = Field(default=1.0, gt=0)


class Steadiness(_Statement):
    """``steadier`` changes less than ``than`` over the values of an axis, in each configuration.

    What is compared is the largest minus the smallest mean of the metric over the axis. Of MDA, values of λ with which
    the metric is not trained do not count.

    Attributes:
        name: the claim in words.
        paper: what the paper says, with its numbers.
        steadier, than: key path → value, the two sides.
        over: key path of the axis.
        metric: what should change little.
    """

    steadier: Condition
    than: Condition
    over: str
    metric: TrialMetric = "test_rmse"

    @model_validator(mode="after")
    def _a_setting(self) -> Self:
        _not_the_method("over", self.over)
        return self


class Dependence(_Statement):
    """The metric depends on a setting: its worst value is ``factor`` times as bad as its best, in each configuration.

    A configuration is a combination of all other settings. Supported when it is so in all of them, refuted when it is
    shown not to be so in one. Of MDA, values of λ with which the metric is not trained do not count.

    Attributes:
        name: the claim in words.
        paper: what the paper says, with its numbers.
        depends: key path → value, the cells.
        upon: key path of an axis or of a searched setting.
        metric: what depends on it.
        factor: how many times worse the worst value is at least.
    """

    depends: Condition
    upon: str
    metric: TrialMetric = "test_rmse"
    factor: float = Field(default=1.0, ge=1)

    @model_validator(mode="after")
    def _a_setting(self) -> Self:
        _not_the_method("upon", self.upon)
        return self


class OptimumShift(_Statement):
    """The best value of a setting is not the same along an axis, in each configuration of the other settings.

    Of MDA, values of λ with which the metric is not trained do not count.

    Attributes:
        name: the claim in words.
        paper: what the paper says, with its numbers.
        optimum: key path → value, the cells.
        of: key path of the setting whose best value is meant, an axis or a searched one.
        differs_over: key path of the axis along which it differs.
        metric: what is best there.
    """

    optimum: Condition
    of: str
    differs_over: str
    metric: TrialMetric = "test_rmse"

    @model_validator(mode="after")
    def _two_settings(self) -> Self:
        _not_the_method("of", self.of)
        _not_the_method("differs_over", self.differs_over)
        if self.of == self.differs_over:
            raise InvalidValue(
                "a setting has no best value for each of its own values",
                allowed="another key path than 'of'",
                at=("differs_over",),
            )
        return self


def _not_the_method(key: str, path: str) -> None:
    if path == "method":
        raise InvalidValue(
            "methods are compared, a setting is varied",
            allowed="a key path other than method; {better: {method: …}, than: {method: …}} compares methods",
            at=(key,),
        )


AnyClaim = Comparison | Steadiness | Dependence | OptimumShift

CLAIM_KINDS: tuple[type[AnyClaim], ...] = (Comparison, Steadiness, Dependence, OptimumShift)

_SHARED = frozenset(_Statement.model_fields)
# The keys that each form must have: what tells it from the others.
_FORMS = tuple(
    tuple(name for name, field in kind.model_fields.items() if field.is_required() and name not in _SHARED)
    for kind in CLAIM_KINDS
)
_FORMS_TEXT = f"name, with {', or '.join(' + '.join(form) for form in _FORMS)}"


def _one_form(value: Any) -> Any:
    """A claim has the keys of one form: told here once, and not as one mistake for each form that it does not fit."""
    if not isinstance(value, dict):
        return value
    given = [key for key in value if key not in _SHARED]
    meant = [kind for kind, form in zip(CLAIM_KINDS, _FORMS, strict=True) if form[0] in given]
    if len(meant) == 1:
        others = {key for kind in CLAIM_KINDS for key in kind.model_fields} - set(meant[0].model_fields)
        mixed = [key for key in given if key in others]
        if not mixed:
            return value
        what = f"'{mixed[0]}' belongs to another form of claim than '{_FORMS[CLAIM_KINDS.index(meant[0])][0]}'"
        raise InvalidValue(what, allowed=_FORMS_TEXT)
    if meant:
        firsts = [form[0] for form in _FORMS if form[0] in given]
        raise InvalidValue(f"the keys of {len(meant)} forms of claims: {', '.join(firsts)}", allowed=_FORMS_TEXT)
    known = {key for kind in CLAIM_KINDS for key in kind.model_fields}
    hints = [nearest(str(key), known).removeprefix("; ") for key in given if key not in known]
    raise InvalidValue(
        "no form of claim has these keys alone", allowed=_FORMS_TEXT, hint=next((hint for hint in hints if hint), None)
    )


Claim = Annotated[AnyClaim, BeforeValidator(_one_form), Allowed(_FORMS_TEXT)]
"""A statement about the results, to be judged by the report: supported, refuted or inconclusive."""


class Published(BaseModel):
    """Numbers of a publication for the cells that ``when`` matches, shown beside the study's own.

    Attributes:
        when: key path → value.
        optimum: the row of the best candidate of a search, instead of the cells' own.
        test_rmse: metres.
        test_accuracy: share of right conditions, 0 … 1.
        best_epoch: epoch of the lowest validation RMSE.
        parameters: of the network while training.
        macs_paper: of a training forward pass over a batch, batch normalization counted (the "FLOPs" of Table III).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: Condition
    optimum: bool = False
    test_rmse: float | None = Field(default=None, gt=0)
    test_accuracy: float | None = Field(default=None, ge=0, le=1)
    best_epoch: int | None = Field(default=None, ge=1)
    parameters: int | None = Field(default=None, ge=1)
    macs_paper: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _some_number(self) -> Self:
        if all(getattr(self, name) is None for name in PUBLISHED_NUMBERS):
            raise InvalidValue("there is no number here", allowed=f"at least one of {', '.join(PUBLISHED_NUMBERS)}")
        return self


PUBLISHED_NUMBERS = tuple(name for name in Published.model_fields if name not in ("when", "optimum"))
