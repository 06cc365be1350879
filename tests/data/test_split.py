"""Splits: laws for all of them, and what is refused."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from study.data.split import Split
from study.errors import ConfigurationError

COLUMNS, ROWS = 30, 4
POSITIONS = np.stack(
    [np.repeat(2.0 * np.arange(COLUMNS), ROWS), np.tile(np.arange(ROWS), COLUMNS), np.ones(COLUMNS * ROWS)], 1
).astype(np.float32)

# Whole blocks, of up to 8 m of the 44 m, are drawn until a share is reached: larger shares may leave none for training.
shares = st.floats(0.05, 0.3)
splits = st.builds(
    lambda sizes, block, **values: Split(
        **dict(
            zip(("train_scenes", "validation_scenes", "test_scenes"), (size * block for size in sizes), strict=True)
        ),
        block_scenes=block,
        **values,
    ),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    st.integers(1, 3),
    order=st.sampled_from(["time", "blocks"]),
    block_seed=st.integers(0, 9),
    target=st.sampled_from(["test", "validation"]),
    positions=st.sampled_from(["shared", "held_out"]),
    held_out=st.fixed_dictionaries(
        {
            "validation": shares | st.just([[0.0, 9.0, 0.0, 9.0]]),
            "test": shares | st.just([[20.0, 40.0, 0.0, 9.0], [50.0, 55.0, 0.0, 2.0]]),
            "block_m": st.floats(1.0, 8.0),
            "seed": st.integers(0, 9),
        }
    ),
    area=st.just("all") | st.just([0.0, 44.0, 0.0, 9.0]),
)


@settings(max_examples=150, deadline=None)
@given(splits)
def test_the_parts_share_nothing_that_they_must_not_share(split: Split) -> None:
    scenes, parts = 40, split.parts(40, POSITIONS)
    three = (parts.source, parts.validation, parts.test)
    assert [len(part.scenes) for part in three] == [split.train_scenes, split.validation_scenes, split.test_scenes]
    every = [scene for part in three for scene in part.scenes]
    assert len(set(every)) == len(every)
    assert set(every) <= set(range(scenes))
    assert parts.target is (parts.test if split.target == "test" else parts.validation)
    used = np.flatnonzero(POSITIONS[:, 0] < 44) if split.area != "all" else np.arange(len(POSITIONS))
    places = [set(part.positions.tolist()) for part in three]
    assert all(places)
    assert set.union(*places) == set(used.tolist())
    if split.positions == "shared":
        assert places[0] == places[1] == places[2]
    else:
        assert sum(map(len, places)) == len(used)
    assert Split.model_validate(split.resolved()).describe() == split.describe()
    assert Split.model_validate(split.resolved()).parts(40, POSITIONS).source.scenes == parts.source.scenes


@settings(max_examples=50, deadline=None)
@given(splits, st.integers(1, 4))
def test_more_labelled_scenes_contain_fewer(split: Split, few: int) -> None:
    everything = split.parts(40, POSITIONS)
    values = split.model_dump()
    before: tuple[int, ...] = ()
    for count in range(1, min(few, split.train_scenes) + 1):
        some = Split.model_validate({**values, "labelled_scenes": count}).parts(40, POSITIONS)
        assert some.source.scenes[: len(before)] == before
        assert set(some.source.scenes) <= set(everything.source.scenes)
        assert (some.validation.scenes, some.test.scenes) == (everything.validation.scenes, everything.test.scenes)
        before = some.source.scenes
        assert len(before) == count


def test_time_order_takes_scenes_from_the_first_on() -> None:
    parts = Split(train_scenes=3, validation_scenes=2, test_scenes=4).parts(120, POSITIONS)
    assert (parts.source.scenes, parts.validation.scenes, parts.test.scenes) == ((0, 1, 2), (3, 4), (5, 6, 7, 8))


def test_blocks_stay_together_and_spread_over_the_whole_time() -> None:
    split = Split(train_scenes=20, validation_scenes=10, test_scenes=10, order="blocks", block_scenes=5)
    train, validation, test = split.scenes(120)
    for part in (train, validation, test):
        assert all(part[i + 1] == part[i] + 1 for i in range(len(part)) if i % 5 < 4 and i + 1 < len(part))
        assert all(part[i] % 5 == 0 for i in range(0, len(part), 5))
    assert max(train + validation + test) > 60
    other = split.model_copy(update={"block_seed": 1}).scenes(120)
    assert other != (train, validation, test)


@pytest.mark.parametrize("block_m", [4.0, 7.5])
def test_held_out_shares_are_met_by_whole_blocks(block_m: float) -> None:
    split = Split(positions="held_out", held_out={"validation": 0.1, "test": 0.3, "block_m": block_m})  # type: ignore[arg-type]
    parts = split.parts(120, POSITIONS)
    most = (int(block_m / 2) + 1) * ROWS
    for part, share in ((parts.validation, 0.1), (parts.test, 0.3)):
        assert share * len(POSITIONS) <= len(part.positions) < share * len(POSITIONS) + most
    block = np.floor(POSITIONS[:, 0] / block_m)
    assert set(block[parts.test.positions]).isdisjoint(block[parts.source.positions])


def test_areas_that_touch_share_no_position() -> None:
    held = {"validation": [[0, 10, 0, 9]], "test": [[10, 20, 0, 9]]}
    parts = Split.model_validate({"positions": "held_out", "held_out": held}).parts(120, POSITIONS)
    assert set(POSITIONS[parts.validation.positions, 0]) == {0, 2, 4, 6, 8}
    assert set(POSITIONS[parts.test.positions, 0]) == {10, 12, 14, 16, 18}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"held_out": {"validation": [[0, 10, 0, 9]], "test": [[9, 20, 0, 9]]}}, "overlap"),
        ({"held_out": {"validation": 0.5, "test": 0.5}}, "none is left to train"),
        ({"held_out": {"validation": [[10, 0, 0, 9]]}}, "x0 < x1"),
        ({"held_out": {"test": []}}, "at least 1 item"),
        ({"area": [0, 0, 0, 1]}, "x0 < x1"),
        ({"labelled_scenes": 51}, "at most train_scenes = 50"),
        ({"order": "blocks", "train_scenes": 51}, "train_scenes must be a multiple of block_scenes = 5"),
        ({"positions": "apart"}, "shared"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Split.model_validate(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "needs 120 scenes, but site 'x' has 100"),
        ({"train_scenes": 10, "area": [500, 600, 0, 9]}, "no user position of site 'x' lies in the area"),
        (
            {"train_scenes": 10, "positions": "held_out", "held_out": {"test": [[500, 600, 0, 9]]}},
            "no user position of site 'x' is left for test",
        ),
        (
            {"train_scenes": 10, "positions": "held_out", "held_out": {"block_m": 1000}},
            "no user position of site 'x' is left for training",
        ),
    ],
)
def test_what_a_site_cannot_give_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        Split.model_validate(values).parts(100, POSITIONS, "site 'x'")
    assert caught.value.where
    assert caught.value.allowed
    assert caught.value.fix


def test_settings_that_are_not_read_are_not_part_of_the_identity() -> None:
    assert Split(block_seed=3, held_out={"seed": 4}).resolved() == Split().resolved()  # type: ignore[arg-type]
    assert Split(order="blocks", block_seed=3).resolved() != Split(order="blocks").resolved()
    areas = {"validation": [[0, 10, 0, 9]], "test": [[10, 20, 0, 9]]}
    one, two = (
        Split.model_validate({"positions": "held_out", "held_out": {**areas, "seed": seed}}).resolved()
        for seed in (1, 2)
    )
    assert one == two
    assert Split(labelled_scenes=50).resolved() == Split().resolved()
    assert Split(labelled_scenes=49).resolved() != Split().resolved()


def test_the_caption_says_what_differs_from_the_paper() -> None:
    words = Split.model_validate(
        {
            "order": "blocks",
            "labelled_scenes": 10,
            "positions": "held_out",
            "held_out": {"validation": 0.1, "test": [[1, 2, 3, 4]]},
            "area": [0, 50, -3, 9],
            "target": "validation",
        }
    ).describe()
    for part in (
        "50 training, 20 validation, 50 test scenes in shuffled blocks of 5 (seed 0)",
        "10 of the training scenes labelled",
        "unlabelled target data from the validation scenes",
        "positions held out in whole blocks of 10 m (seed 0): at least 10 % for validation, x 1 … 2 m",
        "x 1 … 2 m, y 3 … 4 m for test",
        "area x 0 … 50 m, y −3 … 9 m",
    ):
        assert part in words
