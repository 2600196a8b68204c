"""Promise 6 on the day pages in S3: many runs at once never pass a limit by a cent, and give back what they leave."""

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
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.settings import SealedSettings

STANDARD, LONG, PRO = PRICES = (Decimal("0.192"), Decimal("0.320"), Decimal("0.33"))
NOTHING = Decimal(0)
MakeBudget = Callable[..., Budget]


@pytest.fixture
def pages(aws: None, settings: Settings) -> Iterator[DailySpendStore]:
    """The day pages of an empty ledger in the sandbox's S3."""
    with Storage() as storage:
        yield DailySpendStore(storage, settings)


@pytest.fixture
def budget(pages: DailySpendStore) -> MakeBudget:
    """A run's budget: `budget("run-1", most="5", cap="10")`."""

    def make(
        run_id: str = "run-1", *, most: str | None = None, cap: str | None = None, jobs: int = BLOCK_JOBS, **more: Any
    ) -> Budget:
        made = Budget(pages, run_id, max_spend_usd=dollars(most), daily_cap_usd=dollars(cap), **more)
        made.jobs_expected = jobs
        return made

    return make


def dollars(text: str | None) -> Decimal | None:
    """An amount."""
    return None if text is None else Decimal(text)


def today() -> str:
    """The UTC day."""
    return datetime.now(UTC).date().isoformat()


async def held(pages: DailySpendStore, run_id: str | None = None, day: str = "") -> Decimal:
    """What the day's page holds, of all runs or of one."""
    page, _ = await pages.read(day or today())
    return page.total_usd if run_id is None else page.reserved_usd.get(run_id, NOTHING)


async def take_many(budget: Budget, prices: list[Decimal]) -> list[Decimal]:
    """Take for each price at once, and say which were allowed."""

    async def take(price: Decimal) -> Decimal | None:
        try:
            await budget.reserve(price)
        except BudgetExceeded:
            return None
        return price

    return [price for price in await asyncio.gather(*map(take, prices)) if price is not None]


@pytest.mark.parametrize("seed", [1, 2])
async def test_many_runs_at_once_never_pass_the_cap(budget: MakeBudget, pages: DailySpendStore, seed: int) -> None:
    """Eight runs want a hundred videos each, of all prices: at no moment more than the cap is held, or spent in all."""
    dice, cap = random.Random(seed), Decimal("61.234")  # noqa: S311 - prices, no secret
    budgets = [budget(f"run-{number}", cap=str(cap), jobs=100) for number in range(8)]
    wanted = [[dice.choice(PRICES) for _ in range(100)] for _ in budgets]
    ended = asyncio.Event()
    seen: list[Decimal] = []

    async def watch() -> None:
        while not ended.is_set():
            seen.append(await held(pages))

    watching = asyncio.ensure_future(watch())
    taken = await asyncio.gather(*map(take_many, budgets, wanted))
    ended.set()
    await watching
    spent = [sum(prices, NOTHING) for prices in taken]
    satisfied = sum(len(prices) == 100 for prices in taken)
    assert cap - 9 * PRO - satisfied * BLOCK_JOBS * (PRO - STANDARD) < sum(spent) <= cap
    assert max(seen) <= cap
    assert [one.spent_usd for one in budgets] == spent
    await asyncio.gather(*(one.close() for one in budgets))
    assert [await held(pages, f"run-{number}") for number in range(8)] == spent


async def test_equal_prices_use_the_cap_to_the_last_video(budget: MakeBudget, pages: DailySpendStore) -> None:
    """A cap of twenty videos lets exactly twenty through, however many runs ask for a hundred."""
    budgets = [budget(f"run-{number}", cap="3.84", jobs=100) for number in range(8)]
    taken = await asyncio.gather(*(take_many(one, [STANDARD] * 100) for one in budgets))
    assert sum(map(len, taken)) == 20
    assert await held(pages) == Decimal("3.84")


async def test_a_run_keeps_to_its_own_limit(budget: MakeBudget, pages: DailySpendStore) -> None:
    """However many of its images ask at once, and whatever is left under the cap."""
    mine = budget(most="5.000", cap="1000")
    taken = await take_many(mine, [random.Random(3).choice(PRICES) for _ in range(100)])  # noqa: S311 - prices
    assert Decimal("5.000") - PRO < sum(taken) <= Decimal("5.000")
    assert await held(pages) <= Decimal("5.000")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
