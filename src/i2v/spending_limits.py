"""Spending limits by label and period, from `I2V_LIMITS` and `I2V_DAILY_CAP_USD`: what they are called and cover.

`i2v.ledger.budget` enforces them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

Period = Literal["day", "month"]
Amount = Annotated[Decimal, Field(ge=0, le=1_000_000_000)]
LimitsByLabel = dict[str, dict[Period, Amount]]
"""The value of `I2V_LIMITS`: US dollars by label and period."""
ALL_RUNS = "*"
"""The label of a limit of all runs together; an empty label is that of runs without one."""
DAILY_CAP = "I2V_DAILY_CAP_USD"


@dataclass(frozen=True, slots=True)
class Limit:
    """What the runs with one label may spend in one UTC day or month; `name` is what messages call it."""

    label: str
    period: Period
    usd: Decimal
    name: str

    def covers(self, label: str) -> bool:
        """Return whether it limits runs with this label."""
        return self.label in {ALL_RUNS, label}

    @property
    def is_daily_cap(self) -> bool:
        """Whether it limits all runs of a day."""
        return (self.label, self.period) == (ALL_RUNS, "day")

    @property
    def resets_at(self) -> datetime:
        """When its current period ends."""
        today = datetime.now(UTC).date()
        tomorrow = today + timedelta(days=1)
        first = tomorrow if self.period == "day" else date(today.year + today.month // 12, today.month % 12 + 1, 1)
        return datetime.combine(first, time(), UTC)


class RunLimits(NamedTuple):
    """A run's label, empty if it has none, and the limits that cover it."""

    label: str = ""
    limits: tuple[Limit, ...] = ()


NO_LIMITS = RunLimits()


def check_limits(value: Mapping[str, object]) -> None:
    """Raise `ValueError` if a label has no limits by period."""
    for label, periods in value.items():
        if not isinstance(periods, dict) or not periods or periods.keys() - {"day", "month"}:
            raise ValueError(f'{label!r} needs US dollars by period; use e.g. {{"day": 5}} or {{"month": 100}}')


def all_limits(by_label: Mapping[str, Mapping[Period, Decimal]], daily_cap_usd: Decimal | None) -> tuple[Limit, ...]:
    """Return the limits of both settings; of two for all runs in a day, the smaller counts."""
    limits = [
        Limit(label, period, usd, f"I2V_LIMITS ({_whose(label)}, {period})")
        for label, periods in by_label.items()
        for period, usd in periods.items()
    ]
    if daily_cap_usd is None:
        return tuple(limits)
    cap = Limit(ALL_RUNS, "day", daily_cap_usd, DAILY_CAP)
    same = [limit for limit in limits if limit.is_daily_cap]
    if same and same[0].usd < daily_cap_usd:
        return tuple(limits)
    return (cap, *(limit for limit in limits if limit not in same))


def _whose(label: str) -> str:
    if label == ALL_RUNS:
        return "all runs"
    return f"label {label!r}" if label else "no label"


def reset_hint(limit_name: str) -> str:
    """Return when a limit with this name resets: `wait for the next UTC day`; empty if it never does."""
    if limit_name == DAILY_CAP or limit_name.endswith(", day)"):
        return "wait for the next UTC day"
    return "wait for the next UTC month" if limit_name.endswith(", month)") else ""
