"""Promise 6 on the daily reservations in S3: concurrent runs never exceed a limit, and return the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from i2v.errors import BudgetExceeded, LedgerError, Paused, StorageError
from i2v.ledger.budget import BLOCK_JOBS, Budget, DailySpendStore
from i2v.ledger.ledger import Ledger
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.scripted_faults import ScriptedFaults
from tests.support.settings import SealedSettings

STANDARD, LONG, PRO = PRICES = (Decimal("0.192"), Decimal("0.320"), Decimal("0.33"))
NOTHING = Decimal(0)
MakeBudget = Callable[..., Budget]


@pytest.fixture
def store(aws: None, settings: Settings) -> Iterator[DailySpendStore]:
    """The daily reservations of an empty ledger in the sandbox's S3."""
    with Storage() as storage:
        yield DailySpendStore(storage, settings)


@pytest.fixture
def budget(store: DailySpendStore) -> MakeBudget:
    """Return a run's budget: `budget("run-1", limit="5", cap="10")`."""

    def make(
        run_id: str = "run-1", *, limit: str | None = None, cap: str | None = None, jobs: int = BLOCK_JOBS, **more: Any
    ) -> Budget:
        made = Budget(store, run_id, max_spend_usd=dollars(limit), daily_cap_usd=dollars(cap), **more)
        made.jobs_expected = jobs
        return made

    return make


def dollars(text: str | None) -> Decimal | None:
    """Parse an amount."""
    return None if text is None else Decimal(text)


def today() -> str:
    """Return the UTC day."""
    return datetime.now(UTC).date().isoformat()


async def reserved(store: DailySpendStore, run_id: str | None = None, day: str = "") -> Decimal:
    """Return what is reserved on a day, by all runs or by one."""
    spend, _ = await store.read(day or today())
    return spend.total_usd if run_id is None else spend.reserved_usd.get(run_id, NOTHING)


async def reserve_many(budget: Budget, prices: list[Decimal]) -> list[Decimal]:
    """Reserve all prices concurrently and return those that were allowed."""

    async def reserve(price: Decimal) -> Decimal | None:
        try:
            await budget.reserve(price)
        except BudgetExceeded:
            return None
        return price

    return [price for price in await asyncio.gather(*map(reserve, prices)) if price is not None]


@pytest.mark.parametrize("seed", [1, 2])
async def test_concurrent_runs_never_exceed_the_cap(budget: MakeBudget, store: DailySpendStore, seed: int) -> None:
    """Eight runs want a hundred videos each at mixed prices: reservations and spend never exceed the cap."""
    dice, cap = random.Random(seed), Decimal("61.234")  # noqa: S311 - prices, no secret
    budgets = [budget(f"run-{number}", cap=str(cap), jobs=100) for number in range(8)]
    wanted = [[dice.choice(PRICES) for _ in range(100)] for _ in budgets]
    ended = asyncio.Event()
    samples: list[Decimal] = []

    async def watch() -> None:
        while not ended.is_set():
            samples.append(await reserved(store))

    watching = asyncio.ensure_future(watch())
    allowed = await asyncio.gather(*map(reserve_many, budgets, wanted))
    ended.set()
    await watching
    spent = [sum(prices, NOTHING) for prices in allowed]
    satisfied = sum(len(prices) == 100 for prices in allowed)
    assert cap - 9 * PRO - satisfied * BLOCK_JOBS * (PRO - STANDARD) < sum(spent) <= cap
    assert max(samples) <= cap
    assert [one.spent_usd for one in budgets] == spent
    await asyncio.gather(*(one.close() for one in budgets))
    assert [await reserved(store, f"run-{number}") for number in range(8)] == spent


async def test_equal_prices_use_the_whole_cap(budget: MakeBudget, store: DailySpendStore) -> None:
    """A cap for twenty videos allows exactly twenty, however many runs ask for a hundred."""
    budgets = [budget(f"run-{number}", cap="3.84", jobs=100) for number in range(8)]
    allowed = await asyncio.gather(*(reserve_many(one, [STANDARD] * 100) for one in budgets))
    assert sum(map(len, allowed)) == 20
    assert await reserved(store) == Decimal("3.84")


