"""Spending limits: their messages and what they count. Races are in tests/integration."""

from __future__ import annotations

from decimal import Decimal

import pytest

from i2v.errors import BudgetExceeded
from i2v.ledger.budget import BLOCK_JOBS, Budget, DailySpend, DailySpendStore
from tests.support.memory_storage import MemoryStorage
from tests.support.settings import SealedSettings

PRICE = Decimal("0.192")
PRO = Decimal("0.33")
SETTINGS = SealedSettings(I2V_BUCKET="b-1")


def budget(limit: str | None = None, cap: str | None = None, jobs: int = BLOCK_JOBS) -> Budget:
    """Return a run's budget over an empty ledger."""
    made = Budget(
        DailySpendStore(MemoryStorage(), SETTINGS),
        "run-1",
        max_spend_usd=None if limit is None else Decimal(limit),
        daily_cap_usd=None if cap is None else Decimal(cap),
    )
    made.jobs_expected = jobs
    return made


async def test_the_error_names_the_run_limit_and_what_is_left() -> None:
    """It says what a video costs and what to do; exit 3."""
    own = budget("0.5")
    await own.reserve(PRICE)
    await own.reserve(PRICE)
    with pytest.raises(BudgetExceeded) as caught:
        await own.reserve(PRICE)
    assert str(caught.value) == "max_spend_usd has $0.116 left, one video costs $0.192. Raise max_spend_usd"
    assert caught.value.exit_code == 3


async def test_the_error_names_the_daily_cap() -> None:
    """It says that the next day has a new cap."""
    with pytest.raises(BudgetExceeded) as caught:
        await budget(cap="0.1").reserve(PRICE)
    assert str(caught.value) == (
        "I2V_DAILY_CAP_USD has $0.10 left, one video costs $0.192. Raise the limit, or wait for the next UTC day"
    )


async def test_a_limit_below_the_spend_has_nothing_left() -> None:
    """A cap that was lowered below the spend has $0 left."""
    with pytest.raises(BudgetExceeded, match=r"has \$0.00 left"):
        await budget("-1").reserve(PRICE)


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
    """A price of 0 is within every limit and needs no infinite block."""
    own = budget("0", "0")
    for _ in range(3):
        await own.reserve(Decimal(0))
    assert own.spent_usd == 0


@pytest.mark.parametrize("prices", [[PRICE, PRICE, PRO], [PRO, PRICE, PRICE], [PRICE, PRO, PRICE]])
async def test_a_limit_that_covers_all_prices_exactly_allows_all(prices: list[Decimal]) -> None:
    """Blocks of one price leave no rest that the next price cannot use."""
    own = budget("0.714", jobs=3)
    for price in prices:
        await own.reserve(price)
    assert own.spent_usd == Decimal("0.714")


async def test_a_refusal_is_remembered_until_a_refund() -> None:
    """A thousand images behind an exhausted budget do not read the document a thousand times."""
    storage = MemoryStorage()
    calls = 0

    async def count() -> None:
        nonlocal calls
        calls += 1

    own = Budget(DailySpendStore(storage, SETTINGS), "run-1", max_spend_usd=PRICE, daily_cap_usd=None)
    own.before_block = count
    await own.reserve(PRICE)
    for _ in range(10):
        with pytest.raises(BudgetExceeded):
            await own.reserve(PRICE)
    assert calls == 2
    own.refund(PRICE)
    await own.reserve(PRICE)


async def test_a_refund_counts_for_a_more_expensive_video() -> None:
    """The rest of the limit and the refund add up."""
    own = budget("0.5", jobs=1)
    await own.reserve(PRICE)
    with pytest.raises(BudgetExceeded):
        await own.reserve(PRO)
    own.refund(PRICE)
    await own.reserve(PRO)
    assert own.spent_usd == PRO


async def test_a_cheaper_video_is_still_allowed() -> None:
    """That a pro video exceeds the limit does not rule out a standard one."""
    own = budget("0.3")
    with pytest.raises(BudgetExceeded):
        await own.reserve(PRO)
    await own.reserve(PRICE)
    assert own.spent_usd == PRICE


def test_total_usd_sums_the_runs() -> None:
    """The daily total is exactly everything spent or reserved."""
    page = DailySpend(day="2026-11-22", reserved_usd={"a": PRICE, "b": PRO})
    assert page.total_usd == Decimal("0.522")
    assert DailySpend.model_validate_json(page.model_dump_json()) == page
