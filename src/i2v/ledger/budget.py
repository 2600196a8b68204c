"""Spending limits: `Budget`, a run's share of `jobs/days/<UTC day>.json`.

A run reserves money for a block of jobs before it submits and returns the rest at its end. Entries are absolute sums by
run, so repeating a reservation changes nothing. The reservations of a dead run count until the day ends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal

from pydantic import BaseModel, ConfigDict

from i2v.errors import BudgetExceeded, Conflict
from i2v.ledger import keys
from i2v.ledger.documents import read_document, write_document
from i2v.ledger.job import FORMAT
from i2v.money import ZERO, money_text
from i2v.s3.storage import Storage
from i2v.settings import Settings

BLOCK_JOBS = 32
"""A run never holds more unspent money than the price of this many jobs."""
NEAR_CAP = Decimal("0.8")
"""The share of the daily cap from which i2v warns."""


def today_utc() -> str:
    """Return the UTC day by this host's clock, e.g. `2026-11-22`."""
    return datetime.now(UTC).date().isoformat()


class DailySpend(BaseModel):
    """What each run has reserved on one UTC day, in US dollars."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    day: str
    writer: str = ""
    reserved_usd: dict[str, Decimal] = {}

    @property
    def total_usd(self) -> Decimal:
        """Everything spent or reserved on this day."""
        return sum(self.reserved_usd.values(), ZERO)


class DailySpendStore:
    """The `DailySpend` documents in S3."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings

    async def read(self, day: str) -> tuple[DailySpend, str | None]:
        """Return a day's document and its etag, or an empty one and `None`. Raise `LedgerError` if it is invalid."""
        found = await read_document(self._storage, DailySpend, keys.daily_spend_uri(self._settings, day))
        return (found.content, found.etag) if found else (DailySpend(day=day), None)

    async def write(self, spend: DailySpend, etag: str | None) -> bool:
        """Replace the version with this etag; return `False` if another write came first."""
        new = spend.model_copy(update={"writer": secrets.token_hex(8)})
        try:
            await write_document(self._storage, new, keys.daily_spend_uri(self._settings, spend.day), etag)
        except Conflict:
            return (await self.read(spend.day))[0].writer == new.writer
        return True


