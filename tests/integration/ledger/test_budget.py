"""Promise 6 on the days in S3: concurrent runs never exceed a limit, and give back what they do not pay."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from i2v.errors import BudgetExceeded, LedgerError
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpendStore
from sandbox import Sandbox
from tests.integration.ledger.conftest import MEMORY_SETTINGS, MakeBudget, reserved
from tests.support.interleaving import SteppedStorage
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.scripted_faults import ScriptedFaults

STANDARD, LONG, PRO = PRICES = (Decimal("0.192"), Decimal("0.320"), Decimal("0.33"))
NOTHING = Decimal(0)
JOB = "a" * 64
CLAIMS = count()


def today() -> str:
    """Return the UTC day."""
    return datetime.now(UTC).date().isoformat()


async def reserve(own: Budget, price: Decimal = STANDARD) -> str:
    """Reserve the price of one submit and return its claim."""
    claim = f"claim {next(CLAIMS)}"
    await own.reserve(price, JOB, claim)
    return claim


async def pay(own: Budget, price: Decimal = STANDARD) -> None:
    """Reserve the price of one submit and pay it."""
    own.pay(await reserve(own, price))


async def pay_many(own: Budget, prices: list[Decimal]) -> list[Decimal]:
    """Pay all prices concurrently and return those that were allowed."""

    async def pay_one(price: Decimal) -> Decimal | None:
        try:
            await pay(own, price)
        except BudgetExceeded:
            return None
        return price

    return [price for price in await asyncio.gather(*map(pay_one, prices)) if price is not None]


@pytest.mark.parametrize("seed", [1, 2])
async def test_concurrent_runs_never_exceed_the_cap(budget: MakeBudget, store: DaySpendStore, seed: int) -> None:
    """Eight runs want a hundred videos each at mixed prices: they use up the cap and never exceed it."""
    dice, cap = random.Random(seed), Decimal("61.234")  # noqa: S311 - prices, no secret
    budgets = [budget(f"run-{number}", cap=str(cap)) for number in range(8)]
    wanted = [[dice.choice(PRICES) for _ in range(100)] for _ in budgets]
    ended = asyncio.Event()
    samples: list[Decimal] = []

    async def watch() -> None:
        while not ended.is_set():
            samples.append(await reserved(store, today()))

    watching = asyncio.ensure_future(watch())
    allowed = await asyncio.gather(*map(pay_many, budgets, wanted))
    ended.set()
    await watching
    spent = [sum(prices, NOTHING) for prices in allowed]
    assert cap - STANDARD < sum(spent) <= cap
    assert max(samples) <= cap
    assert [one.spent_usd for one in budgets] == spent
    await asyncio.gather(*(one.close() for one in budgets))
    assert [await reserved(store, today(), f"run-{number}") for number in range(8)] == spent


async def test_equal_prices_use_the_whole_cap(budget: MakeBudget, store: DaySpendStore) -> None:
    """A cap for twenty videos allows exactly twenty, however many runs ask for a hundred."""
    budgets = [budget(f"run-{number}", cap="3.84") for number in range(8)]
    allowed = await asyncio.gather(*(pay_many(one, [STANDARD] * 100) for one in budgets))
    assert sum(map(len, allowed)) == 20
    assert await reserved(store, today()) == Decimal("3.84")


async def test_a_run_never_exceeds_its_own_limit(budget: MakeBudget, store: DaySpendStore) -> None:
    """However many images ask concurrently, and whatever is left under the cap."""
    own = budget(limit="5.000", cap="1000")
    allowed = await pay_many(own, [random.Random(3).choice(PRICES) for _ in range(100)])  # noqa: S311 - prices
    assert Decimal("5.000") - PRO < sum(allowed) <= Decimal("5.000")
    assert await reserved(store, today()) <= Decimal("5.000")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
async def test_a_limit_that_covers_mixed_prices_exactly_allows_all(budget: MakeBudget, order: list[int]) -> None:
    """Every video fits, in any order of prices."""
    prices = [PRICES[number] for number in order] * 5
    assert await pay_many(budget(limit=str(sum(prices))), prices) == prices


async def test_no_more_is_reserved_than_is_being_submitted(budget: MakeBudget, store: DaySpendStore) -> None:
    """A run that dies holds no more than what it was about to send."""
    own = budget()
    claims = [await reserve(own) for _ in range(3)]
    assert await reserved(store, today()) == 3 * STANDARD
    own.pay(claims[0])
    own.release(claims[1])
    await reserve(own)
    (entry,) = (await store.read(today())).content.entries.values()
    assert (entry.paid_usd, len(entry.reserved)) == (STANDARD, 2)


async def test_close_gives_back_exactly_what_was_not_paid(budget: MakeBudget, store: DaySpendStore) -> None:
    """What was spent stays, and closing again changes nothing."""
    own = budget()
    for price in (STANDARD, PRO, STANDARD):
        await pay(own, price)
    own.release(await reserve(own, LONG))
    assert await reserved(store, today()) > own.spent_usd
    for _ in range(2):
        await own.close()
        assert await reserved(store, today()) == own.spent_usd == STANDARD + PRO + STANDARD


async def test_what_is_given_back_can_be_spent_again(budget: MakeBudget, store: DaySpendStore) -> None:
    """The price of a rejected attempt is available to this run at once, and to others at its next write."""
    own = budget(limit="0.384")
    for _ in range(5):
        own.release(await reserve(own))
    await pay(own)
    await pay(own)
    with pytest.raises(BudgetExceeded):
        await reserve(own)
    await own.close()
    assert await reserved(store, today()) == 2 * STANDARD


async def test_what_another_run_gave_back_is_found(budget: MakeBudget) -> None:
    """A run under an exhausted cap looks again before it gives up an image."""
    one, two = budget("one", cap=str(STANDARD)), budget("two", cap=str(STANDARD))
    claim = await reserve(one)
    with pytest.raises(BudgetExceeded):
        await reserve(two, PRO)
    one.release(claim)
    await one.close()
    await reserve(two)


async def test_a_run_changes_only_its_own_entry(budget: MakeBudget, store: DaySpendStore) -> None:
    """The entries of other runs stay."""
    one, two = budget("one"), budget("two")
    await pay(one)
    await pay(two, PRO)
    await one.close()
    await two.close()
    assert [await reserved(store, today(), run) for run in ("one", "two")] == [STANDARD, PRO]


async def test_lower_limit_never_raises_the_limit(budget: MakeBudget) -> None:
    """The run spends no more than the provider's balance allows, and a higher balance changes nothing."""
    own = budget(limit="5")
    await pay(own)
    own.lower_limit(2 * STANDARD, "the provider's balance")
    own.lower_limit(Decimal(100), "the provider's balance")
    own.lower_limit(None, "no limit")
    assert len(await pay_many(own, [STANDARD] * 10)) == 2
    with pytest.raises(BudgetExceeded, match=r"The provider's balance has \$0.00 left"):
        await reserve(own)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"format": 2}', b'{"format": 1, "day": "x", "reserved_usd": 5}'])
