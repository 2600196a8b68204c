"""Spending limits of one process: their messages, and what they count. Races are in tests/integration."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

import pytest

from i2v.errors import BudgetExceeded
from i2v.ledger.abandoned_reservations import ClaimState
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpend, DaySpendStore, Entry, Reservation
from i2v.spending_limits import RunLimits, all_limits
from tests.support.interleaving import SteppedStorage
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.scripted_faults import ScriptedFaults
from tests.support.settings import SealedSettings

PRICE = Decimal("0.192")
PRO = Decimal("0.33")
JOB = "a" * 64
SETTINGS = SealedSettings(I2V_BUCKET="b-1")
CLAIMS = count()


async def no_claim(job: str, claim: str) -> ClaimState:
    """Tell that no job has this claim."""
    del job, claim
    return "absent"


def budget(limit: str | None = None, cap: str | None = None, storage: MemoryStorage | None = None) -> Budget:
    """Return a run's budget, over an empty ledger unless a storage is given."""
    return Budget(
        DaySpendStore(storage or MemoryStorage(), SETTINGS),
        "run-1",
        max_spend_usd=None if limit is None else Decimal(limit),
        limits=RunLimits("", all_limits({}, None if cap is None else Decimal(cap))),
        read_claim=no_claim,
        abandoned_after=60,
    )


async def reserve(own: Budget, price: Decimal = PRICE) -> str:
    """Reserve the price of one submit and return its claim."""
    claim = f"claim {next(CLAIMS)}"
    await own.reserve(price, JOB, claim)
    return claim


async def test_the_error_names_the_run_limit_and_what_is_left() -> None:
    """It says what a video costs and what to do; exit 3."""
    own = budget("0.5")
    await reserve(own)
    await reserve(own)
    with pytest.raises(BudgetExceeded) as caught:
        await reserve(own)
    assert str(caught.value) == "max_spend_usd has $0.116 left, one video costs $0.192. Raise max_spend_usd"
    assert caught.value.exit_code == 3


async def test_the_error_names_the_daily_cap() -> None:
    """It says that the next day has a new cap."""
    with pytest.raises(BudgetExceeded) as caught:
        await reserve(budget(cap="0.1"))
    assert str(caught.value) == (
        "I2V_DAILY_CAP_USD has $0.10 left, one video costs $0.192. Raise the limit, or wait for the next UTC day"
    )


async def test_the_error_names_the_balance() -> None:
    """If the balance limits a partial run, the hint is to add balance, not to raise a limit."""
    own = budget()
    own.lower_limit(Decimal("0.2"), "the provider's balance")
    await reserve(own)
    with pytest.raises(BudgetExceeded) as caught:
        await reserve(own)
    assert str(caught.value) == (
        "The provider's balance has $0.008 left, one video costs $0.192. Add balance at the provider"
    )


async def test_a_limit_below_the_spend_has_nothing_left() -> None:
    """A cap that was lowered below the spend has $0 left."""
    with pytest.raises(BudgetExceeded, match=r"has \$0.00 left"):
        await reserve(budget("-1"))


@pytest.mark.parametrize(
    ("limit", "cap", "available", "name"),
    [
        (None, None, None, "no limit"),
        ("5", None, "5", "max_spend_usd"),
        (None, "3", "3", "I2V_DAILY_CAP_USD"),
        ("5", "3", "3", "I2V_DAILY_CAP_USD"),
        ("2", "3", "2", "max_spend_usd"),
    ],
)
async def test_the_lower_of_two_limits_applies(
    limit: str | None, cap: str | None, available: str | None, name: str
) -> None:
    """Its name is returned with the amount."""
    assert await budget(limit, cap).available_usd() == (None if available is None else Decimal(available), name)


async def test_a_limit_of_zero_allows_free_videos() -> None:
    """A price of 0 is within every limit."""
    own = budget("0", "0")
    for _ in range(3):
        await reserve(own, Decimal(0))
    assert own.spent_usd == Decimal(0)


