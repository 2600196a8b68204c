"""Spending limits: `Budget` reserves the price of each submit right before it is sent, on the day on which it is sent.

Submits that reserve at the same time share one write, of the day's document; it decides about the limits of the day and
of the month. Only submits in progress hold reservations that are not yet paid. A reservation of a process that died
counts until the job's record shows that nothing was paid.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import ClassVar

from i2v.clock import today_utc
from i2v.errors import BudgetExceeded, StorageError
from i2v.ledger.abandoned_reservations import AbandonedReservations, ReadClaim
from i2v.ledger.day_spend import DaySpend, DaySpendStore, Entry, Reservation
from i2v.ledger.documents import Document
from i2v.ledger.shared_limits import SharedLimits
from i2v.money import ZERO, money_text
from i2v.spending_limits import NO_LIMITS, Limit, RunLimits, reset_hint

RECHECK_SECONDS = 1.0
MAX_SPEND = "max_spend_usd"


@dataclass(eq=False, slots=True)
class _Waiting:
    """A reservation that is not written yet."""

    claim: str
    wanted: Reservation
    done: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


_Refusal = tuple[_Waiting, BudgetExceeded]


class Budget:
    """What one flow run may spend, including its retries: its own limit, and its share of the limits of all runs.

    `first_day` is the UTC day on which the run started: earlier tries, or a retry while this process was suspended, may
    have spent since. `read_claim` and `abandoned_after` are those of `AbandonedReservations`.
    """

    covers_all_runs: ClassVar[bool] = False
    """Whether `max_spend_usd` holds for all runs in the store's documents together."""

    def __init__(
        self,
        store: DaySpendStore,
        run_id: str,
        *,
        max_spend_usd: Decimal | None,
        limits: RunLimits = NO_LIMITS,
        read_claim: ReadClaim,
        abandoned_after: float,
        first_day: date | None = None,
        today: Callable[..., str] = today_utc,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._entry_id = f"{run_id}:{secrets.token_hex(4)}"
        self._max_spend = max_spend_usd
        self._max_spend_name = MAX_SPEND
        self._new_entry = Entry(run_id=run_id, label=limits.label)
        self._abandoned = AbandonedReservations(read_claim, self._entry_id, abandoned_after)
        self._shared = SharedLimits(store, limits.limits, self._with_own, self._abandoned.left_out, today)
        self._today = today
        self._first_day = first_day
        self._loaded_day = ""
        """The day until which `_others` was read."""
        self._others: dict[str, Decimal] = {}
        """What the other processes that count have spent, by day."""
        self._own: dict[str, Entry] = {}
        """This process's entries, by day."""
        self._known: Document[DaySpend] | None = None
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._refused: tuple[str, Decimal, BudgetExceeded] | None = None
        """The last refusal: its day, its price and the error."""

    @property
    def spent_usd(self) -> Decimal:
        """What this run has spent, including submits in progress."""
        return sum((entry.total_usd for entry in self._own.values()), sum(self._others.values(), ZERO))

    @property
    def near_limits(self) -> list[tuple[Limit, Decimal]]:
        """The limits that are nearly spent, as last read, and what all runs under them have spent."""
        is_known = self._known is not None and self._known.content.day == self._today()
        return self._shared.near(self._known.content) if self._known and is_known else []

    async def available_usd(self) -> tuple[Decimal | None, str]:
        """Return what this run can spend now, `None` for any amount, and the name of the limit that applies."""
        await self._load_days_until(self._today())
        self._known = await self._store.read(self._today())
        return self._available(await self._abandoned.left_out(self._known))

    def lower_limit(self, available_usd: Decimal | None, name: str) -> None:
        """Let this run spend at most this much from now on, because of the limit `name`; `None` changes nothing."""
        limit = self.spent_usd + (available_usd or ZERO)
        if available_usd is not None and (self._max_spend is None or limit < self._max_spend):
            self._max_spend, self._max_spend_name = limit, name

    def raise_if_refused(self, price_usd: Decimal) -> None:
        """Raise `BudgetExceeded` if a limit has just forbidden this price."""
        if self._refused and self._refused[0] == self._today() and price_usd >= self._refused[1]:
            raise self._refused[2]

    async def reserve(self, price_usd: Decimal, job: str, claim: str) -> str:
        """Reserve the price of one submit; return its UTC day. Raise `BudgetExceeded` if a limit forbids it."""
        self.raise_if_refused(price_usd)
        waiting = _Waiting(claim, Reservation(job=job, usd=price_usd, at=datetime.now(UTC)))
        self._waiting.append(waiting)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write_waiting())
        try:
            return await waiting.done
        except asyncio.CancelledError:
            self.release(claim)
            raise

    def pay(self, claim: str) -> None:
        """Count a reservation as spent."""
        for day, entry in self._own.items():
            if found := entry.reserved.get(claim):
                self._own[day] = entry.without(claim).model_copy(update={"paid_usd": entry.paid_usd + found.usd})

    def release(self, claim: str) -> None:
        """Give back a reservation that was not spent."""
        for day, entry in self._own.items():
            if claim in entry.reserved:
                self._own[day] = entry.without(claim)
                self._refused = None

    async def close(self) -> None:
        """Write what was given back. After a `StorageError`, the ledger's claims still show it."""
        for day in list(self._own):
            while not await self._write(await self._store.read(day)):
                pass

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._reserve_all(batch)
            except Exception as error:  # noqa: BLE001 - each caller gets the error
                self._known = None
                for one in batch:
                    self._answer(one, error)

    async def _reserve_all(self, batch: list[_Waiting]) -> None:
        while True:
            day = self._today()
            await self._load_days_until(day)
            if self._known is None or self._known.content.day != day:
                self._known = await self._store.read(day)
            accepted, refused = self._admit(batch, self._known.content)
            if refused:
                self._release(accepted)
                accepted, refused = await self._look_again(batch, day)
            if not accepted or (await self._write(self._known) and await self._shared.hold_at_midnight(self._known)):
                break
            self._release(accepted)
        for one in accepted:
            self._answer(one, day)
        for one, error in refused:
            self._answer(one, error)

    async def _look_again(self, batch: list[_Waiting], day: str) -> tuple[list[_Waiting], list[_Refusal]]:
        """Admit what was refused if another process has given something back, or died.

        With `covers_all_runs`, wait until it is clear what a dead run paid: what it gives back may be enough.
        """
        while True:
            self._refused = None
            self._known = await self._store.read(day)
            accepted, refused = self._admit(batch, await self._shared.settle(self._known))
            if not (refused and self.covers_all_runs and await self._abandoned.has_unclear(self._known)):
                return accepted, refused
            self._release(accepted)
            await asyncio.sleep(RECHECK_SECONDS)

    def _release(self, accepted: list[_Waiting]) -> None:
        for one in accepted:
            self.release(one.claim)

    def _answer(self, one: _Waiting, answer: str | Exception) -> None:
        """Answer a reservation; give it back if it failed, or if its caller was cancelled."""
        if isinstance(answer, Exception) or one.done.done():
            self.release(one.claim)
        if one.done.done():
            return
        if isinstance(answer, Exception):
            one.done.set_exception(answer)
        else:
            one.done.set_result(answer)

    def _admit(self, batch: list[_Waiting], spend: DaySpend) -> tuple[list[_Waiting], list[_Refusal]]:
        """Add to this process's entry what the limits allow."""
        accepted, refused = [], []
        for one in batch:
            available, limit = self._available(spend)
            if available is None or one.wanted.usd <= available:
                entry = self._own.get(spend.day) or self._new_entry
                reserved = {**entry.reserved, one.claim: one.wanted}
                self._own[spend.day] = entry.model_copy(update={"reserved": reserved})
                accepted.append(one)
            else:
                error = _exceeded(one.wanted.usd, available, limit)
                self._refused = (spend.day, one.wanted.usd, error)
                refused.append((one, error))
        return accepted, refused

    def _available(self, spend: DaySpend) -> tuple[Decimal | None, str]:
        limits = []
        others = [one for name, one in spend.entries.items() if name != self._entry_id and self._counts(one)]
        self._others[spend.day] = sum((entry.total_usd for entry in others), ZERO)
        if self._max_spend is not None:
            limits.append((self._max_spend - self.spent_usd, self._max_spend_name))
        limits += self._shared.available_usd(spend)
        return min(limits, default=(None, "no limit"), key=lambda one: one[0])

    def _counts(self, entry: Entry) -> bool:
        return self.covers_all_runs or entry.run_id == self._run_id

    def _with_own(self, spend: DaySpend) -> DaySpend:
        """Return the document with this process's entry as it is now."""
        own = self._own.get(spend.day)
        return spend.model_copy(update={"entries": {**spend.entries, self._entry_id: own}}) if own else spend

    async def _write(self, known: Document[DaySpend]) -> bool:
        """Write this process's entry; read back a write whose answer was lost. Return `False` after a conflict."""
        new = self._with_own(known.content)
        try:
            written = await self._store.write(new, known.etag)
        except StorageError:
            found = await self._store.read(new.day)
            if found.content.entries.get(self._entry_id) != new.entries.get(self._entry_id):
                raise
            written = found
        self._known = written if new.day == self._today() else self._known
        return written is not None

    async def _load_days_until(self, today: str) -> None:
        """Read what other processes of this run have spent since it started, once a day; clocks may differ by a day."""
        if self._loaded_day == today:
            return
        for day in self._days_until(today):
            known = await self._store.read(day)
            while self._max_spend is not None and await self._abandoned.has_unclear(known, self._run_id):
                await asyncio.sleep(RECHECK_SECONDS)
                known = await self._store.read(day)
            self._available(await self._abandoned.left_out(known))
            self._known = known
        await self._shared.load(today)
        self._loaded_day = today

    def _days_until(self, today: str) -> list[str]:
        if not (self._loaded_day or self._first_day):
            return [today]
        start = date.fromisoformat(self._loaded_day or today)
        if self._first_day and not self._loaded_day:
            start = self._first_day - timedelta(days=1)
        days = range(start.toordinal(), date.fromisoformat(today).toordinal() + 1)
        return [date.fromordinal(day).isoformat() for day in days]


def _exceeded(price_usd: Decimal, available: Decimal, limit: str) -> BudgetExceeded:
    reset = reset_hint(limit)
    hint = f"Raise the limit, or {reset}" if reset else "Raise max_spend_usd"
    if limit[0].islower() and not limit.isidentifier():
        hint, limit = "Add balance at the provider", limit[0].upper() + limit[1:]
    left = money_text(max(available, ZERO))
    return BudgetExceeded(f"{limit} has ${left} left, one video costs ${money_text(price_usd)}", hint)
