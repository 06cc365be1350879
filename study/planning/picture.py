"""Cost against time over cluster sizes, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.drawing import write_figure
from reports.figures.cost_over_time import ClusterPoint, draw_cost_over_time
from study.planning.advice import Limits
from study.planning.answering import Answer

__all__ = ["draw_plans"]


def draw_plans(answers: Sequence[Answer], limits: Limits, file: Path) -> None:
    """Draw the sizes of one or several answers into a file.

    Raises:
        ResultsError: the file cannot be written, or its name has another suffix than .svg or .png.
    """
    points = [
        ClusterPoint(
            label=answer.plan.cluster,
            machines=size.machines,
            seconds=size.makespan,
            cost=size.cost,
            node_hours=size.node_hours,
            chosen=size is answer.chosen,
        )
        for answer in answers
        for size in answer.sizes
    ]
    currencies = {answer.plan.currency for answer in answers}
    figure = draw_cost_over_time(
        points,
        deadline_s=limits.seconds,
        budget=limits.cost,
        currency=currencies.pop() if len(currencies) == 1 else None,
    )
    write_figure(figure, file)
