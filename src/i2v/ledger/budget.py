"""Money that may still be spent: `Budget`, a run's share of `jobs/days/<UTC day>.json`.

A run reserves blocks before it submits and gives the rest back at its end. The page's entries are absolute sums by run,
so that repeating a reservation changes nothing; what a dead run held counts until the day ends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal

from pydantic import BaseModel, ConfigDict

from i2v.errors import BudgetExceeded, Conflict, NotFound
from i2v.ledger import keys
from i2v.ledger.job import FORMAT
from i2v.ledger.ledger import parse_document
from i2v.money import ZERO, money_text
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
BLOCK_JOBS = 32
"""A run never holds more money unspent than this many jobs cost."""
NEAR_CAP = Decimal("0.8")
"""This part of the daily cap is most of it: somebody wants to hear of it."""


class DailySpend(BaseModel):
    """What each run has reserved on one UTC day, in US dollars."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    day: str
    writer: str = ""
    reserved_usd: dict[str, Decimal] = {}

    @property
    def total_usd(self) -> Decimal:
        """All that is spent or held on this day."""
        return sum(self.reserved_usd.values(), ZERO)


class DailySpendStore:
    """The pages in S3."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings

    async def read(self, day: str) -> tuple[DailySpend, str | None]:
        """The page and its etag; an empty page and `None` where there is none yet.

        Raises:
            LedgerError: the page cannot be read by this version.
            StorageError: S3 did not answer well.
        """
        uri = keys.daily_spend_uri(self._settings, day)
        try:
            found = await self._storage.get(uri)
        except NotFound:
            return DailySpend(day=day), None
        return parse_document(DailySpend, found.body, uri), found.etag

    async def write(self, page: DailySpend, etag: str | None) -> bool:
        """Replace the page as it was read; `False` where another run was faster.

        Raises:
            StorageError: S3 did not answer well: it may or may not be written.
        """
        uri = keys.daily_spend_uri(self._settings, page.day)
        new = page.model_copy(update={"writer": secrets.token_hex(8)})
        try:
            await self._storage.put(
                uri,
                new.model_dump_json(indent=1).encode(),
                content_type="application/json",
                create=etag is None,
                if_match=etag,
            )
        except Conflict:
            found, _ = await self.read(page.day)
            return found.writer == new.writer
        return True


class Budget:
    """What one flow run may spend, over its retries: its own limit and its share of the daily cap.

    Args:
        pages: the day pages.
        run_id: whose entries these are.
        max_spend_usd: the run's own limit, `None` for none.
        daily_cap_usd: the limit of all runs in one UTC day, `None` for none.
        days: the days on which this run has reserved before (a retry's).
        today: tells the UTC day; what was reserved on one day is not spent on the next.

    Attributes:
        before_block: asked before each block, and may raise.
        jobs_expected: how many jobs are still to come, so that no block is larger.
    """

    def __init__(
        self,
        pages: DailySpendStore,
        run_id: str,
        *,
        max_spend_usd: Decimal | None,
        daily_cap_usd: Decimal | None,
        days: tuple[str, ...] = (),
        today: Callable[[], str] | None = None,
    ) -> None:
        self._pages = pages
        self._run_id = run_id
        self._max_spend = max_spend_usd
        self._cap = daily_cap_usd
        self._reserved: dict[str, Decimal] = dict.fromkeys(days, ZERO)
        self.before_block: Callable[[], Awaitable[None]] | None = None
        self._known = not days
        self._too_dear: BudgetExceeded | None = None
        self._too_dear_usd = ZERO
        self._too_dear_day = ""
        self._today = today or today_utc
        self._left: defaultdict[str, Decimal] = defaultdict(Decimal)
        """Reserved and not yet taken, by day."""
        self._day_usd: dict[str, Decimal] = {}
        """What the pages held in all when they were last seen."""
        self._lock = asyncio.Lock()
        self.jobs_expected = BLOCK_JOBS

    @property
    def days(self) -> tuple[str, ...]:
        """The days on which this run has reserved."""
        return tuple(self._reserved)

    @property
    def spent_usd(self) -> Decimal:
        """What this run has spent so far, as far as it knows; also what is being submitted just now."""
        return sum(self._reserved.values(), ZERO) - sum(self._left.values(), ZERO)

    @property
    def near_cap_usd(self) -> tuple[Decimal, Decimal] | None:
        """What all runs have spent today and the daily cap, where that is most of it; as far as this run has seen."""
        day = self._today()
        spent = self._day_usd.get(day, ZERO) - self._left[day]
        return (spent, self._cap) if self._cap and spent >= NEAR_CAP * self._cap else None

    async def available_usd(self) -> tuple[Decimal | None, str]:
        """What this run could still spend now and the name of the limit that says so; `None` for no limit.

        Raises:
            StorageError: the page cannot be read.
        """
        await self._recall()
        page, _ = await self._pages.read(self._today())
        self._note(page)
        return self._room(page)

    def _committed_usd(self, day: str) -> Decimal:
        """What counts against the run's own limit: all it reserved, but for what an earlier day has left."""
        return self.spent_usd + self._left[day]

    def _note(self, page: DailySpend) -> None:
        """What the page holds of this run counts, also where another process of the same run wrote it."""
        self._day_usd[page.day] = page.total_usd
        known, there = self._reserved.get(page.day, ZERO), page.reserved_usd.get(self._run_id, ZERO)
        if known or there:
            self._reserved[page.day] = max(known, there)

    def _room(self, page: DailySpend) -> tuple[Decimal | None, str]:
        limits = []
        if self._max_spend is not None:
            limits.append((self._max_spend - self._committed_usd(page.day), "max_spend_usd"))
        if self._cap is not None:
            limits.append((self._cap - page.total_usd, "I2V_DAILY_CAP_USD"))
        return min(limits, default=(None, "no limit"))

    async def reserve(self, price_usd: Decimal) -> str:
        """Reserve the price of one attempt, before it is submitted.

        Returns:
            The day on whose page it counts.

        Raises:
            BudgetExceeded: a limit forbids it.
            Paused: a person has paused all submits.
            StorageError: the page cannot be read or written, so nothing may be spent.
        """
        async with self._lock:
            day = self._today()
            if self._left[day] < price_usd:
                day = await self._reserve_or_remember(price_usd)
            self._left[day] -= price_usd
            self.jobs_expected = max(1, self.jobs_expected - 1)
            return day

    def lower_limit(self, room_usd: Decimal | None) -> None:
        """Let this run spend no more than so much from now on; `None` changes nothing."""
        if room_usd is None:
            return
        most = self._committed_usd(self._today()) + room_usd
        self._max_spend = most if self._max_spend is None else min(most, self._max_spend)

    def refund(self, price_usd: Decimal, day: str | None = None) -> None:
        """An attempt that was taken for, on that day or today, was not paid after all."""
        self._left[day or self._today()] += price_usd
        self.jobs_expected += 1
        self._too_dear = None

    async def _recall(self) -> None:
        if not self._known:
            for day in self._reserved:
                page, _ = await self._pages.read(day)
                self._reserved[day] = page.reserved_usd.get(self._run_id, ZERO)
            self._known = True

    async def _reserve_or_remember(self, price_usd: Decimal) -> str:
        if self._too_dear and price_usd >= self._too_dear_usd and self._too_dear_day == self._today():
            raise self._too_dear
        if self.before_block:
            await self.before_block()
        try:
            return await self._reserve(price_usd)
        except BudgetExceeded as error:
            self._too_dear, self._too_dear_usd, self._too_dear_day = error, price_usd, self._today()
            raise

    async def _reserve(self, price_usd: Decimal) -> str:
        await self._recall()
        while True:
            page, etag = await self._pages.read(self._today())
            self._note(page)
            amount = self._block(price_usd, page)
            if await self._write_entry(page, etag, page.reserved_usd.get(self._run_id, ZERO) + amount):
                self._left[page.day] += amount
                return page.day

    def _block(self, price_usd: Decimal, page: DailySpend) -> Decimal:
        room, limit = self._room(page)
        jobs = Decimal(min(BLOCK_JOBS, self.jobs_expected))
        if room is not None:
            affordable = (room + self._left[page.day]) / price_usd if price_usd else jobs
            jobs = min(jobs, affordable.to_integral_value(ROUND_DOWN))
        if jobs < 1:
            raise BudgetExceeded(
                f"{limit} has ${money_text(max(room or ZERO, ZERO))} left, one video costs ${money_text(price_usd)}",
                "Raise the limit, or wait for the next UTC day" if "CAP" in limit else "Raise max_spend_usd",
            )
        return jobs * price_usd - self._left[page.day]

    async def _write_entry(self, page: DailySpend, etag: str | None, amount: Decimal) -> bool:
        entries = {**page.reserved_usd, self._run_id: amount}
        new = page.model_copy(update={"reserved_usd": entries})
        written = await self._pages.write(new, etag)
        if written:
            self._day_usd[page.day] = new.total_usd
            self._reserved[page.day] = amount
        return written

    async def close(self) -> None:
        """Give the rest back.

        Raises:
            StorageError: the page cannot be read or written; what is held counts until the day ends.
        """
        async with self._lock:
            for day in self.days:
                while self._left[day] > 0 and self._reserved[day] > 0:
                    page, etag = await self._pages.read(day)
                    mine = page.reserved_usd.get(self._run_id, ZERO)
                    if mine < self._reserved[day]:  # given back already, by a write whose answer was lost
                        self._left[day] -= self._reserved[day] - mine
                        self._reserved[day] = mine
                        continue
                    rest = min(mine, self._left[day])
                    if await self._write_entry(page, etag, mine - rest):
                        self._left[day] -= rest


def today_utc() -> str:
    """The UTC day, `2026-11-22`, by this host's clock."""
    return datetime.now(UTC).date().isoformat()