async def test_a_run_never_exceeds_its_own_limit(budget: MakeBudget, store: DailySpendStore) -> None:
    """However many images ask concurrently, and whatever is left under the cap."""
    own = budget(limit="5.000", cap="1000")
    allowed = await reserve_many(own, [random.Random(3).choice(PRICES) for _ in range(100)])  # noqa: S311 - prices
    assert Decimal("5.000") - PRO < sum(allowed) <= Decimal("5.000")
    assert await reserved(store) <= Decimal("5.000")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
async def test_a_limit_that_covers_mixed_prices_exactly_allows_all(budget: MakeBudget, order: list[int]) -> None:
    """Every video fits, in any order of prices."""
    prices = [PRICES[number] for number in order] * 5
    own = budget(limit=str(sum(prices)), jobs=len(prices))
    assert await reserve_many(own, prices) == prices


async def test_a_block_covers_at_most_32_jobs(budget: MakeBudget, store: DailySpendStore) -> None:
    """A dead run holds no more than that; the next block is reserved when the first is spent."""
    own = budget(jobs=1000)
    await own.reserve(STANDARD)
    assert await reserved(store) == 32 * STANDARD
    for _ in range(31):
        await own.reserve(STANDARD)
    assert await reserved(store) == 32 * STANDARD
    await own.reserve(STANDARD)
    assert await reserved(store) == 64 * STANDARD


async def test_a_block_covers_no_more_than_the_jobs_expected(budget: MakeBudget, store: DailySpendStore) -> None:
    """A run of three images reserves the price of three, a run of one the price of one."""
    await budget("three", jobs=3).reserve(STANDARD)
    await budget("one", jobs=1).reserve(PRO)
    assert [await reserved(store, run) for run in ("three", "one")] == [3 * STANDARD, PRO]


async def test_close_returns_exactly_the_unspent_rest(budget: MakeBudget, store: DailySpendStore) -> None:
    """What was spent stays reserved, and closing again changes nothing."""
    own = budget()
    for price in (STANDARD, PRO, STANDARD):
        await own.reserve(price)
    for _ in range(2):
        await own.close()
        assert await reserved(store) == own.spent_usd == STANDARD + PRO + STANDARD


async def test_a_refund_can_be_spent_again(budget: MakeBudget, store: DailySpendStore) -> None:
    """The price of a rejected attempt is available to this run at once, and to others after its end."""
    own = budget(limit="0.384", jobs=2)
    for _ in range(5):
        await own.reserve(STANDARD)
        own.refund(STANDARD)
    await own.reserve(STANDARD)
    await own.close()
    assert await reserved(store) == STANDARD


async def test_a_refund_after_the_limit_was_reached_is_available(budget: MakeBudget) -> None:
    """The next image can spend it."""
    own = budget(limit="0.192")
    await own.reserve(STANDARD)
    with pytest.raises(BudgetExceeded):
        await own.reserve(STANDARD)
    own.refund(STANDARD)
    await own.reserve(STANDARD)


async def test_a_run_changes_only_its_own_entry(budget: MakeBudget, store: DailySpendStore) -> None:
    """The entries of other runs stay."""
    one, two = budget("one", jobs=1), budget("two", jobs=5)
    await one.reserve(STANDARD)
    await two.reserve(PRO)
    await one.close()
    await two.close()
    assert [await reserved(store, run) for run in ("one", "two")] == [STANDARD, PRO]


async def test_a_dead_runs_block_counts_until_the_day_ends(budget: MakeBudget, store: DailySpendStore) -> None:
    """A run that died without closing may have spent its whole block."""
    await budget("dead", cap="10").reserve(STANDARD)
    assert await reserved(store) == 32 * STANDARD
    room, limit = await budget("next", cap="10").available_usd()
    assert (room, limit) == (10 - 32 * STANDARD, "I2V_DAILY_CAP_USD")


@pytest.mark.parametrize("days", [(), (today(),)], ids=["died before its record was written", "remembered"])
async def test_a_retried_run_keeps_its_limit(budget: MakeBudget, store: DailySpendStore, days: tuple[str, ...]) -> None:
    """`max_spend_usd` applies to a flow run id: reservations of its first process count for the second."""
    await budget(limit="3.84", jobs=15).reserve(STANDARD)
    retry = budget(limit="3.84", days=days)
    assert (await retry.available_usd())[0] == 5 * STANDARD
    assert len(await reserve_many(retry, [STANDARD] * 100)) == 5
    assert await reserved(store) == Decimal("3.84")


