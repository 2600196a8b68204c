"""The spending limits of a story, and what was spent before it began."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from decimal import Decimal

PRICE = Decimal("0.192")
LABELS = ("", "a", "a", "b")


def spent_before(money: random.Random, begins: datetime) -> tuple[tuple[str, str, Decimal], ...]:
    """Draw what other runs spent before: day, label and US dollars."""
    days = [(begins - timedelta(days=back)).date().isoformat() for back in (1, 2, 7)]
    return tuple((day, money.choice(LABELS), PRICE * money.choice((1, 2))) for day in days if money.random() < 0.5)


def limits(money: random.Random, before: tuple[tuple[str, str, Decimal], ...], *, is_sure: bool) -> dict[str, str]:
    """Draw limits by label and period, of which some videos are left; `is_sure` that all runs share a month's."""
    drawn: dict[str, dict[str, str]] = {}
    for label, period in (("*", "month"), ("a", "month"), ("", "month"), ("*", "day"), ("a", "day")):
        if money.random() < 0.25 or (is_sure and not drawn):
            spent = sum(usd for _, whose, usd in before if period == "month" and label in {"*", whose})
            drawn.setdefault(label, {})[period] = str(spent + PRICE * money.choice((1, 2, 3, 5, 8)))
    return {"I2V_LIMITS": json.dumps(drawn)} if is_sure or (drawn and money.random() < 0.6) else {}