class Budget:
    """What one flow run may spend, including its retries: its own limit, and its share of the daily cap.

    Args:
        max_spend_usd, daily_cap_usd: the limits of this run and of all runs on one UTC day, or `None`.
        days: the days on which an earlier try of this run reserved money.
        today: returns the UTC day; money reserved on one day is not spent on the next.

    Attributes:
        before_block: called before each block is reserved; may raise.
        jobs_expected: how many jobs are still to come; a block is never larger.
    """

    def __init__(
        self,
        store: DailySpendStore,
        run_id: str,
        *,
        max_spend_usd: Decimal | None,
        daily_cap_usd: Decimal | None,
        days: tuple[str, ...] = (),
        today: Callable[[], str] = today_utc,
    ) -> None:
        self.before_block: Callable[[], Awaitable[None]] | None = None
        self.jobs_expected = BLOCK_JOBS
        self._store = store
        self._run_id = run_id
        self._max_spend = max_spend_usd
        self._cap = daily_cap_usd
        self._today = today
        self._lock = asyncio.Lock()
        self._reserved: dict[str, Decimal] = dict.fromkeys(days, ZERO)
        self._unspent: defaultdict[str, Decimal] = defaultdict(Decimal)
        """Reserved and not yet spent, by day."""
        self._totals: dict[str, Decimal] = {}
        """What all runs had reserved when last read, by day."""
        self._loaded = not days
        self._refusal: tuple[str, Decimal, BudgetExceeded] | None = None
        """The last refused reservation: its day, its price and the error."""

    @property
    def days(self) -> tuple[str, ...]:
        """The days on which this run has reserved money."""
        return tuple(self._reserved)

    @property
    def spent_usd(self) -> Decimal:
        """What this run has spent, including submits in progress."""
        return sum(self._reserved.values(), ZERO) - sum(self._unspent.values(), ZERO)

    @property
    def near_cap_usd(self) -> tuple[Decimal, Decimal] | None:
        """Today's spend of all runs, as last read, and the daily cap; `None` below `NEAR_CAP`."""
        day = self._today()
        spent = self._totals.get(day, ZERO) - self._unspent[day]
        return (spent, self._cap) if self._cap and spent >= NEAR_CAP * self._cap else None

    async def available_usd(self) -> tuple[Decimal | None, str]:
        """Return what this run can spend now, `None` for any amount, and the name of the limit that applies."""
        await self._load()
        spend, _ = await self._store.read(self._today())
        self._note(spend)
        return self._available(spend)

    async def reserve(self, price_usd: Decimal) -> str:
        """Reserve the price of one attempt before it is submitted; return the day it counts for.

        Raise `BudgetExceeded` if a limit does not allow it, and whatever `before_block` raises. After a `StorageError`
        the reservation may not be written, so nothing may be spent.
        """
        async with self._lock:
            day = self._today()
            if self._unspent[day] < price_usd:
                day = await self._reserve_block_unless_refused(price_usd)
            self._unspent[day] -= price_usd
            self.jobs_expected = max(1, self.jobs_expected - 1)
            return day

    def refund(self, price_usd: Decimal, day: str | None = None) -> None:
        """Return the price of an attempt that was not charged, to the day it was reserved on (default: today)."""
        self._unspent[day or self._today()] += price_usd
        self.jobs_expected += 1
        self._refusal = None

    def lower_limit(self, available_usd: Decimal | None) -> None:
        """Let this run spend at most this much from now on; `None` changes nothing."""
        if available_usd is not None:
            limit = self._committed_usd(self._today()) + available_usd
            self._max_spend = limit if self._max_spend is None else min(limit, self._max_spend)

    async def close(self) -> None:
        """Return the unspent rest. If this raises `StorageError`, the rest counts until the day ends."""
        async with self._lock:
            for day in self.days:
                while self._unspent[day] > 0 and self._reserved[day] > 0:
                    await self._return_unspent(day)

    async def _return_unspent(self, day: str) -> None:
        spend, etag = await self._store.read(day)
        written = spend.reserved_usd.get(self._run_id, ZERO)
        if written < self._reserved[day]:  # returned already, by a write whose answer was lost
            self._unspent[day] -= self._reserved[day] - written
            self._reserved[day] = written
            return
        rest = min(written, self._unspent[day])
        if await self._write_entry(spend, etag, written - rest):
            self._unspent[day] -= rest

    async def _load(self) -> None:
        if not self._loaded:
            for day in self._reserved:
                spend, _ = await self._store.read(day)
                self._reserved[day] = spend.reserved_usd.get(self._run_id, ZERO)
            self._loaded = True

    def _note(self, spend: DailySpend) -> None:
        """Update totals and this run's entry, which another process of the same run may have raised."""
        self._totals[spend.day] = spend.total_usd
        known, written = self._reserved.get(spend.day, ZERO), spend.reserved_usd.get(self._run_id, ZERO)
        if known or written:
            self._reserved[spend.day] = max(known, written)

    def _committed_usd(self, day: str) -> Decimal:
        """Return what counts against the run's own limit: all reservations but the unspent rest of other days."""
        return self.spent_usd + self._unspent[day]

    def _available(self, spend: DailySpend) -> tuple[Decimal | None, str]:
        limits = []
        if self._max_spend is not None:
            limits.append((self._max_spend - self._committed_usd(spend.day), "max_spend_usd"))
        if self._cap is not None:
            limits.append((self._cap - spend.total_usd, "I2V_DAILY_CAP_USD"))
        return min(limits, default=(None, "no limit"))

    async def _reserve_block_unless_refused(self, price_usd: Decimal) -> str:
        """Reserve a block; raise at once, without a request, if this or a lower price was refused today."""
        if self._refusal and self._refusal[0] == self._today() and price_usd >= self._refusal[1]:
            raise self._refusal[2]
        if self.before_block:
            await self.before_block()
        try:
            return await self._reserve_block(price_usd)
        except BudgetExceeded as error:
            self._refusal = (self._today(), price_usd, error)
            raise

    async def _reserve_block(self, price_usd: Decimal) -> str:
        await self._load()
        while True:
            spend, etag = await self._store.read(self._today())
            self._note(spend)
            amount = self._block_usd(price_usd, spend)
            if await self._write_entry(spend, etag, spend.reserved_usd.get(self._run_id, ZERO) + amount):
                self._unspent[spend.day] += amount
                return spend.day

    def _block_usd(self, price_usd: Decimal, spend: DailySpend) -> Decimal:
        available, limit = self._available(spend)
        jobs = Decimal(min(BLOCK_JOBS, self.jobs_expected))
        if available is not None and price_usd:
            affordable = (available + self._unspent[spend.day]) / price_usd
            jobs = min(jobs, affordable.to_integral_value(ROUND_DOWN))
        if jobs < 1:
            left = money_text(max(available or ZERO, ZERO))
            hint = "Raise the limit, or wait for the next UTC day" if "CAP" in limit else "Raise max_spend_usd"
            raise BudgetExceeded(f"{limit} has ${left} left, one video costs ${money_text(price_usd)}", hint)
        return jobs * price_usd - self._unspent[spend.day]

    async def _write_entry(self, spend: DailySpend, etag: str | None, amount: Decimal) -> bool:
        entries = {**spend.reserved_usd, self._run_id: amount}
        new = spend.model_copy(update={"reserved_usd": entries})
        if not await self._store.write(new, etag):
            return False
        self._totals[spend.day] = new.total_usd
        self._reserved[spend.day] = amount
        return True
