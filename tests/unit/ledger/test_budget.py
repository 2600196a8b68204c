"""What a spending limit says when it forbids something, and what it counts; its races are in tests/integration."""

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


def budget(most: str | None = None, cap: str | None = None, jobs: int = BLOCK_JOBS) -> Budget:
    """A run's budget over an empty ledger."""
    made = Budget(
        DailySpendStore(MemoryStorage(), SETTINGS),
        "run-1",
        max_spend_usd=None if most is None else Decimal(most),
        daily_cap_usd=None if cap is None else Decimal(cap),
    )
    made.jobs_expected = jobs
    return made


async def test_the_runs_own_limit_is_named_with_what_is_left() -> None:
    """The limit's name, what it has left, what a video costs, and what to do; exit 3."""
    mine = budget("0.5")
    await mine.reserve(PRICE)
    await mine.reserve(PRICE)
    with pytest.raises(BudgetExceeded) as caught:
        await mine.reserve(PRICE)
    assert str(caught.value) == "max_spend_usd has $0.116 left, one video costs $0.192. Raise max_spend_usd"
    assert caught.value.exit_code == 3


async def test_the_daily_cap_is_named_and_ends_with_the_day() -> None:
    """Another day is another cap."""
    with pytest.raises(BudgetExceeded) as caught:
        await budget(cap="0.1").reserve(PRICE)
    assert str(caught.value) == (
        "I2V_DAILY_CAP_USD has $0.10 left, one video costs $0.192. Raise the limit, or wait for the next UTC day"
    )


async def test_a_limit_never_has_less_than_nothing_left() -> None:
    """A cap that was lowered below what is spent has $0 left."""
    with pytest.raises(BudgetExceeded, match=r"has \$0.00 left"):
        await budget("-1").reserve(PRICE)


@pytest.mark.parametrize(
    ("most", "cap", "room", "limit"),
    [
        (None, None, None, "no limit"),
        ("5", None, "5", "max_spend_usd"),
        (None, "3", "3", "I2V_DAILY_CAP_USD"),
        ("5", "3", "3", "I2V_DAILY_CAP_USD"),
        ("2", "3", "2", "max_spend_usd"),
    ],
)
async def test_the_tighter_of_two_limits_is_the_room(
    most: str | None, cap: str | None, room: str | None, limit: str
) -> None:
    """And it is the one that is named."""
    assert await budget(most, cap).available_usd() == (None if room is None else Decimal(room), limit)


async def test_a_limit_of_nothing_allows_what_is_free() -> None:
    """A price of 0 is within every limit, and takes no endless block."""
    mine = budget("0", "0")
    for _ in range(3):
        await mine.reserve(Decimal(0))
    assert mine.spent_usd == 0


@pytest.mark.parametrize("prices", [[PRICE, PRICE, PRO], [PRO, PRICE, PRICE], [PRICE, PRO, PRICE]])
async def test_a_limit_that_covers_all_prices_exactly_lets_all_through(prices: list[Decimal]) -> None:
    """Blocks of one price leave no rest that the next price could not use."""
    mine = budget("0.714", jobs=3)
    for price in prices:
        await mine.reserve(price)
    assert mine.spent_usd == Decimal("0.714")


async def test_what_was_refused_is_not_asked_again_until_money_comes_back() -> None:
    """A thousand images behind an empty budget do not read the day's page a thousand times."""
    storage = MemoryStorage()
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    mine = Budget(DailySpendStore(storage, SETTINGS), "run-1", max_spend_usd=PRICE, daily_cap_usd=None)
    mine.before_block = count
    await mine.reserve(PRICE)
    for _ in range(10):
        with pytest.raises(BudgetExceeded):
            await mine.reserve(PRICE)
    assert asked == 2
    mine.refund(PRICE)
    await mine.reserve(PRICE)


async def test_what_came_back_makes_a_dearer_video_possible() -> None:
    """What is left of the limit and what came back are one purse."""
    mine = budget("0.5", jobs=1)
    await mine.reserve(PRICE)
    with pytest.raises(BudgetExceeded):
        await mine.reserve(PRO)
    mine.refund(PRICE)
    await mine.reserve(PRO)
    assert mine.spent_usd == PRO


async def test_a_cheaper_video_is_still_tried() -> None:
    """That a pro video is too dear says nothing of a standard one."""
    mine = budget("0.3")
    with pytest.raises(BudgetExceeded):
        await mine.reserve(PRO)
    await mine.reserve(PRICE)
    assert mine.spent_usd == PRICE


def test_a_days_page_sums_its_runs() -> None:
    """All that is spent or held, exactly."""
    page = DailySpend(day="2026-11-22", reserved_usd={"a": PRICE, "b": PRO})
    assert page.total_usd == Decimal("0.522")
    assert DailySpend.model_validate_json(page.model_dump_json()) == page