async def test_a_limit_that_covers_mixed_prices_exactly_lets_all_through(budget: MakeBudget, order: list[int]) -> None:
    """What a run was found able to pay it can pay, in whatever order."""
    prices = [PRICES[number] for number in order] * 5
    mine = budget(most=str(sum(prices)), jobs=len(prices))
    assert await take_many(mine, prices) == prices


async def test_a_block_is_of_thirty_two_jobs_at_most(budget: MakeBudget, pages: DailySpendStore) -> None:
    """So much a dead run holds at most; the next block comes when the first is used up."""
    mine = budget(jobs=1000)
    await mine.reserve(STANDARD)
    assert await held(pages) == 32 * STANDARD
    for _ in range(31):
        await mine.reserve(STANDARD)
    assert await held(pages) == 32 * STANDARD
    await mine.reserve(STANDARD)
    assert await held(pages) == 64 * STANDARD


async def test_a_block_is_no_larger_than_what_is_to_come(budget: MakeBudget, pages: DailySpendStore) -> None:
    """A run of three images holds the price of three, of one the price of one."""
    await budget("three", jobs=3).reserve(STANDARD)
    await budget("one", jobs=1).reserve(PRO)
    assert [await held(pages, run) for run in ("three", "one")] == [3 * STANDARD, PRO]


async def test_close_gives_exactly_the_rest_back(budget: MakeBudget, pages: DailySpendStore) -> None:
    """What was taken stays, the rest of the block goes, and closing again changes nothing."""
    mine = budget()
    for price in (STANDARD, PRO, STANDARD):
        await mine.reserve(price)
    for _ in range(2):
        await mine.close()
        assert await held(pages) == mine.spent_usd == STANDARD + PRO + STANDARD


async def test_what_was_not_paid_comes_back(budget: MakeBudget, pages: DailySpendStore) -> None:
    """An attempt that was plainly refused is free again, for this run at once and for others at its end."""
    mine = budget(most="0.384", jobs=2)
    for _ in range(5):
        await mine.reserve(STANDARD)
        mine.refund(STANDARD)
    await mine.reserve(STANDARD)
    await mine.close()
    assert await held(pages) == STANDARD


async def test_what_comes_back_after_a_refusal_is_used(budget: MakeBudget) -> None:
    """The limit was reached, then an attempt came back: the next image may have it."""
    mine = budget(most="0.192")
    await mine.reserve(STANDARD)
    with pytest.raises(BudgetExceeded):
        await mine.reserve(STANDARD)
    mine.refund(STANDARD)
    await mine.reserve(STANDARD)


async def test_other_runs_are_left_alone(budget: MakeBudget, pages: DailySpendStore) -> None:
    """A run changes its own entry and no other."""
    one, two = budget("one", jobs=1), budget("two", jobs=5)
    await one.reserve(STANDARD)
    await two.reserve(PRO)
    await one.close()
    await two.close()
    assert [await held(pages, run) for run in ("one", "two")] == [STANDARD, PRO]


async def test_a_dead_runs_block_counts_until_the_day_ends(budget: MakeBudget, pages: DailySpendStore) -> None:
    """A run that died without closing may have spent all of its block, and so it counts."""
    await budget("dead", cap="10").reserve(STANDARD)
    assert await held(pages) == 32 * STANDARD
    room, limit = await budget("next", cap="10").available_usd()
    assert (room, limit) == (10 - 32 * STANDARD, "I2V_DAILY_CAP_USD")


@pytest.mark.parametrize("days", [(), (today(),)], ids=["died before its record was written", "remembered"])
async def test_a_retry_of_a_run_spends_no_more_than_the_run(
    budget: MakeBudget, pages: DailySpendStore, days: tuple[str, ...]
) -> None:
    """`max_spend_usd` holds for a flow run id: what its first process held counts for the second."""
    await budget(most="3.84", jobs=15).reserve(STANDARD)
    retry = budget(most="3.84", days=days)
    assert (await retry.available_usd())[0] == 5 * STANDARD
    assert len(await take_many(retry, [STANDARD] * 100)) == 5
    assert await held(pages) == Decimal("3.84")


