"""The limits of `I2V_LIMITS` and `I2V_DAILY_CAP_USD`: which of two counts, whom they cover, and when they reset."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from i2v import spending_limits
from i2v.errors import UsageError
from i2v.settings import read_settings
from i2v.spending_limits import Limit, all_limits, reset_hint

FIVE, SIX = Decimal(5), Decimal(6)


@pytest.mark.parametrize(
    ("day", "cap", "name"),
    [
        (None, FIVE, "I2V_DAILY_CAP_USD"),
        (FIVE, None, "I2V_LIMITS (all runs, day)"),
        (FIVE, SIX, "I2V_LIMITS (all runs, day)"),
        (SIX, FIVE, "I2V_DAILY_CAP_USD"),
        (FIVE, FIVE, "I2V_DAILY_CAP_USD"),
    ],
)
def test_the_smaller_of_two_daily_limits_counts(day: Decimal | None, cap: Decimal | None, name: str) -> None:
    """It is named after the variable that set it."""
    (limit,) = all_limits({"*": {"day": day}} if day is not None else {}, cap)
    assert (limit.name, limit.usd) == (name, FIVE)


@pytest.mark.parametrize(
    ("label", "covered"), [("*", ["", "a", "A", "b", "*"]), ("", [""]), ("a", ["a"]), ("b ", []), ("A", ["A"])]
)
def test_a_limit_covers_its_label_as_it_is(label: str, covered: list[str]) -> None:
    """A star covers all, an empty label those without one, any other that label alone."""
    limit = Limit(label, "day", FIVE, "x")
    assert [one for one in ("", "a", "A", "b", "*") if limit.covers(one)] == covered


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2026-11-27 13:00", "2026-11-28", "2026-12-01"),
        ("2026-12-31 23:59", "2027-01-01", "2027-01-01"),
        ("2028-02-28 00:00", "2028-02-29", "2028-03-01"),
    ],
)
def test_a_limit_resets_at_the_next_utc_day_or_month(
    monkeypatch: pytest.MonkeyPatch, now: str, day: str, month: str
) -> None:
    """Also at a year's end and in a leap year."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            del tz
            return datetime.fromisoformat(now).replace(tzinfo=UTC)

    monkeypatch.setattr(spending_limits, "datetime", Clock)
    limits = all_limits({"a": {"day": FIVE, "month": FIVE}}, None)
    assert [f"{limit.resets_at:%Y-%m-%d %H:%M}" for limit in limits] == [f"{day} 00:00", f"{month} 00:00"]
    assert [reset_hint(limit.name) for limit in limits] == [
        "wait for the next UTC day",
        "wait for the next UTC month",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"team-a": 5}', "'team-a' needs US dollars by period"),
        ('{"team-a": {}}', "'team-a' needs US dollars by period"),
        ('{"team-a": {"week": 5}}', "'team-a' needs US dollars by period"),
        ('{"a": {"day": 1}, "a": {"month": 5}}', "it has the same key twice"),
        ('{"a": {"day": 1, "day": 5}}', "it has the same key twice"),
        ('{"a": {"day": -1}}', "greater than or equal to 0"),
        ('{"a": {"day": NaN}}', "finite number"),
        ('{"a": {"day": 1e999}}', "less than or equal to"),
        ('{"a": {"day": true}}', "Decimal input"),
        ('{"a": {"day": null}}', "Decimal input"),
        ('{"a": {"day": "5 USD"}}', "valid decimal"),
        ("a=5", "not valid JSON; use e.g. "),
        ("[]", "not a JSON object; use e.g. "),
    ],
)
def test_invalid_limits_are_an_error_before_the_run(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    """No limit is dropped in silence; the message names the variable, the label and what is wrong."""
    monkeypatch.setenv("I2V_LIMITS", text)
    with pytest.raises(UsageError, match=r"^I2V_LIMITS[.:].*") as caught:
        read_settings()
    assert message in str(caught.value)
