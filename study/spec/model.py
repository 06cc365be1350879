"""The study spec: what to compare, as one YAML file says it. No torch here.

A spec is base values, axes that are crossed exhaustively, searches within the cells that the axes make, and seeds.
Key paths such as ``system.bandwidth_mhz`` or ``objective.lambda`` lead into the base values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from models.settings import METHOD_SETTINGS, REFERENCE_NAMES, TRAINED_METHODS, MethodSettings
from study.errors import ConfigurationError, nearest
from study.selection import SELECTION_COLUMNS, canonical, config_value
from study.spec.claims import AnyClaim, Claim, Comparison, Dependence, Published, Steadiness
from study.spec.problems import InvalidValue, InvalidValues, describe, misfit
from study.spec.trial import MethodPath, ObjectiveSettings, TrialConfiguration, UserMethod, unknown_settings

__all__ = [
    "Domain",
    "EarlyStopping",
    "FigureName",
    "FloatDomain",
    "GridDomain",
    "IntDomain",
    "Report",
    "Search",
    "Select",
    "StudySpec",
    "TableName",
    "ValuesDomain",
    "key_paths",
    "parts_of",
]

Scalar = bool | int | float | str


# A study of a million cells is a slip of the pen, and would take minutes to count.
MAX_CELLS = 10_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)


class GridDomain(_Frozen):
    """``{grid: [low, high, step]}``: low, low + step, … up to high."""

    grid: tuple[float, float, Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _not_empty(self) -> GridDomain:
        if self.grid[0] > self.grid[1]:
            raise InvalidValue("the grid is empty", allowed="[low, high, step] with low ≤ high", at=("grid",))
        if (self.grid[1] - self.grid[0]) / self.grid[2] > 10_000:
            raise InvalidValue("the grid has more than 10,000 points", allowed="a larger step", at=("grid",))
        return self

    def values(self) -> list[Any]:
        """All points, rounded so that 0.1 · 3 is 0.3."""
        low, high, step = self.grid
        return [_rounded(low + i * step) for i in range(int((high - low) / step + 1e-9) + 1)]

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the points, but for rounding."""
        low, high, step = self.grid
        if not _is_number(value) or not low - step < value < high + step:
            return False
        i = round((value - low) / step)
        return 0 <= i <= int((high - low) / step + 1e-9) and _rounded(low + i * step) == _rounded(value)


class ValuesDomain(_Frozen):
    """``{values: [...]}``: any of the listed values."""

    choices: tuple[Any, ...] = Field(alias="values", min_length=1)

    def values(self) -> list[Any]:
        """All points."""
        return list(self.choices)

    def contains(self, value: Any) -> bool:
        """Whether a value equals one of those listed; 2 and 2.0 are equal."""
        return canonical(value) in map(canonical, self.choices)


class FloatDomain(_Frozen):
    """``{float: [low, high]}``, with ``log: true`` uniform in the logarithm."""

    bounds: tuple[float, float] = Field(alias="float")
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> FloatDomain:
        _check_bounds(self.bounds, self.log, "float")
        return self

    def values(self) -> list[Any] | None:
        """None: the points cannot be enumerated."""
        return None

    def contains(self, value: Any) -> bool:
        """Whether a value is a number within the bounds."""
        return _is_number(value) and self.bounds[0] <= value <= self.bounds[1]


class IntDomain(_Frozen):
    """``{int: [low, high]}``, with ``log: true`` uniform in the logarithm."""

    bounds: tuple[int, int] = Field(alias="int")
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> IntDomain:
        _check_bounds(self.bounds, self.log, "int")
        return self

    def values(self) -> list[Any] | None:
        """All points of a small range, otherwise None."""
        low, high = self.bounds
        return list(range(low, high + 1)) if high - low < 1000 and not self.log else None

    def contains(self, value: Any) -> bool:
        """Whether a value is a whole number within the bounds."""
        return _is_number(value) and float(value).is_integer() and self.bounds[0] <= value <= self.bounds[1]


def _check_bounds(bounds: tuple[float, float], log: bool, name: str) -> None:
    low, high = bounds
    if low >= high:
        raise InvalidValue("the range is empty", allowed="[low, high] with low < high", at=(name,))
    if log and low <= 0:
        raise InvalidValue("a logarithmic range starts above 0", allowed="0 < low < high", at=(name,))


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Domain = GridDomain | ValuesDomain | FloatDomain | IntDomain