async def test_a_run_limit_spans_midnight(budget: MakeBudget, store: DailySpendStore) -> None:
    """Yesterday's spend counts for the run's own limit, and not for today's cap."""
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    spend, _ = await store.read(yesterday)
    entries = {"run-1": 10 * STANDARD, "another": 100 * STANDARD}
    await store.write(spend.model_copy(update={"reserved_usd": entries}), None)
    own = budget(limit=str(12 * STANDARD), cap=str(5 * STANDARD), days=(yesterday,))
    assert len(await reserve_many(own, [STANDARD] * 10)) == 2
    assert await reserved(store, day=yesterday) == 110 * STANDARD
    await own.close()
    assert set(own.days) == {yesterday, today()}
    assert [await reserved(store, "run-1", day) for day in (yesterday, today())] == [10 * STANDARD, 2 * STANDARD]


async def test_lower_limit_never_raises_the_limit(budget: MakeBudget) -> None:
    """The run spends no more than the provider's balance allows, and a higher balance changes nothing."""
    own = budget(limit="5", jobs=1)
    await own.reserve(STANDARD)
    own.lower_limit(2 * STANDARD)
    own.lower_limit(Decimal(100))
    assert len(await reserve_many(own, [STANDARD] * 10)) == 2


async def test_a_pause_applies_to_the_next_block(
    budget: MakeBudget, store: DailySpendStore, settings: Settings
) -> None:
    """What is reserved can still be submitted; no block is reserved after the pause."""
    with Storage() as storage:
        ledger = Ledger(storage, settings)
        own = budget(jobs=2)
        own.before_block = ledger.raise_if_paused
        await own.reserve(STANDARD)
        await ledger.set_paused(True)
        await own.reserve(STANDARD)
        with pytest.raises(Paused, match="i2v resume"):
            await own.reserve(STANDARD)
        assert await reserved(store) == 2 * STANDARD
        await ledger.set_paused(False)
        await own.reserve(STANDARD)


async def test_an_unreadable_document_stops_spending(budget: MakeBudget, sandbox: Sandbox) -> None:
    """If it cannot be parsed or has a newer format, nothing is reserved and it stays as it was."""
    key = f"jobs/days/{today()}.json"
    for body, message in ((b"{", "cannot be read"), (b'{"format": 2, "day": "x"}', "Upgrade i2v")):
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key=key, Body=body)
        with pytest.raises(LedgerError, match=message):
            await budget().reserve(STANDARD)
        assert sandbox.read(key) == body


async def test_a_newer_format_asks_for_an_upgrade(budget: MakeBudget, sandbox: Sandbox) -> None:
    """A newer format is recognized even if this version cannot parse the rest of the page."""
    body = b'{"format": 2, "day": "x", "reserved_usd": "elsewhere now"}'
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/days/{today()}.json", Body=body)
    with pytest.raises(LedgerError, match="Upgrade i2v"):
        await budget().reserve(STANDARD)


def scripted(bucket: MemoryBucket, *faults: S3Fault | None) -> DailySpendStore:
    """Return daily reservations in memory whose operations have these faults."""
    return DailySpendStore(SteppedStorage(bucket, ScriptedFaults(*faults)), SealedSettings(I2V_BUCKET="b-1"))


@pytest.mark.parametrize("fault", [S3Fault.REPEATED, S3Fault.BUSY])
@pytest.mark.parametrize("before", [0, 1], ids=["first write", "later write"])
async def test_a_repeated_reservation_counts_once(fault: S3Fault, before: int) -> None:
    """boto3 sends a write twice and gets 412 for its own, or S3 answers 409: one block is reserved, not two."""
    bucket = MemoryBucket()
    if before:
        await Budget(scripted(bucket), "other", max_spend_usd=None, daily_cap_usd=None).reserve(PRO)
    own = Budget(scripted(bucket, None, fault), "run-1", max_spend_usd=None, daily_cap_usd=None)
    await own.reserve(STANDARD)
    store = scripted(bucket)
    assert await reserved(store, "run-1") == 32 * STANDARD
    await own.close()
    assert await reserved(store, "run-1") == STANDARD


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE])
@pytest.mark.parametrize("step", [0, 1], ids=["read", "write"])
async def test_a_failed_request_reserves_nothing_to_spend(fault: S3Fault, step: int) -> None:
    """The image is not submitted; what may have been reserved counts, so the limit still holds."""
    bucket = MemoryBucket()
    limit = 40 * STANDARD
    own = Budget(scripted(bucket, *[None] * step, fault), "run-1", max_spend_usd=limit, daily_cap_usd=None)
    with pytest.raises(StorageError):
        await own.reserve(STANDARD)
    assert await reserved(scripted(bucket)) in {NOTHING, 32 * STANDARD}
    allowed = await reserve_many(own, [STANDARD] * 100)
    assert sum(allowed) <= limit
    assert await reserved(scripted(bucket)) <= limit