async def test_a_limit_holds_over_midnight(budget: MakeBudget, pages: DailySpendStore) -> None:
    """What the run spent yesterday counts for its own limit, and not for today's cap."""
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    page, _ = await pages.read(yesterday)
    entries = {"run-1": 10 * STANDARD, "another": 100 * STANDARD}
    await pages.write(page.model_copy(update={"reserved_usd": entries}), None)
    mine = budget(most=str(12 * STANDARD), cap=str(5 * STANDARD), days=(yesterday,))
    assert len(await take_many(mine, [STANDARD] * 10)) == 2
    assert await held(pages, day=yesterday) == 110 * STANDARD
    await mine.close()
    assert set(mine.days) == {yesterday, today()}
    assert [await held(pages, "run-1", day) for day in (yesterday, today())] == [10 * STANDARD, 2 * STANDARD]


async def test_a_lowered_limit_holds_from_now_on(budget: MakeBudget) -> None:
    """The provider's balance was asked, and less is there than the run may spend; it is never raised so."""
    mine = budget(most="5", jobs=1)
    await mine.reserve(STANDARD)
    mine.lower_limit(2 * STANDARD)
    mine.lower_limit(Decimal(100))
    assert len(await take_many(mine, [STANDARD] * 10)) == 2


async def test_a_pause_holds_within_a_block(budget: MakeBudget, pages: DailySpendStore, settings: Settings) -> None:
    """What is reserved may still be submitted; no block is reserved after it, and nothing is held for it."""
    with Storage() as storage:
        ledger = Ledger(storage, settings)
        mine = budget(jobs=2)
        mine.before_block = ledger.raise_if_paused
        await mine.reserve(STANDARD)
        await ledger.set_paused(True)
        await mine.reserve(STANDARD)
        with pytest.raises(Paused, match="i2v resume"):
            await mine.reserve(STANDARD)
        assert await held(pages) == 2 * STANDARD
        await ledger.set_paused(False)
        await mine.reserve(STANDARD)


async def test_a_page_that_cannot_be_read_stops_spending(budget: MakeBudget, sandbox: Sandbox) -> None:
    """Garbage, or a page of tomorrow: nothing may be reserved, and the page stays as it is."""
    key = f"jobs/days/{today()}.json"
    for body, told in ((b"{", "cannot be read"), (b'{"format": 2, "day": "x"}', "Upgrade i2v")):
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key=key, Body=body)
        with pytest.raises(LedgerError, match=told):
            await budget().reserve(STANDARD)
        assert sandbox.read(key) == body


async def test_a_page_of_tomorrow_is_told_as_such(budget: MakeBudget, sandbox: Sandbox) -> None:
    """Also where this version could not read the rest of it."""
    body = b'{"format": 2, "day": "x", "reserved_usd": "elsewhere now"}'
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/days/{today()}.json", Body=body)
    with pytest.raises(LedgerError, match="Upgrade i2v"):
        await budget().reserve(STANDARD)


class Script:
    """How each operation on a bucket in memory ends, in order; the rest is well."""

    def __init__(self, *ends: S3Fault | None) -> None:
        self.late: list[Callable[[], Any]] = []
        self._ends = list(ends)

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> S3Fault | None:
        """The next end."""
        del kind, uri
        return self._ends.pop(0) if self._ends else None


def scripted(bucket: MemoryBucket, *ends: S3Fault | None) -> DailySpendStore:
    """Day pages in memory whose operations end so."""
    return DailySpendStore(SteppedStorage(bucket, Script(*ends)), SealedSettings(I2V_BUCKET="b-1"))


@pytest.mark.parametrize("fault", [S3Fault.REPEATED, S3Fault.BUSY])
@pytest.mark.parametrize("before", [0, 1], ids=["first write", "later write"])
async def test_a_repeated_reservation_changes_nothing(fault: S3Fault, before: int) -> None:
    """boto3 sends a write twice and gets 412 for its own, or S3 answers 409: one block is held, not two."""
    bucket = MemoryBucket()
    if before:
        await Budget(scripted(bucket), "other", max_spend_usd=None, daily_cap_usd=None).reserve(PRO)
    mine = Budget(scripted(bucket, None, fault), "run-1", max_spend_usd=None, daily_cap_usd=None)
    await mine.reserve(STANDARD)
    pages = scripted(bucket)
    assert await held(pages, "run-1") == 32 * STANDARD
    await mine.close()
    assert await held(pages, "run-1") == STANDARD


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE])
@pytest.mark.parametrize("step", [0, 1], ids=["read", "write"])
async def test_nothing_is_taken_where_s3_does_not_answer(fault: S3Fault, step: int) -> None:
    """The image is not submitted; what may have been reserved counts, so that a limit holds all the same."""
    bucket = MemoryBucket()
    limit = 40 * STANDARD
    mine = Budget(scripted(bucket, *[None] * step, fault), "run-1", max_spend_usd=limit, daily_cap_usd=None)
    with pytest.raises(StorageError):
        await mine.reserve(STANDARD)
    assert await held(scripted(bucket)) in {NOTHING, 32 * STANDARD}
    taken = await take_many(mine, [STANDARD] * 100)
    assert sum(taken) <= limit
    assert await held(scripted(bucket)) <= limit