class EarlyStopping(_Frozen):
    """Stop candidates that fall behind the others of their cell, by the best value of the selection metric so far.

    A candidate competes with its first seed; its other seeds start when the first has come through. Candidates of
    different cells never compete, and a winner's repeats are never stopped.

    Attributes:
        rule: ``asha`` (asynchronous successive halving: at 1, η, η², … times ``grace_epochs`` the best 1/η go on) or
            ``median`` (stop below the median of the earlier candidates at the same epoch).
        grace_epochs: epochs that every candidate gets.
        reduction_factor: η of ``asha``.
        min_candidates: ``median``: how many candidates must have reached an epoch before anything is stopped there.
    """

    rule: Literal["asha", "median"] = "asha"
    grace_epochs: int = Field(default=1, ge=1)
    reduction_factor: int = Field(default=3, ge=2)
    min_candidates: int = Field(default=5, ge=1)


class Search(_Frozen):
    """A search within every cell that ``when`` matches; the winner alone is repeated on all seeds.

    Attributes:
        when: key path → value or list of values; all must match. Empty matches every trained cell.
        space: key path → domain: ``{grid: [low, high, step]}``, ``{values: [...]}``, ``{float: [low, high]}`` or
            ``{int: [low, high]}``, the last two with ``log: true`` uniform in the logarithm.
        sampler: ``grid`` enumerates all combinations; ``random``, ``tpe`` and ``nsga2`` (Optuna) draw ``trials`` of
            them. ``nsga2`` looks for small RMSE and high accuracy together; the winner is chosen by ``select``.
        trials: number of candidates for ``random``, ``tpe`` and ``nsga2``.
        seeds: seeds per candidate; the mean of the selection metric over them is what counts.
        sampler_seed: seed of the sampler.
        early_stopping: when candidates are stopped before their last epoch; never when left out.
    """

    when: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Domain] = Field(min_length=1)
    sampler: Literal["grid", "random", "tpe", "nsga2"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None
    seeds: int = Field(default=1, ge=1)
    sampler_seed: int = Field(default=0, ge=0, lt=2**32)
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        problems = []
        if self.sampler == "grid":
            for path, domain in self.space.items():
                if domain.values() is None:
                    problems.append(
                        InvalidValue(
                            "a grid search cannot enumerate a continuous range",
                            allowed="grid or values here, or sampler: tpe with a number of trials",
                            at=("space", path),
                        )
                    )
            count = math.prod(len(domain.values() or [None]) for domain in self.space.values())
            if count > MAX_CELLS:
                what = f"the grid has {count:,} points"
                problems.append(InvalidValue(what, allowed=f"at most {MAX_CELLS:,}, or sampler: tpe", at=("space",)))
            if self.trials is not None:
                problems.append(
                    InvalidValue(
                        "a grid search tries every point", allowed="no 'trials', or sampler: tpe", at=("trials",)
                    )
                )
        elif self.trials is None:
            problems.append(InvalidValue(f"sampler {self.sampler} needs a number of trials", allowed="trials: 30"))
        if self.sampler == "nsga2" and self.early_stopping is not None:
            problems.append(
                InvalidValue(
                    "candidates that are judged by two metrics cannot be stopped by one",
                    allowed="early_stopping with grid, random or tpe",
                    at=("early_stopping",),
                )
            )
        if problems:
            raise InvalidValues(problems)
        return self

    def points(self) -> int:
        """How many candidates the search tries: no sampler tries a point of a finite space twice."""
        values = [domain.values() for domain in self.space.values()]
        limits = [] if self.trials is None else [self.trials]
        if None not in values:
            limits.append(math.prod(len(items or []) for items in values))
        return min(limits)

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether the space, as it is now, has a candidate: key path → value."""
        return all(domain.contains(values.get(path)) for path, domain in self.space.items())


class Select(_Frozen):
    """How the winner of a search is chosen: on validation scenes only.

    Attributes:
        metric: the mean over the search seeds decides; ``validation_accuracy`` for cells that predict the condition.
        mode: left out, the metric's own direction; the other one is refused.
    """

    metric: Literal["validation_rmse", "validation_accuracy"] = "validation_rmse"
    mode: Literal["min", "max"] | None = None

    @model_validator(mode="after")
    def _direction(self) -> Select:
        right = "min" if self.metric == "validation_rmse" else "max"
        if self.mode not in (None, right):
            raise InvalidValue(f"mode {self.mode} would choose the worst {self.metric}", allowed=right, at=("mode",))
        return self

    @property
    def direction(self) -> Literal["min", "max"]:
        """``min`` for an error, ``max`` for an accuracy."""
        return "min" if self.metric == "validation_rmse" else "max"

    @property
    def column(self) -> str:
        """The metric's column in the trial table."""
        return SELECTION_COLUMNS[self.metric]


TableName = Literal["performance", "gains", "manual_optimum", "complexity", "selection_gap"]
FigureName = Literal["lambda_sweep", "cdf", "bars", "learning_curves", "confusion", "condition_map", "error_map"]


class Report(_Frozen):
    """What the report shows.

    Attributes:
        tables: ``performance`` (errors and accuracy of every cell), ``gains`` (Table II: what each task and knowledge
            transfer add over the single tasks), ``complexity`` (Table III: best epoch, parameters, FLOPs and MACs),
            ``manual_optimum`` (MDA's best λ beside HDA, and what the search cost), ``selection_gap`` (what choosing
            without labels of the target costs).
        figures: ``lambda_sweep`` (error and accuracy over MDA's λ), ``cdf`` (of the position error), ``bars`` (errors
            side by side), ``learning_curves``, ``confusion`` (of the propagation conditions), ``condition_map`` (true
            and predicted conditions in the street), ``error_map`` (position errors in the street).
    """

    tables: tuple[TableName, ...] = get_args(TableName)
    figures: tuple[FigureName, ...] = get_args(FigureName)


class StudySpec(_Frozen):
    """A study.

    Attributes:
        study: name of letters, digits and ``_ . -``; also the name of the results folder.
        description: one or two sentences for the report.
        preset: a file of sizes, ``presets/NAME.yaml`` beside the spec or a shipped one (``small``: within an hour on
            two cores; ``paper``: the paper's size): it says what the spec does not say of ``site``, ``seeds``, ``base``
            and how much is searched. ``study run --preset NAME`` takes another. Its name is appended to the study's.
        site: name of a shipped site (``study data list``), or a site's folder, as seen from where the command
            runs.
        base: values that all cells share.
        axes: key path → list of values; every combination is a cell.
        references: rows added to every combination, to show what the networks add.
        seeds: how many model seeds, 0 … seeds − 1, every cell has (of a searched cell: its winner).
        search: searches within cells; at most one may match a cell.
        exclude: combinations to leave out: key path → value or list of values.
        select: how winners are chosen.
        claims: statements about the results, which the report judges.
        published: numbers of a publication, which the report shows beside the study's own.
        report: what the report shows.
        methods: what the user's methods of the study are, by import path. Not for writing: `study run` fills it in from
            the classes, and a results folder is read without importing them.
    """

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)
    description: str = ""
    preset: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40)
    site: str = Field(min_length=1)
    base: TrialConfiguration = TrialConfiguration()
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    references: tuple[Literal["MEAN", "KNN", "MODEL"], ...] = ("MEAN", "KNN", "MODEL")
    seeds: int = Field(default=5, ge=1, le=1000)
    search: tuple[Search, ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()
    select: Select = Select()
    claims: tuple[Claim, ...] = ()
    published: tuple[Published, ...] = ()
    report: Report = Report()
    methods: dict[MethodPath, UserMethod] = Field(default_factory=dict)

    def settings_of(self, method: str) -> MethodSettings | UserMethod:
        """What a method of this study is and reads, by its name or import path."""
        return METHOD_SETTINGS.get(method) or self.methods[method]

    @model_validator(mode="after")
    def _user_methods(self) -> StudySpec:
        problems = _check_methods(self.methods)
        used: list[tuple[tuple[str | int, ...], Any]] = [(("base", "method"), self.base.method)]
        used += [(("axes", "method", i), value) for i, value in enumerate(self.axes.get("method", ()))]
        problems += [
            InvalidValue("nothing is known about this class", allowed="a class that `study run` has imported", at=at)
            for at, value in used
            if isinstance(value, str) and ":" in value and value not in self.methods
        ]
        if problems:
            raise InvalidValues(problems)
        return self

    @model_validator(mode="after")
    def _paths_and_values(self) -> StudySpec:
        problems = _check_objective(self.base.objective, self.methods)
        fields = _FIELDS | _objective_fields(self.methods)
        for path, values in self.axes.items():
            at = ("axes", path)
            if not values:
                problems.append(InvalidValue("an axis needs at least one value", allowed="a list of values", at=at))
            seen: list[str] = []
            for i, value in enumerate(values):
                problems += _check_value(path, value, (*at, i), fields)
                text = canonical(value)  # 20 and 20.0 are one value
                if text in seen:
                    problems.append(InvalidValue("the value occurs twice on this axis", at=(*at, i)))
                seen.append(text)
            if not values:
                problems += _check_path(path, at, fields)
        count = math.prod(max(len(values), 1) for values in self.axes.values())
        if count > MAX_CELLS:
            problems.append(
                InvalidValue(f"the axes make {count:,} combinations", allowed=f"at most {MAX_CELLS:,}", at=("axes",))
            )
        for i, search in enumerate(self.search):
            if search.seeds > self.seeds:
                problems.append(
                    InvalidValue(
                        "a candidate has more seeds than the study",
                        allowed=f"at most seeds: {self.seeds}",
                        at=("search", i, "seeds"),
                    )
                )
            for path, domain in search.space.items():
                if path.startswith("split."):
                    problems.append(
                        InvalidValue(
                            "candidates on different scenes cannot be compared",
                            allowed="split settings in base or as an axis",
                            at=("search", i, "space", path),
                        )
                    )
                problems += _check_domain(path, domain, ("search", i, "space", path), fields)
                if path in self.axes:
                    problems.append(
                        InvalidValue(
                            "this key path is an axis already",
                            allowed="one of the two",
                            at=("search", i, "space", path),
                        )
                    )
            problems += _check_condition(search.when, ("search", i, "when"), fields)
        for i, condition in enumerate(self.exclude):
            problems += _check_condition(condition, ("exclude", i), fields)
        for i, claim in enumerate(self.claims):
            for name, condition, paths in parts_of(claim):
                problems += _check_condition(condition, ("claims", i, name), fields)
                for key, path in paths.items():
                    problems += _check_path(path, ("claims", i, key), fields)
        for i, published in enumerate(self.published):
            problems += _check_condition(published.when, ("published", i, "when"), fields)
        if len(set(self.references)) < len(self.references):
            problems.append(InvalidValue("a reference occurs twice", allowed="each of them once", at=("references",)))
        if self.base.method in REFERENCE_NAMES and "method" not in self.axes:
            problems.append(
                InvalidValue(
                    "reference rows are listed under 'references'",
                    allowed=", ".join(TRAINED_METHODS),
                    at=("base", "method"),
                )
            )
        if problems:
            raise InvalidValues(problems)
        return self

    @model_validator(mode="after")
    def _cells(self) -> StudySpec:
        from study.spec.expand import expand  # the expansion needs this class

        problems: list[InvalidValue] = []
        cells = expand(self, check=False)
        contradictions: dict[str, str] = {}  # reason → label of the first cell that has it
        configurations: list[tuple[str, TrialConfiguration]] = []
        for cell in cells:
            made = _configuration(cell.config)
            if isinstance(made, str):
                contradictions.setdefault(made, cell.label)
            else:
                configurations.append((cell.label, made))
        if contradictions:
            raise InvalidValues(
                InvalidValue(f"{reason} (cell {label!r})", at=("axes",)) for reason, label in contradictions.items()
            )
        combinations = expand(self, check=False, excluded=True)
        for i, search in enumerate(self.search):
            matched = [cell for cell in combinations if cell.trained and matches(cell.config, search.when)]
            if not matched:
                problems.append(
                    InvalidValue(
                        "'when' never matches a cell with a network of this study",
                        allowed="values that the axes or the base have",
                        at=("search", i, "when"),
                    )
                )
                continue
            # What is excluded may be what contradicts itself.
            sound = [cell for cell in matched if not isinstance(_configuration(cell.config), str)]
            for path in search.space:
                if all(config_value(cell.resolve(), path) is None for cell in sound):
                    names = ", ".join(dict.fromkeys(cell.method for cell in matched))
                    problems.append(
                        InvalidValue(
                            f"no cell that 'when' matches reads this setting ({names})",
                            allowed="settings that the method has, see docs/spec.md",
                            at=("search", i, "space", path),
                        )
                    )
        for i, condition in enumerate(self.exclude):
            if not any(matches(cell.config, condition) for cell in combinations):
                problems.append(
                    InvalidValue(
                        "'exclude' never matches a cell of this study",
                        allowed="values that the axes or the base have",
                        at=("exclude", i),
                    )
                )
        for cell in cells:
            found = [i for i, search in enumerate(self.search) if cell.trained and matches(cell.config, search.when)]
            if len(found) > 1:
                problems.append(
                    InvalidValue(
                        f"two searches match the cell {cell.label!r}",
                        allowed="at most one search for each cell",
                        at=("search", found[1], "when"),
                    )
                )
                break
            predicts = cell.settings.joint and cell.config["system"]["semantics"] != "none"
            if found and self.search[found[0]].sampler == "nsga2" and not predicts:
                problems.append(
                    InvalidValue(
                        f"the searched cell {cell.label!r} has no accuracy, and nsga2 looks for RMSE and accuracy",
                        allowed="tpe, or a search of cells that predict the condition",
                        at=("search", found[0], "sampler"),
                    )
                )
                break
            if found and self.select.metric == "validation_accuracy" and not predicts:
                problems.append(
                    InvalidValue(
                        f"the searched cell {cell.label!r} has no accuracy to select by",
                        allowed="validation_rmse, or a search of cells that predict the condition",
                        at=("select", "metric"),
                    )
                )
                break
        if not cells:
            problems.append(InvalidValue("'exclude' leaves no cell", allowed="at least one cell", at=("exclude",)))
        for label, configuration in configurations:
            try:
                configuration.check_input()
            except ConfigurationError as error:
                problems.append(
                    InvalidValue(f"{error.what} (cell {label!r})", allowed=error.fix, at=("base", "network"))
                )
                break
        if problems:
            raise InvalidValues(problems)
        return self


def _configuration(config: Mapping[str, Any]) -> TrialConfiguration | str:
    """The configuration, or why values that are allowed one by one cannot stand together."""
    try:
        return TrialConfiguration.model_validate_json(json.dumps(config), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return str(first["msg"]).removeprefix("Value error, ")


def key_paths() -> list[str]:
    """All key paths that an axis, a search or a condition may name."""
    return [path for path, _ in _fields(TrialConfiguration)]


def matches(config: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    """Whether every key path of a condition has the given value (or one of a list of values) in a configuration."""
    return all(_equal(config_value(config, path), wanted) for path, wanted in condition.items())


def _equal(value: Any, wanted: Any) -> bool:
    value = list(value) if isinstance(value, tuple) else value
    if value == wanted:
        return True
    return isinstance(wanted, list) and any(value == item for item in wanted)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        path = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, path + ".")
        else:
            yield path, field


_FIELDS: dict[str, FieldInfo] = dict(_fields(TrialConfiguration))


def _check_path(path: str, at: tuple[str | int, ...], fields: Mapping[str, FieldInfo]) -> list[InvalidValue]:
    if path in fields:
        return []
    hint = nearest(path, fields).removeprefix("; ")
    return [InvalidValue("no setting has this key path", allowed=", ".join(fields), at=at, hint=hint or None)]


def _check_value(
    path: str, value: Any, at: tuple[str | int, ...], fields: Mapping[str, FieldInfo]
) -> list[InvalidValue]:
    if problems := _check_path(path, at if not isinstance(at[-1], int) else at[:-1], fields):
        return problems
    field = fields[path]
    error = _refusal(field, value)
    if error is None:
        return []
    told = misfit(error, field, value) if isinstance(error, ValidationError) else None
    what, hint = told or ("the value does not fit this key path", None)
    return [InvalidValue(what, allowed=describe(field.annotation, tuple(field.metadata)), at=at, hint=hint)]


def _fits(field: FieldInfo, value: Any) -> bool:
    return _refusal(field, value) is None


def _refusal(field: FieldInfo, value: Any) -> ValidationError | TypeError | None:
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        return error
    return None


def _check_domain(
    path: str, domain: Domain, at: tuple[str | int, ...], fields: Mapping[str, FieldInfo]
) -> list[InvalidValue]:
    if problems := _check_path(path, at, fields):
        return problems
    values = domain.values()
    probes = values if values is not None else list(domain.bounds)  # type: ignore[union-attr]
    for value in probes:
        if problems := _check_value(path, value, at, fields):
            # The file has the domain there, and not each of its values.
            return [InvalidValue(f"{p.what}: {value!r}", p.allowed, p.at, p.hint) for p in problems]
    return []


def parts_of(claim: AnyClaim) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Of a claim: each condition by its key, with the key paths (by their keys) that stand beside the first."""
    if isinstance(claim, Comparison):
        return [("better", claim.better, {}), ("than", claim.than, {})]
    if isinstance(claim, Steadiness):
        return [("steadier", claim.steadier, {"over": claim.over}), ("than", claim.than, {})]
    if isinstance(claim, Dependence):
        return [("depends", claim.depends, {"upon": claim.upon})]
    return [("optimum", claim.optimum, {"of": claim.of, "differs_over": claim.differs_over})]


def _check_condition(
    condition: Mapping[str, Any], at: tuple[str | int, ...], fields: Mapping[str, FieldInfo]
) -> list[InvalidValue]:
    problems = []
    for path, wanted in condition.items():
        if _check_value(path, wanted, (*at, path), fields) and isinstance(wanted, list) and wanted:
            for value in wanted:
                problems += _check_value(path, value, (*at, path), fields)
        else:
            problems += _check_value(path, wanted, (*at, path), fields)
    return problems


# A user's setting has the type of its default.
_KINDS: dict[type, Any] = {bool: bool, int: int, float: Annotated[float, Field(allow_inf_nan=False)], str: str}


def _objective_fields(methods: Mapping[str, UserMethod]) -> dict[str, FieldInfo]:
    """Key path → field, of the settings that the user's methods add to the project's."""
    found = {}
    for method in methods.values():
        for name, default in method.objective.items():
            if (path := f"objective.{name}") not in _FIELDS:
                found[path] = FieldInfo.from_annotation(_KINDS[type(default)] | None)
    return found


def _check_objective(objective: ObjectiveSettings, methods: Mapping[str, UserMethod]) -> list[InvalidValue]:
    fields = _objective_fields(methods)
    problems = unknown_settings(objective, [path.removeprefix("objective.") for path in fields])
    problems = [InvalidValue(p.what, p.allowed, ("base", "objective", *p.at), p.hint) for p in problems]
    for name, value in (objective.model_extra or {}).items():
        if (path := f"objective.{name}") in fields:
            problems += _check_value(path, value, ("base", "objective", name), fields)
    return problems


def _check_methods(methods: Mapping[str, UserMethod]) -> list[InvalidValue]:
    """Whether methods can stand in one study: names of their own, and one type for each name of a setting."""
    problems = []
    names: dict[str, str] = {}
    kinds: dict[str, tuple[type, str]] = {}
    for path, method in methods.items():
        other = names.setdefault(method.name, path)
        if other != path:
            problems.append(
                InvalidValue(f"{path} and {other} have one name, {method.name!r}", allowed="a name for each method")
            )
        for name, default in method.objective.items():
            field = _FIELDS.get(f"objective.{name}")
            if field is not None and not _fits(field, default):
                words = describe(field.annotation, tuple(field.metadata))
                problems.append(
                    InvalidValue(
                        f"objective.{name} is a setting of the project's methods too, and the default of {path}, "
                        f"{default!r}, does not fit it",
                        allowed=f"{words}; or another name",
                    )
                )
            kind, first = kinds.setdefault(name, (type(default), path))
            if kind is not type(default):
                problems.append(
                    InvalidValue(
                        f"objective.{name} is {kind.__name__} in {first} and {type(default).__name__} in {path}",
                        allowed="one type for a setting of one name",
                    )
                )
    return problems
