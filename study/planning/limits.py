"""Deadlines and budgets as people write them."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta

from cluster.machines import machine_kinds
from cluster.model import Cluster
from cluster.prices import Prices
from study.errors import SpecError
from study.planning.advice import Limits
from study.running import RunLimit

__all__ = ["deadline_seconds", "plan_limits", "run_limit"]

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")
_ALLOWED = "a duration (8h, 90m, 1d12h) or a time to come (2027-01-31, 2027-01-31T18:00)"
_LONGEST_S = timedelta(days=36_500).total_seconds()


def deadline_seconds(text: str, now: datetime | None = None) -> float:
    """Seconds until a deadline: a duration from now, or a date and time (local unless it names a zone).

    Args:
        text: what the user wrote.
        now: the time; that of the machine when left out.

    Raises:
        SpecError: it is neither, or in the past.
    """
    where = f"--deadline {text}"
    plain = text.strip().lower().replace(" ", "")
    if _DURATION.fullmatch(plain):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(plain))
        if not 0 < seconds <= _LONGEST_S:
            raise SpecError("the deadline leaves no time, or more than a century", where=where, allowed=_ALLOWED)
        return seconds
    hint = f"write {plain}h for so many hours" if re.fullmatch(r"\d+(\.\d+)?", plain) else None
    now = (now or datetime.now()).astimezone()
    try:
        try:
            # A day alone ends at its end.
            until = datetime.combine(date.fromisoformat(text.strip()) + timedelta(days=1), time())
        except ValueError:
            until = datetime.fromisoformat(text.strip())
        seconds = (until.astimezone() - now).total_seconds()
    except (ValueError, OverflowError):
        raise SpecError("this is no deadline", where=where, allowed=_ALLOWED, fix=hint) from None
    if seconds > _LONGEST_S:
        raise SpecError("the deadline is more than a century away", where=where, allowed=_ALLOWED)
    if seconds <= 0:
        hours = -seconds / 3600
        ago = f"{hours:,.1f} hours ago" if hours < 48 else f"{hours / 24:,.0f} days ago"
        raise SpecError(
            f"the deadline has passed {ago}", where=where, allowed=_ALLOWED, fix="name a time to come, or a duration"
        )
    return seconds


def plan_limits(deadline: str | None, budget: float | None) -> Limits:
    """What a plan has to meet.

    Raises:
        SpecError: a limit that cannot be one.
    """
    return Limits(None if deadline is None else deadline_seconds(deadline), _positive("--budget", budget))


def run_limit(
    max_hours: float | None, max_cost: float | None, cluster: Cluster, prices: Prices, *, source: str
) -> RunLimit:
    """What a run may take.

    Args:
        max_hours, max_cost: what the user said.
        cluster: where it runs.
        prices: what machines cost.
        source: the cluster file, for messages.

    Raises:
        SpecError: a limit that cannot be one, or a cost where the price of a machine is not known.
        ClusterError: the cluster file does not say which machines there are.
    """
    hours, cost = _positive("--max-hours", max_hours), _positive("--max-cost", max_cost)
    if cost is None:
        return RunLimit(hours)
    kinds = machine_kinds(cluster, prices, source=source)
    rates = [None if kind.price_per_hour is None else kind.price_per_hour * kind.count for kind in kinds]
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates) or len({kind.currency for kind in kinds}) > 1:
        notes = "; ".join(dict.fromkeys(kind.price_note for kind in kinds))
        raise SpecError(
            f"a limit on cost needs prices: {notes}",
            where=f"--max-cost {cost:g}, {source}",
            allowed="machines whose price is known, all in one currency",
            fix="write price_per_hour and currency beside them under nodes, or use --max-hours",
        )
    return RunLimit(hours, cost, math.fsum(known), kinds[0].currency)


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise SpecError("this leaves nothing", where=f"{name} {value:g}", allowed="a number above 0")
    return value
