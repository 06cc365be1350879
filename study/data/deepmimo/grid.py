"""Every n-th user of a grid in both directions. Shapes: N users in the files, L users that are taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.data.deepmimo.layout import GridShape
from study.errors import DataError

__all__ = ["take_every"]

# Two coordinates closer than this are one row or column: files hold rounded positions.
_SAME_M = 0.01


def take_every(
    step: int, position_m: NDArray[np.float64], grids: Sequence[GridShape]
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Every step-th point in both directions, counted from the first user's corner.

    Positions tell the grid where they stand in rows along x and y, because files name grids by one row of all users
    too; the shape that the files name serves for grids that are turned.

    Args:
        step: 1 takes all users.
        position_m: [N, 3].
        grids: as the files name them.

    Returns:
        Users in the files' order, [L], and the shape of each grid that is taken from as (along x, along y), or
        (users per row, rows) where the positions do not tell; empty where there is no grid.

    Raises:
        DataError: the step is above 1 and the users stand in no grid.
    """
    count = len(position_m)
    whole = _lattice(position_m)
    places = [whole] if whole is not None else _places(position_m, grids)
    if places is None:
        if step == 1:
            return np.arange(count), []
        raise DataError(
            f"--grid-step is {step}, and the {count:,} users stand in no grid that their positions or user_grids tell",
            allowed="--grid-step 1",
            fix="import all users",
        )
    keep = [(place % step == 0).all(1) for place in places]
    corners = [place.max(0) // step + 1 for place in places]
    return np.flatnonzero(np.concatenate(keep)), [(int(along), int(across)) for along, across in corners]


def _places(position_m: NDArray[np.float64], grids: Sequence[GridShape]) -> list[NDArray[np.int64]] | None:
    """Places of the users of each grid that the files name, [users, 2] each; None where one of them has no shape."""
    places = []
    start = 0
    for grid in grids:
        place = _lattice(position_m[start : start + grid.users])
        place = _named(grid) if place is None else place
        if place is None:
            return None
        places.append(place)
        start += grid.users
    return places


def _named(grid: GridShape) -> NDArray[np.int64] | None:
    """Place of each user in its row, and its row, [users, 2], from the shape that the files name."""
    if not grid.rows or not grid.per_row or grid.rows * grid.per_row != grid.users:
        return None
    number = np.arange(grid.users)
    if grid.by_column:
        return np.stack([number // grid.rows, number % grid.rows], 1)
    return np.stack([number % grid.per_row, number // grid.per_row], 1)


def _lattice(position_m: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Place of each user along x and along y, [users, 2], the first user at an edge being at 0; None for no lattice."""
    if not len(position_m):
        return None
    along, across = _ranks(position_m[:, 0]), _ranks(position_m[:, 1])
    if along is None or across is None:
        return None
    height = int(across.max()) + 1
    places = along * height + across
    if (int(along.max()) + 1) * height != len(places) or len(np.unique(places)) != len(places):
        return None
    return np.stack([ranks.max() - ranks if ranks[0] == ranks.max() else ranks for ranks in (along, across)], 1)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Number of the row that each coordinate belongs to, from the lowest; None where rows run into each other."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    row = np.concatenate([[0], np.cumsum(np.diff(ordered) > _SAME_M)])
    if (ordered - ordered[np.searchsorted(row, row)] > _SAME_M).any():
        return None
    ranks = np.empty(len(values), np.int64)
    ranks[order] = row
    return ranks