@pytest.mark.parametrize("prices", [[PRICE, PRICE, PRO], [PRO, PRICE, PRICE], [PRICE, PRO, PRICE]])
async def test_a_limit_that_covers_all_prices_exactly_allows_all(prices: list[Decimal]) -> None:
    """Every cent of a limit can be spent, in any order of prices."""
    own = budget("0.714")
    for price in prices:
        await reserve(own, price)
    assert own.spent_usd == Decimal("0.714")


async def test_a_reservation_counts_for_the_day_of_today() -> None:
    """The caller learns the day, and may not send on another."""
    assert await budget().reserve(PRICE, JOB, "claim") == datetime.now(UTC).date().isoformat()


async def test_a_refusal_is_remembered_until_something_is_given_back() -> None:
    """A thousand images behind an exhausted budget do not read the document a thousand times."""
    script = ScriptedFaults()
    own = budget(str(PRICE), storage=SteppedStorage(MemoryBucket(), script))
    claim = await reserve(own)
    with pytest.raises(BudgetExceeded):
        await reserve(own)
    before = len(script.operations)
    for _ in range(10):
        with pytest.raises(BudgetExceeded):
            await reserve(own)
    assert len(script.operations) == before
    own.release(claim)
    await reserve(own)


async def test_what_is_given_back_counts_for_a_more_expensive_video() -> None:
    """The rest of the limit and what was given back add up."""
    own = budget("0.5")
    claim = await reserve(own)
    with pytest.raises(BudgetExceeded):
        await reserve(own, PRO)
    own.release(claim)
    await reserve(own, PRO)
    assert own.spent_usd == PRO


async def test_a_cheaper_video_is_still_allowed() -> None:
    """That a pro video exceeds the limit does not rule out a standard one."""
    own = budget("0.3")
    with pytest.raises(BudgetExceeded):
        await reserve(own, PRO)
    await reserve(own)
    assert own.spent_usd == PRICE


async def test_what_is_paid_stays_spent() -> None:
    """Giving it back afterwards, or paying it twice, changes nothing."""
    own = budget("0.384")
    claim = await reserve(own)
    own.pay(claim)
    own.pay(claim)
    own.release(claim)
    assert own.spent_usd == PRICE
    await reserve(own)
    with pytest.raises(BudgetExceeded):
        await reserve(own)


async def test_a_cancelled_reservation_is_given_back() -> None:
    """Whether it was cancelled before its write, during it or after."""
    own = budget(str(PRICE))
    for turns in range(6):
        waiting = asyncio.ensure_future(own.reserve(PRICE, JOB, f"cancelled {turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        results = await asyncio.gather(waiting, return_exceptions=True)
        if not isinstance(results[0], asyncio.CancelledError):
            own.release(f"cancelled {turns}")
        await asyncio.sleep(0.01)
        assert own.spent_usd == Decimal(0)
    await reserve(own)


async def test_near_the_cap_is_said_from_eighty_percent() -> None:
    """A person can raise the cap before it stops everything."""
    own = budget(cap="1.92")
    for _ in range(7):
        await reserve(own)
    assert own.near_limits == []
    await reserve(own)
    assert [(limit.name, usd) for limit, usd in own.near_limits] == [("I2V_DAILY_CAP_USD", 8 * PRICE)]
    assert budget().near_limits == []


def test_total_usd_sums_all_processes() -> None:
    """The daily total is exactly everything spent or reserved."""
    waiting = Reservation(job=JOB, usd=PRO, at=datetime.now(UTC))
    entries = {"a": Entry(run_id="r", paid_usd=PRICE, reserved={"x": waiting}), "b": Entry(run_id="s", paid_usd=PRO)}
    page = DaySpend(day="2026-11-22", entries=entries)
    assert page.total_usd == PRICE + 2 * PRO
    assert entries["a"].without("x").total_usd == PRICE
    assert DaySpend.model_validate_json(page.model_dump_json()) == page
