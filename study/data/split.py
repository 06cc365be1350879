"""Which scenes and positions train, validate and test, and what the unlabelled target domain is. No torch here.

Shapes: S scenes, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from study.errors import ConfigurationError

if TYPE_CHECKING:  # a spec is read without NumPy, which takes longer than all of it
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Area", "HeldOut", "Part", "Split", "SplitParts"]

BLOCK_SCENES = 5


def _has_size(area: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, x1, y0, y1 = area
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"an area is [x0, x1, y0, y1] with x0 < x1 and y0 < y1, but is {list(area)}")
    return area


# [x0, x1, y0, y1] in metres; positions with x0 ≤ x < x1 and y0 ≤ y < y1 are inside, so that neighbours share none.
Area = Annotated[tuple[float, float, float, float], AfterValidator(_has_size)]
Share = Annotated[float, Field(gt=0, lt=1)]
Areas = Annotated[tuple[Area, ...], Field(min_length=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HeldOut(_Settings):
    """Positions that no labelled training sample has (``positions: held_out``).

    Attributes:
        validation, test: the least share of the positions that is held out for it (whole blocks are taken), or areas
            [[x0, x1, y0, y1], …] in metres, which must not overlap.
        block_m: shares are drawn in square blocks of this edge, because neighbouring positions have nearly the same
            channel.
        seed: seed of the drawn blocks.
    """

    validation: Share | Areas = 0.1
    test: Share | Areas = 0.2
    block_m: float = Field(default=10.0, ge=0.1)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _apart(self) -> HeldOut:
        shares = [part for part in (self.validation, self.test) if isinstance(part, float)]
        if sum(shares) >= 1:
            raise ValueError(f"validation and test hold out {sum(shares):.0%} of the positions; none is left to train")
        if isinstance(self.validation, tuple) and isinstance(self.test, tuple):
            for one in self.validation:
                for other in self.test:
                    if max(one[0], other[0]) < min(one[1], other[1]) and max(one[2], other[2]) < min(one[3], other[3]):
                        raise ValueError(
                            f"the held-out areas {list(one)} (validation) and {list(other)} (test) overlap: a position "
                            "would be in both"
                        )
        return self


class Split(_Settings):
    """The data protocol (Section V-A, and what goes beyond it).

    Attributes:
        train_scenes, validation_scenes, test_scenes: number of scenes; with ``order: blocks`` a multiple of
            ``block_scenes``.
        order: how scenes are handed out, in this order of the parts: in ``time`` order from the first scene on, or in
            shuffled ``blocks`` of consecutive scenes.
        block_scenes: scenes per block; read with ``order: blocks`` alone.
        block_seed: seed of the blocks' order; read with ``order: blocks`` alone.
        labelled_scenes: how many of the training scenes have labels (the first ones in the order above, so that more
            scenes contain fewer), or ``all``. The others take no part in training; they measure the source risk.
        target: scenes whose unlabelled samples are the target domain: ``test`` (transductive, as in the paper) or
            ``validation`` (the test scenes stay unseen). Methods that do not adapt do not read it.
        positions: ``shared`` (the same in all parts, as in the paper) or ``held_out`` (validation and test have
            positions of their own, as the keys of ``held_out`` say).
        held_out: read with ``positions: held_out`` alone.
        area: [x0, x1, y0, y1] in metres, or ``all``; positions outside are not used at all.
        data_seed: seed of what is drawn per channel realization (the number of paths); the same for all trials, so
            that methods are compared on the same channels.
    """

    train_scenes: int = Field(default=50, ge=1)
    validation_scenes: int = Field(default=20, ge=1)
    test_scenes: int = Field(default=50, ge=1)
    order: Literal["time", "blocks"] = "time"
    block_scenes: int = Field(default=BLOCK_SCENES, ge=1)
    block_seed: int = Field(default=0, ge=0, lt=2**32)
    labelled_scenes: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    target: Literal["test", "validation"] = "test"
    positions: Literal["shared", "held_out"] = "shared"
    held_out: HeldOut = HeldOut()
    area: Area | Literal["all"] = "all"
    data_seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _fits(self) -> Split:
        if self.labelled_scenes != "all" and self.labelled_scenes > self.train_scenes:
            raise ValueError(
                f"labelled_scenes must be at most train_scenes = {self.train_scenes}, but is {self.labelled_scenes}"
            )
        if self.order == "blocks":
            for name in ("train_scenes", "validation_scenes", "test_scenes"):
                if getattr(self, name) % self.block_scenes:
                    raise ValueError(
                        f"with order: blocks, {name} must be a multiple of block_scenes = {self.block_scenes}, but is "
                        f"{getattr(self, name)}"
                    )
        return self

    def resolved(self) -> dict[str, Any]:
        """As plain data, without what this split does not read."""
        values = self.model_dump(mode="json")
        if self.labelled_scenes == self.train_scenes:
            values["labelled_scenes"] = "all"
        if self.order == "time":
            del values["block_scenes"], values["block_seed"]
        if self.positions == "shared":
            del values["held_out"]
        elif not any(isinstance(part, float) for part in (self.held_out.validation, self.held_out.test)):
            del values["held_out"]["block_m"], values["held_out"]["seed"]
        return values

    def parts(self, scenes: int, position_m: NDArray[np.float32], site: str = "the site") -> SplitParts:
        """Scenes and positions of every part.

        Args:
            scenes: scenes of the site.
            position_m: its user positions [L, 3].
            site: its name, for messages.

        Raises:
            ConfigurationError: the site has too few scenes, or a part would have no positions.
        """
        train, validation, test = self.scenes(scenes, site)
        at_train, at_validation, at_test = self._positions(position_m, site)
        labelled = len(train) if self.labelled_scenes == "all" else self.labelled_scenes
        source, held_back = Part(train[:labelled], at_train), Part(train[labelled:], at_train)
        evaluated = {"validation": Part(validation, at_validation), "test": Part(test, at_test)}
        return SplitParts(source, **evaluated, target=evaluated[self.target], held_back=held_back)

    def scenes(
        self, available: int, site: str = "the site"
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Scene numbers for training, validation and test.

        Raises:
            ConfigurationError: the site has fewer scenes than the split needs.
        """
        sizes = (self.train_scenes, self.validation_scenes, self.test_scenes)
        if sum(sizes) > available:
            raise ConfigurationError(
                f"the split needs {sum(sizes)} scenes, but {site} has {available}",
                where="split.train_scenes + split.validation_scenes + split.test_scenes",
                allowed=f"a sum of at most {available}",
                fix="ask for fewer scenes or choose a site with more",
            )
        order: Sequence[int] = range(sum(sizes))
        if self.order == "blocks":
            import numpy as np

            # Of all whole blocks of the site, so that the parts spread over its whole time.
            blocks = np.random.default_rng(self.block_seed).permutation(available // self.block_scenes)
            starts = blocks[: sum(sizes) // self.block_scenes] * self.block_scenes
            order = [int(start) + offset for start in starts for offset in range(self.block_scenes)]
        ends = [0, *accumulate(sizes)]
        train, validation, test = (tuple(order[start:end]) for start, end in pairwise(ends))
        return train, validation, test

    def _positions(self, position_m: NDArray[np.float32], site: str) -> tuple[NDArray[np.int64], ...]:
        """Position numbers for training, validation and test."""
        import numpy as np

        used = np.arange(len(position_m)) if self.area == "all" else np.flatnonzero(_inside(position_m, self.area))
        if not len(used):
            raise ConfigurationError(
                f"no user position of {site} lies in the area {list(self.area)}",
                where="split.area",
                allowed="[x0, x1, y0, y1] within " + _extent(position_m),
                fix="widen the area",
            )
        if self.positions == "shared":
            return used, used, used
        part = np.zeros(len(position_m), np.int64)  # 0 training, 1 validation, 2 test
        for number, wanted in ((1, self.held_out.validation), (2, self.held_out.test)):
            if isinstance(wanted, tuple):
                part[np.any([_inside(position_m, area) for area in wanted], axis=0)] = number
        self._draw_blocks(part, used, position_m)
        found = tuple(used[part[used] == number] for number in range(3))
        for name, numbers in zip(("training", "validation", "test"), found, strict=True):
            if not len(numbers):
                raise ConfigurationError(
                    f"no user position of {site} is left for {name}",
                    where="split.held_out",
                    allowed="shares or areas that leave positions for every part; the positions used lie within "
                    + _extent(position_m[used]),
                    fix="change the shares or areas, or use smaller blocks (split.held_out.block_m)",
                )
        return found

    def _draw_blocks(self, part: NDArray[np.int64], used: NDArray[np.int64], position_m: NDArray[np.float32]) -> None:
        """Hand whole blocks of the positions that are still free to test, then to validation, in place."""
        import numpy as np

        free = used[part[used] == 0]
        corner = position_m[used, :2].min(0)
        cell = np.floor((position_m[free, :2].astype(np.float64) - corner) / self.held_out.block_m).astype(np.int64)
        _, block = np.unique(cell, axis=0, return_inverse=True)
        order = np.random.default_rng(self.held_out.seed).permutation(int(block.max(initial=-1)) + 1)
        for number, wanted in ((2, self.held_out.test), (1, self.held_out.validation)):
            taken = 0
            while isinstance(wanted, float) and taken < wanted * len(used) and len(order):
                numbers = free[block.reshape(-1) == order[0]]
                part[numbers], order, taken = number, order[1:], taken + len(numbers)

    def describe(self) -> str:
        """The split in words, for captions."""
        blocks = f"in shuffled blocks of {self.block_scenes} (seed {self.block_seed})"
        words = [
            f"{self.train_scenes} training, {self.validation_scenes} validation, {self.test_scenes} test scenes "
            + ("in time order" if self.order == "time" else blocks)
        ]
        if self.labelled_scenes not in ("all", self.train_scenes):
            words.append(f"{self.labelled_scenes} of the training scenes labelled, the others held back")
        words.append(f"unlabelled target data from the {self.target} scenes")
        if self.positions == "shared":
            words.append("positions shared")
        else:
            parts = (("validation", self.held_out.validation), ("test", self.held_out.test))
            held = [
                f"at least {100 * part:g} % for {name}" if isinstance(part, float) else f"{_list(part)} for {name}"
                for name, part in parts
            ]
            drawn = any(isinstance(part, float) for _, part in parts)
            blocks = f" in whole blocks of {self.held_out.block_m:g} m (seed {self.held_out.seed})" if drawn else ""
            words.append(f"positions held out{blocks}: {', '.join(held)}")
        if self.area != "all":
            words.append(f"area {_list([self.area])}")
        return "; ".join(words)


class Part(NamedTuple):
    """Samples: every one of these positions in every one of these scenes, scene by scene."""

    scenes: tuple[int, ...]
    positions: NDArray[np.int64]


class SplitParts(NamedTuple):
    """Parts of a split. Source, validation and test share no scene; with held-out positions no position either.

    ``held_back`` are the training scenes that have no labels for training; often there are none.
    """

    source: Part
    validation: Part
    test: Part
    target: Part
    held_back: Part


def _inside(position_m: NDArray[np.float32], area: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    x0, x1, y0, y1 = area
    x, y = position_m[:, 0], position_m[:, 1]
    result: NDArray[np.bool_] = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return result


def _extent(position_m: NDArray[np.float32]) -> str:
    (x0, y0), (x1, y1) = position_m[:, :2].min(0), position_m[:, :2].max(0)
    return f"x {x0:g} … {x1:g} m, y {y0:g} … {y1:g} m"


def _list(areas: Any) -> str:
    return ", ".join(f"x {x0:g} … {x1:g} m, y {y0:g} … {y1:g} m" for x0, x1, y0, y1 in areas).replace("-", "−")
