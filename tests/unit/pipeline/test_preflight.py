"""Whether a run may start: its cost against the limits, before anything is submitted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from i2v.errors import AccountRejected, BadAnswer, BalanceTooLow, BudgetExceeded, I2vError, NothingSent, Stopped
from i2v.ledger import keys
from i2v.pipeline import preflight
from i2v.pipeline.video_order import Order
from i2v.request import Mode, Request
from tests.support.memory_provider import IMAGE, claim_by_hand
from tests.support.memory_storage import MemoryStorage, memory_run, ready

PRICE = Decimal("0.192")
BALANCE = "the provider's balance"


class Balance:
    """A provider client that only knows the account balance."""

    def __init__(self, answer: Decimal | I2vError) -> None:
        self._answer = answer

    async def balance(self) -> Decimal:
        """Return the balance, or raise the error."""
        if isinstance(self._answer, I2vError):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("prices", "room"),
    [([], Decimal(0)), ([], Decimal(-1)), ([PRICE] * 3, None), ([PRICE] * 3, 3 * PRICE), ([Decimal(0)], Decimal(0))],
)
def test_an_affordable_run_may_start(prices: list[Decimal], room: Decimal | None, partial: bool) -> None:
    """A run may cost exactly what is left, and no limit applies if nothing is to pay."""
    preflight.check_money(prices, room, "max_spend_usd", partial=partial)


def test_a_run_that_cannot_be_paid_in_full_does_not_start() -> None:
    """A run that costs a tenth of a cent too much is stopped with the limit, what is left and the cost."""
    with pytest.raises(BudgetExceeded, match=r"^max_spend_usd has \$0\.575 left, 3 videos cost \$0\.576"):
        preflight.check_money([PRICE] * 3, 3 * PRICE - Decimal("0.001"), "max_spend_usd", partial=False)


def test_a_partial_run_starts_if_one_image_is_affordable() -> None:
    """A partial run starts if the cheapest video is affordable."""
    prices = [Decimal("0.33"), PRICE, Decimal("0.32")]
    preflight.check_money(prices, PRICE, "max_spend_usd", partial=True)
    with pytest.raises(BudgetExceeded, match=r"\$0\.19 left, the cheapest video costs \$0\.192"):
        preflight.check_money(prices, Decimal("0.19"), "max_spend_usd", partial=True)


def test_a_low_balance_is_a_separate_error() -> None:
    """A low balance raises `BalanceTooLow` with exit code 3 and says to add balance."""
    with pytest.raises(BalanceTooLow, match=r"^The provider's balance has \$0\.10 left.*Add balance") as caught:
        preflight.check_money([PRICE], Decimal("0.1"), BALANCE, partial=False)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("balance", "cap", "room", "limit"),
    [
        ("74.87", None, "74.87", BALANCE),
        ("74.87", "5", "5", "I2V_DAILY_CAP_USD"),
        ("3", "5", "3", BALANCE),
        ("5", "5", "5", "I2V_DAILY_CAP_USD"),
    ],
)
async def test_the_lowest_limit_applies(balance: str, cap: str | None, room: str, limit: str) -> None:
    """The limit is the daily cap or the provider's balance, whichever is less."""
    variables: dict[str, Any] = {"I2V_DAILY_CAP_USD": cap} if cap else {}
    run = memory_run(MemoryStorage(), client=Balance(Decimal(balance)), **variables)
    assert await preflight.room_usd(run) == (Decimal(room), limit)


@pytest.mark.parametrize("error", [AccountRejected("401", code="401"), NothingSent("no connection")])
async def test_an_unusable_account_stops_the_run(error: I2vError) -> None:
    """A rejected account or an unreachable provider stops the run."""
    with pytest.raises(Stopped, match=error.message):
        await preflight.room_usd(memory_run(MemoryStorage(), client=Balance(error)))


async def test_an_unreadable_balance_is_only_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """If the balance cannot be read, the other limits apply and a warning is logged."""
    run = memory_run(MemoryStorage(), client=Balance(BadAnswer("no number")), I2V_DAILY_CAP_USD="5")
    assert await preflight.room_usd(run) == (Decimal(5), "I2V_DAILY_CAP_USD")
    assert "cannot read the provider's balance" in caplog.text


async def test_only_unpaid_jobs_have_a_price() -> None:
    """New and ready jobs cost their price, once for equal images; a claimed job costs nothing."""
    run = memory_run(MemoryStorage())
    orders = [Order(IMAGE, Request(prompt=f"zoom {number}"), PRICE) for number in range(3)]
    for order in orders[:2]:
        await ready(run.ledger, order.key, IMAGE, order.request)
    await claim_by_hand(run.ledger, orders[1])
    assert await preflight.unpaid_prices(run, [*orders, orders[0], orders[2]]) == [PRICE, PRICE]


async def test_a_job_that_cannot_be_read_counts_as_unpaid(caplog: pytest.LogCaptureFixture) -> None:
    """It fails its own image at its submit; the others of the run go on."""
    run = memory_run(MemoryStorage())
    orders = [Order(IMAGE, Request(prompt=f"zoom {number}"), PRICE) for number in range(2)]
    await run.storage.put(keys.job_uri(run.settings, orders[0].key), b"{")
    await claim_by_hand(run.ledger, orders[1])
    assert await preflight.unpaid_prices(run, orders) == [PRICE]
    assert "cannot be read" in caplog.text


def test_the_worst_case_is_the_most_expensive_video() -> None:
    """The worst case includes price overrides."""
    assert preflight.worst_case_usd(memory_run(MemoryStorage()), 10) == Decimal("3.30")
    overridden = memory_run(MemoryStorage(), I2V_PRICES_USD='{"standard-10": "1.5"}')
    assert preflight.worst_case_usd(overridden, 2) == 3
    assert {mode for mode, _ in preflight.PRODUCTS} == set(Mode)


def test_a_negative_remainder_is_shown_as_zero() -> None:
    """A cap that was lowered below the amount spent has $0.00 left."""
    with pytest.raises(BudgetExceeded, match=r"has \$0.00 left"):
        preflight.check_money([PRICE], Decimal("-1.00"), "I2V_DAILY_CAP_USD", partial=False)
