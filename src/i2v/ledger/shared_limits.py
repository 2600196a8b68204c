"""The limits that runs share, by day and month, for all or by label: `SharedLimits`. `budget` reserves under them.

A reservation is written only to its day. One conditional write thus decides about all limits, even one set mid-month.
`jobs/months/<month>.json` keeps the sums of finished days, so that a run need not read 30 documents; it is made from
the days and can be deleted.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal

from pydantic import BaseModel

from i2v.errors import StorageError
from i2v.ledger import keys
from i2v.ledger.day_spend import DaySpend, DaySpendStore
from i2v.ledger.documents import Document, read_if_valid
from i2v.ledger.job import FORMAT
from i2v.money import ZERO
from i2v.spending_limits import Limit

log = logging.getLogger(__name__)
NEAR_LIMIT = Decimal("0.8")
"""The share of a limit from which i2v warns."""
CLOCKS_DIFFER = timedelta(hours=1)
"""Clocks of hosts differ by less: S3 refuses requests whose time is 15 minutes off."""
QUIET_SECONDS = 86_400.0
"""No process writes to a day's document that is this old by S3's clock, not even one on a host with a wrong clock."""
Settle = Callable[[Document[DaySpend]], Awaitable[DaySpend]]
"""Leaves out the reservations of dead processes."""
WithOwn = Callable[[DaySpend], DaySpend]
"""Brings the entry of this process up to date."""


class MonthSpend(BaseModel):
    """The sums of a month's finished days in US dollars, by day and label."""

    format: int = FORMAT
    month: str
    days: dict[str, dict[str, Decimal]] = {}


class OtherDays:
    """What was spent in the month of one day, without that day.

    Yesterday and tomorrow are kept as documents: processes whose clocks differ may still reserve there.
    """

    def __init__(self, store: DaySpendStore, settle: Settle) -> None:
        self._store = store
        self._settle = settle
        self._finished: dict[str, dict[str, Decimal]] = {}
        self._open: dict[str, Document[DaySpend]] = {}

    async def load(self, day: str, *, keep: bool) -> None:
        """Read the other days of the month of this day, and `keep` the sums of those that are finished."""
        finished, neighbors = _other_days(day)
        opened = await asyncio.gather(*map(self._store.read, neighbors))
        uri = keys.month_uri(self._store.settings, day[:7])
        stored = (await read_if_valid(self._store.storage, MonthSpend, uri) if finished else None) or MonthSpend(
            month=day[:7]
        )
        read = await asyncio.gather(*(self._store.read(each) for each in finished if each not in stored.days))
        sums = {one.content.day: _by_label(await self._settle(one)) for one in read}
        self._open = {one.content.day: one for one in opened}
        self._finished = {each: sums.get(each) or stored.days.get(each, {}) for each in finished}
        if keep and (quiet := {one.content.day for one in read if one.etag and one.age_seconds > QUIET_SECONDS}):
            days = stored.days | {each: sums[each] for each in quiet}
            try:
                body = MonthSpend(month=day[:7], days=days).model_dump_json(indent=1).encode()
                await self._store.storage.put(uri, body, content_type="application/json")
            except StorageError as error:
                log.debug("the sums of %s were not kept: %s", day[:7], error)

    async def refresh(self, days: Iterable[str]) -> None:
        """Read these of yesterday and tomorrow again."""
        for one in await asyncio.gather(*map(self._store.read, days)):
            self._open[one.content.day] = one

    async def settle(self) -> None:
        """Read yesterday and tomorrow again, and leave out the reservations of dead processes."""
        await self.refresh(list(self._open))
        for day, one in self._open.items():
            self._open[day] = one._replace(content=await self._settle(one))

    def usd_under(self, limit: Limit, with_own: WithOwn) -> Decimal:
        """Return what the runs that a limit covers have spent."""
        finished = (usd for sums in self._finished.values() for label, usd in sums.items() if limit.covers(label))
        return sum((with_own(one.content).usd_under(limit) for one in self._open.values()), sum(finished, ZERO))


def _other_days(day: str) -> tuple[list[str], list[str]]:
    """Return the days of its month that are finished, and yesterday and tomorrow if they are in the month."""
    today = date.fromisoformat(day)
    neighbors = [today + timedelta(days=shift) for shift in (-1, 1)]
    finished = [today.replace(day=number).isoformat() for number in range(1, today.day - 1)]
    return finished, [each.isoformat() for each in neighbors if each.month == today.month]


def _by_label(spend: DaySpend) -> dict[str, Decimal]:
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for entry in spend.entries.values():
        sums[entry.label] += entry.total_usd
    return dict(sums)


class SharedLimits:
    """What the limits allow one process. `today` takes a time after now, for which it returns the UTC day."""

    def __init__(
        self,
        store: DaySpendStore,
        limits: Sequence[Limit],
        with_own: WithOwn,
        settle: Settle,
        today: Callable[..., str],
    ) -> None:
        self._limits = limits
        self._has_month = any(limit.period == "month" for limit in limits)
        self._other_days = OtherDays(store, settle)
        self._with_own = with_own
        self._settle = settle
        self._today = today
        self._read_early: set[str] = set()
        """Days that may have been written to since they were read last."""

    async def load(self, day: str, *, keep: bool = True) -> None:
        """Read what monthly limits need for this day."""
        if self._has_month:
            self._read_early = self._days_around(day)
            await self._other_days.load(day, keep=keep)

    def spent(self, spend: DaySpend) -> list[tuple[Limit, Decimal]]:
        """Return what is spent under each limit. The document is that of the day that was loaded last."""
        return [(limit, self._spent_usd(limit, spend)) for limit in self._limits]

    def available_usd(self, spend: DaySpend) -> list[tuple[Decimal, str]]:
        """Return what each limit has left, and its name."""
        return [(limit.usd - usd, limit.name) for limit, usd in self.spent(spend)]

    def near(self, spend: DaySpend) -> list[tuple[Limit, Decimal]]:
        """Return the limits of which `NEAR_LIMIT` is spent, and what is spent."""
        return [(limit, usd) for limit, usd in self.spent(spend) if usd >= NEAR_LIMIT * limit.usd]

    async def settle(self, known: Document[DaySpend]) -> DaySpend:
        """Leave out the reservations of dead processes; for monthly limits, those of yesterday and tomorrow too."""
        if self._has_month:
            await self._other_days.settle()
        return await self._settle(known)

    async def hold_at_midnight(self, known: Document[DaySpend]) -> bool:
        """Return whether monthly limits hold, now that this process's reservations are written.

        Around midnight, processes whose clocks differ reserve on two days at once. After its own write, each reads the
        other day, so the later of two sees the earlier; and once more after that day is closed.
        """
        if not self._has_month:
            return True
        around = self._days_around(known.content.day)
        days, self._read_early = around | self._read_early, around
        if not days:
            return True
        await self._other_days.refresh(days)
        return self._fit(known.content) or self._fit(await self.settle(known))

    def _days_around(self, day: str) -> set[str]:
        days = {self._today(after) for after in (-CLOCKS_DIFFER, CLOCKS_DIFFER)}
        return {each for each in days if each != day and each[:7] == day[:7]}

    def _fit(self, spend: DaySpend) -> bool:
        return all(usd >= ZERO for usd, _ in self.available_usd(spend))

    def _spent_usd(self, limit: Limit, spend: DaySpend) -> Decimal:
        usd = self._with_own(spend).usd_under(limit)
        return usd + self._other_days.usd_under(limit, self._with_own) if limit.period == "month" else usd
