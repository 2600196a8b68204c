"""What the spending limits have left now: `read_usage`. It reads, and never writes."""

from decimal import Decimal
from typing import Any, NamedTuple

from i2v.clock import today_utc
from i2v.ledger.day_spend import DaySpend, DaySpendStore
from i2v.ledger.documents import Document
from i2v.ledger.shared_limits import SharedLimits
from i2v.money import ZERO, money_text
from i2v.s3.storage import Storage
from i2v.settings import Settings
from i2v.spending_limits import Limit


class LimitUsage(NamedTuple):
    """A limit, and what the runs that it covers have spent or reserved in its current period."""

    limit: Limit
    spent_usd: Decimal

    @property
    def left_usd(self) -> Decimal:
        """What can still be spent."""
        return max(self.limit.usd - self.spent_usd, ZERO)

    @property
    def resets(self) -> str:
        """When the current period ends, in UTC."""
        return f"{self.limit.resets_at:%Y-%m-%d %H:%M}"

    @property
    def in_words(self) -> str:
        """One line, e.g. `I2V_DAILY_CAP_USD has $3.40 of $20.00 left until 2026-11-23 00:00 UTC`."""
        left, all_of_it = money_text(self.left_usd), money_text(self.limit.usd)
        return f"{self.limit.name} has ${left} of ${all_of_it} left until {self.resets} UTC"

    def for_json(self) -> dict[str, Any]:
        """Return plain JSON, with money as numbers."""
        amounts = {"limit_usd": self.limit.usd, "spent_usd": self.spent_usd, "left_usd": self.left_usd}
        return {
            "name": self.limit.name,
            "label": self.limit.label,
            "period": self.limit.period,
            **{name: float(usd) for name, usd in amounts.items()},
            "resets_at": self.limit.resets_at.isoformat(),
        }


async def read_usage(storage: Storage, settings: Settings) -> list[LimitUsage]:
    """Return the usage of each limit, including reservations of dead processes, which a run would leave out."""
    if not settings.spending_limits:
        return []
    store, day = DaySpendStore(storage, settings), today_utc()
    limits = SharedLimits(store, settings.spending_limits, lambda spend: spend, _all_reservations, today_utc)
    await limits.load(day, keep=False)
    return [LimitUsage(*spent) for spent in limits.spent((await store.read(day)).content)]


async def _all_reservations(known: Document[DaySpend]) -> DaySpend:
    return known.content
