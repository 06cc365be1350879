"""Deadlines and budgets as people write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from study.errors import SpecError
from study.planning.limits import deadline_seconds, plan_limits

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("8h", 8),
        ("90m", 1.5),
        ("1d12h", 36),
        ("1.5h", 1.5),
        ("2 h", 2),
        ("2026-03-01T20:00+02:00", 8),
        ("2026-03-01T20:00Z", 10),
        ("2026-03-01 20+02:00", 8),
    ],
)
def test_durations_and_times(text: str, hours: float) -> None:
    assert deadline_seconds(text, NOW) == pytest.approx(3600 * hours)


def test_a_day_ends_at_its_end() -> None:
    now = datetime(2026, 3, 1, 12, 0).astimezone()
    assert deadline_seconds("2026-03-01", now) == pytest.approx(12 * 3600)


@pytest.mark.parametrize(
    "text",
    ["soon", "8", "-3h", "h", "8x", "2026-13-01", "", "0h", "9999999d", "9999-12-31", "0001-01-01T00:00", "2500-01-01"],
)
def test_what_is_no_deadline(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        deadline_seconds(text, NOW)
    assert "8h" in str(caught.value.allowed)


def test_a_deadline_in_the_past() -> None:
    with pytest.raises(SpecError, match="has passed 93 days ago"):
        deadline_seconds("2025-11-28T12:00+02:00", NOW)


@pytest.mark.parametrize("budget", [0.0, -5.0, float("nan"), float("inf")])
def test_a_budget_is_a_number_above_0(budget: float) -> None:
    with pytest.raises(SpecError, match="leaves nothing"):
        plan_limits(None, budget)