async def test_an_unreadable_document_stops_spending(budget: MakeBudget, sandbox: Sandbox, body: bytes) -> None:
    """If it cannot be parsed nothing is reserved, and it stays as it was."""
    key = f"jobs/days/{today()}.json"
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=key, Body=body)
    with pytest.raises(LedgerError, match="cannot be read"):
        await reserve(budget())
    assert sandbox.read(key) == body


async def test_a_newer_format_asks_for_an_upgrade(budget: MakeBudget, sandbox: Sandbox) -> None:
    """A newer format is recognized even if this version cannot parse the rest of the page."""
    body = b'{"format": 3, "day": "x", "entries": "elsewhere now"}'
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/days/{today()}.json", Body=body)
    with pytest.raises(LedgerError, match="Upgrade i2v"):
        await reserve(budget())


async def test_submits_at_the_same_time_share_writes(memory_budget: MakeBudget) -> None:
    """A thousand reservations at once take one read and two writes; each waits until its own is written."""
    script = ScriptedFaults()
    own = memory_budget(SteppedStorage(MemoryBucket(), script), cap="1000")
    await pay_many(own, [STANDARD] * 1000)
    assert script.operations.count("put if") <= 2
    assert script.operations.count("get") <= 2
    assert own.spent_usd == 1000 * STANDARD


async def test_those_that_come_during_a_write_share_the_next(memory_budget: MakeBudget) -> None:
    """No amount counts as reserved before the write that contains it."""
    bucket = MemoryBucket()
    own = memory_budget(SlowStorage(bucket))
    first = asyncio.ensure_future(reserve(own))
    await asyncio.sleep(0.01)
    others = [asyncio.ensure_future(reserve(own)) for _ in range(50)]
    await first
    assert not any(other.done() for other in others)
    await asyncio.gather(*others)
    assert SlowStorage.writes == 2


async def test_one_refusal_does_not_stop_those_that_fit(memory_budget: MakeBudget) -> None:
    """In one batch the pro video is refused and the standard ones are not, whatever their order."""
    own = memory_budget(MemoryStorage(), limit="0.5")
    assert sorted(await pay_many(own, [PRO, PRO, STANDARD])) in ([PRO], [STANDARD, PRO])
    other = memory_budget(MemoryStorage(), limit="0.4")
    assert await pay_many(other, [PRO.copy_abs() * 2, STANDARD, STANDARD]) == [STANDARD, STANDARD]


async def test_fifty_runs_in_any_order_never_exceed_the_cap(memory_budget: MakeBudget) -> None:
    """A thousand reservations in memory, in random order, use the cap and never exceed it."""
    bucket, cap = MemoryBucket(), Decimal("40.000")
    budgets = [memory_budget(DelayedStorage(bucket), f"run-{number}", cap=str(cap)) for number in range(50)]
    dice = random.Random(7)  # noqa: S311 - prices, no secret
    allowed = await asyncio.gather(*(pay_many(one, [dice.choice(PRICES) for _ in range(20)]) for one in budgets))
    spent = sum((sum(prices, NOTHING) for prices in allowed), NOTHING)
    assert cap - STANDARD < spent <= cap
    assert await reserved(DaySpendStore(MemoryStorage(bucket), MEMORY_SETTINGS), today()) <= cap


class DelayedStorage(MemoryStorage):
    """Delays each operation, so that runs overtake each other."""

    async def turn(self, operation: str, uri: Any, action: Callable[[], Any]) -> Any:
        """Run it after one to five iterations of the event loop."""
        del operation, uri
        for _ in range(random.randint(1, 5)):  # noqa: S311 - disorder, no secret
            await asyncio.sleep(0)
        return action()


class SlowStorage(MemoryStorage):
    """Takes 50 ms for each write, and counts them."""

    writes = 0

    async def turn(self, operation: str, uri: Any, action: Callable[[], Any]) -> Any:
        """Write slowly."""
        if operation == "put if":
            SlowStorage.writes += 1
            await asyncio.sleep(0.05)
        return await super().turn(operation, uri, action)
