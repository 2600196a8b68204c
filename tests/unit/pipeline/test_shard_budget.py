"""The limit of a batch over its shards, in processes that race, die and start again."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import count

import pytest

from i2v.errors import BudgetExceeded
from i2v.ledger import budget
from i2v.ledger.abandoned_reservations import ClaimState
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpendStore
from i2v.pipeline.payment.shard_budget import ALL_DAYS, BatchBudget, BatchSpendStore, ShardBudget
from tests.support.memory_storage import MemoryStorage
from tests.support.settings import SealedSettings

PRICE = Decimal("0.192")
SETTINGS = SealedSettings(I2V_BUCKET="b-1")
CLAIMS = count()


@pytest.fixture(autouse=True)
def recheck_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at reservations of others again at once."""
    monkeypatch.setattr(budget, "RECHECK_SECONDS", 0.01)


class World:
    """One ledger, and what its jobs' records tell of claims."""

    def __init__(self, videos: int, cap: Decimal | None = None) -> None:
        self.storage = MemoryStorage()
        self.limit = videos * PRICE
        self.cap = cap
        self.claims: dict[str, ClaimState] = {}
        self.abandoned_after = 60.0
        self.day = "2026-11-27"

    async def read_claim(self, _job: str, claim: str) -> ClaimState:
        """Tell what became of a claim."""
        return self.claims.get(claim, "absent")

    def shard(self, number: int) -> ShardBudget:
        """Return the budget of a new process of a shard."""
        run_id, read, after = f"batch-{number}", self.read_claim, self.abandoned_after
        store = BatchSpendStore(self.storage, SETTINGS, "batch")
        shared = BatchBudget(
            store,
            run_id,
            max_spend_usd=self.limit,
            read_claim=read,
            abandoned_after=after,
            today=lambda *_: ALL_DAYS,
        )
        days = DaySpendStore(self.storage, SETTINGS)
        limits = SETTINGS.model_copy(update={"daily_cap_usd": self.cap}).limits_of(None)
        own = Budget(
            days,
            run_id,
            max_spend_usd=None,
            limits=limits,
            read_claim=read,
            abandoned_after=after,
            today=lambda *_: self.day,
        )
        return ShardBudget(shared, own)

    async def pay(self, shard: ShardBudget) -> bool:
        """Pay for one video, unless a limit forbids it."""
        claim = f"claim {next(CLAIMS)}"
        try:
            await shard.reserve(PRICE, "a" * 64, claim)
        except BudgetExceeded:
            return False
        self.claims[claim] = "counts"
        shard.pay(claim)
        return True


async def test_all_shards_together_spend_the_limit_and_no_more() -> None:
    """Three shards that want 30 videos at the same time get the 10 that the limit allows."""
    world = World(10)
    shards = [world.shard(number) for number in range(3)]
    paid = await asyncio.gather(*(world.pay(shard) for _ in range(10) for shard in shards))
    assert sum(paid) == 10


async def test_the_limit_holds_over_midnight() -> None:
    """What was spent on another day counts, also what a process whose clock is behind spends there."""
    world = World(4)
    early, late = world.shard(1), world.shard(2)
    assert await world.pay(early)
    world.day = "2026-11-28"
    assert await world.pay(late)
    world.day = "2026-11-27"
    assert await world.pay(early)
    world.day = "2026-11-28"
    assert [await world.pay(late) for _ in range(3)] == [True, False, False]


async def test_a_shard_that_starts_again_counts_what_it_has_spent() -> None:
    """A new process of a shard, or of its parent, starts from what is in the ledger."""
    world = World(5)
    assert [await world.pay(world.shard(1)) for _ in range(7)] == [True] * 5 + [False] * 2


async def test_what_a_dead_shard_reserved_and_did_not_pay_is_used_by_the_others() -> None:
    """A shard whose submit would be refused waits until the dead one's reservation can no longer be paid."""
    world = World(2)
    world.abandoned_after = 0.3
    dead, living = world.shard(1), world.shard(2)
    await dead.reserve(PRICE, "a" * 64, "never claimed")
    assert await world.pay(living)
    assert await world.pay(living)
    assert not await world.pay(living)


async def test_what_a_dead_shard_may_have_paid_counts() -> None:
    """A reservation whose claim is in its job's record is money, whether its process lives or not."""
    world = World(2)
    dead, living = world.shard(1), world.shard(2)
    await dead.reserve(PRICE, "a" * 64, "claimed")
    world.claims["claimed"] = "counts"
    assert [await world.pay(living) for _ in range(2)] == [True, False]


async def test_the_daily_cap_gives_back_what_the_batch_reserved() -> None:
    """A submit that the cap forbids takes nothing from the batch's limit."""
    world = World(2, cap=PRICE)
    one, other = world.shard(1), world.shard(2)
    assert [await world.pay(one) for _ in range(2)] == [True, False]
    await one.close()
    world.day = "2026-11-28"
    assert await world.pay(other)


async def test_the_tightest_limit_is_named() -> None:
    """What is available is the least of the batch's limit and the cap."""
    assert await World(2, cap=PRICE).shard(1).available_usd() == (PRICE, "I2V_DAILY_CAP_USD")
    assert await World(1, cap=2 * PRICE).shard(1).available_usd() == (PRICE, "max_spend_usd")