async def test_fifty_runs_in_any_order_never_exceed_the_cap(settings: Settings) -> None:
    """A thousand reservations in memory, in random order, use the cap and never exceed it."""
    bucket, cap = MemoryBucket(), Decimal("40.000")
    budgets = [
        Budget(DailySpendStore(DelayedStorage(bucket), settings), f"run-{n}", max_spend_usd=None, daily_cap_usd=cap)
        for n in range(50)
    ]
    for one in budgets:
        one.jobs_expected = 2
    dice = random.Random(7)  # noqa: S311 - prices, no secret
    allowed = await asyncio.gather(*(reserve_many(one, [dice.choice(PRICES) for _ in range(20)]) for one in budgets))
    spent = sum((sum(prices, NOTHING) for prices in allowed), NOTHING)
    assert cap - 51 * PRO < spent <= cap
    assert await reserved(DailySpendStore(MemoryStorage(bucket), settings)) <= cap


class DelayedStorage(MemoryStorage):
    """Delays each operation, so that runs overtake each other."""

    async def turn(self, operation: str, uri: Any, action: Callable[[], Any]) -> Any:
        """Run it after one to five iterations of the event loop."""
        del operation, uri
        for _ in range(random.randint(1, 5)):  # noqa: S311 - disorder, no secret
            await asyncio.sleep(0)
        return action()


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE, S3Fault.REPEATED, S3Fault.BUSY])
async def test_the_rest_is_returned_once(fault: S3Fault) -> None:
    """If the write of `close` fails, applied or not, closing again leaves what was spent."""
    bucket = MemoryBucket()
    own = Budget(scripted(bucket, None, None, None, fault), "run-1", max_spend_usd=None, daily_cap_usd=None)
    for price in (STANDARD, STANDARD, PRO):
        await own.reserve(price)
    for _ in range(2):
        with suppress(StorageError):
            await own.close()
    assert await reserved(scripted(bucket)) >= STANDARD + STANDARD + PRO
    if fault is not S3Fault.LATE:
        assert await reserved(scripted(bucket)) == STANDARD + STANDARD + PRO


async def test_yesterdays_rest_is_not_spent_today(budget: MakeBudget, store: DailySpendStore) -> None:
    """A block from before midnight is not spent after it: today's cap holds, and the rest is returned."""
    clock = ["2026-11-22"]
    own = budget(cap=str(3 * STANDARD), jobs=3, today=lambda: clock[0])
    day = await own.reserve(STANDARD)
    other = budget("run-2", cap=str(3 * STANDARD), jobs=2, today=lambda: "2026-11-23")
    assert len(await reserve_many(other, [STANDARD] * 2)) == 2
    clock[0] = "2026-11-23"
    assert len(await reserve_many(own, [STANDARD] * 3)) == 1
    own.refund(STANDARD, day)
    await own.close()
    assert [await reserved(store, "run-1", day) for day in ("2026-11-22", "2026-11-23")] == [NOTHING, STANDARD]
    assert await reserved(store, day="2026-11-23") == 3 * STANDARD


async def test_midnight_does_not_shrink_the_run_limit(budget: MakeBudget) -> None:
    """What was reserved and not spent before midnight can still be spent after it, and no more."""
    clock = ["2026-11-22"]
    own = budget(limit=str(4 * STANDARD), jobs=4, today=lambda: clock[0])
    await own.reserve(STANDARD)
    clock[0] = "2026-11-23"
    assert len(await reserve_many(own, [STANDARD] * 5)) == 3
    assert own.spent_usd == 4 * STANDARD