async def test_in_memory_it_is_the_same(settings: Settings) -> None:
    """A thousand takes by fifty runs under one cap, in any order of turns, spend the cap and no cent more."""
    bucket, cap = MemoryBucket(), Decimal("40.000")
    budgets = [
        Budget(DailySpendStore(Scattered(bucket), settings), f"run-{n}", max_spend_usd=None, daily_cap_usd=cap)
        for n in range(50)
    ]
    for one in budgets:
        one.jobs_expected = 2
    dice = random.Random(7)  # noqa: S311 - prices, no secret
    taken = await asyncio.gather(*(take_many(one, [dice.choice(PRICES) for _ in range(20)]) for one in budgets))
    spent = sum((sum(prices, NOTHING) for prices in taken), NOTHING)
    assert cap - 51 * PRO < spent <= cap
    assert await held(DailySpendStore(MemoryStorage(bucket), settings)) <= cap


class Scattered(MemoryStorage):
    """Each operation is done a little later, so that runs overtake each other."""

    async def turn(self, operation: str, uri: Any, action: Callable[[], Any]) -> Any:
        """After one to five turns of the loop."""
        del operation, uri
        for _ in range(random.randint(1, 5)):  # noqa: S311 - disorder, no secret
            await asyncio.sleep(0)
        return action()


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.LATE, S3Fault.REPEATED, S3Fault.BUSY])
async def test_the_rest_is_given_back_once(fault: S3Fault) -> None:
    """S3 fails at the write that gives the rest back, done or not, and it is closed again: what was taken stays."""
    bucket = MemoryBucket()
    mine = Budget(scripted(bucket, None, None, None, fault), "run-1", max_spend_usd=None, daily_cap_usd=None)
    for price in (STANDARD, STANDARD, PRO):
        await mine.reserve(price)
    for _ in range(2):
        with suppress(StorageError):
            await mine.close()
    assert await held(scripted(bucket)) >= STANDARD + STANDARD + PRO
    if fault is not S3Fault.LATE:
        assert await held(scripted(bucket)) == STANDARD + STANDARD + PRO


async def test_what_yesterday_left_is_not_spent_today(budget: MakeBudget, pages: DailySpendStore) -> None:
    """A block of before midnight is of no use after it: today's cap holds to the cent, and the rest goes back."""
    clock = ["2026-11-22"]
    mine = budget(cap=str(3 * STANDARD), jobs=3, today=lambda: clock[0])
    day = await mine.reserve(STANDARD)
    other = budget("run-2", cap=str(3 * STANDARD), jobs=2, today=lambda: "2026-11-23")
    assert len(await take_many(other, [STANDARD] * 2)) == 2
    clock[0] = "2026-11-23"
    assert len(await take_many(mine, [STANDARD] * 3)) == 1
    mine.refund(STANDARD, day)
    await mine.close()
    assert [await held(pages, "run-1", day) for day in ("2026-11-22", "2026-11-23")] == [NOTHING, STANDARD]
    assert await held(pages, day="2026-11-23") == 3 * STANDARD


async def test_midnight_takes_nothing_of_a_runs_own_limit(budget: MakeBudget) -> None:
    """What was reserved and not spent before midnight may still be spent after it, and no cent more."""
    clock = ["2026-11-22"]
    mine = budget(most=str(4 * STANDARD), jobs=4, today=lambda: clock[0])
    await mine.reserve(STANDARD)
    clock[0] = "2026-11-23"
    assert len(await take_many(mine, [STANDARD] * 5)) == 3
    assert mine.spent_usd == 4 * STANDARD
