"""Whether a run may start: its cost against the limits, before anything is submitted."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from i2v.errors import AccountRejected, BadAnswer, BalanceTooLow, BudgetExceeded, I2vError, NothingSent, Stopped
from i2v.ledger import transitions
from i2v.pipeline import preflight
from i2v.pipeline.order import Order
from i2v.request import Mode, Request
from tests.support.memory_storage import MemoryStorage, memory_run, ready
from tests.unit.ledger.test_job import IMAGE

PRICE = Decimal("0.192")
BALANCE = "the provider's balance"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Bank:
    """The provider, as far as it is asked for money."""

    def __init__(self, answer: Decimal | I2vError) -> None:
        self._answer = answer

    async def balance(self) -> Decimal:
        """What the account holds."""
        if isinstance(self._answer, I2vError):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("prices", "room"),
    [([], Decimal(0)), ([], Decimal(-1)), ([PRICE] * 3, None), ([PRICE] * 3, 3 * PRICE), ([Decimal(0)], Decimal(0))],
)
def test_what_can_be_paid_may_start(prices: list[Decimal], room: Decimal | None, partial: bool) -> None:
    """To the last cent; where nothing is to pay, no limit matters."""
    preflight.check_money(prices, room, "max_spend_usd", partial=partial)


def test_a_run_that_cannot_be_paid_in_full_does_not_start() -> None:
    """A tenth of a cent too little is too little; the message has all three numbers."""
    with pytest.raises(BudgetExceeded, match=r"^max_spend_usd has \$0\.575 left, 3 videos cost \$0\.576"):
        preflight.check_money([PRICE] * 3, 3 * PRICE - Decimal("0.001"), "max_spend_usd", partial=False)


def test_a_partial_run_starts_where_one_image_can_be_paid() -> None:
    """It then goes as far as the money goes; the cheapest counts."""
    prices = [Decimal("0.33"), PRICE, Decimal("0.32")]
    preflight.check_money(prices, PRICE, "max_spend_usd", partial=True)
    with pytest.raises(BudgetExceeded, match=r"\$0\.19 left, the cheapest video costs \$0\.192"):
        preflight.check_money(prices, Decimal("0.19"), "max_spend_usd", partial=True)


def test_a_balance_that_is_too_low_is_told_as_such() -> None:
    """The way out is another one than for a limit of ours; both stop a run with exit 3."""
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
async def test_the_tightest_limit_counts(balance: str, cap: str | None, room: str, limit: str) -> None:
    """Our own limits and the provider's balance, whichever is less."""
    variables = {"I2V_DAILY_CAP_USD": cap} if cap else {}
    run = memory_run(MemoryStorage(), client=Bank(Decimal(balance)), **variables)
    assert await preflight.room_usd(run) == (Decimal(room), limit)


@pytest.mark.parametrize("error", [AccountRejected("401", code="401"), NothingSent("no connection")])
async def test_a_provider_that_knows_us_not_stops_the_run(error: I2vError) -> None:
    """Without an account, or without a way to it, nothing could be submitted."""
    with pytest.raises(Stopped, match=error.message):
        await preflight.room_usd(memory_run(MemoryStorage(), client=Bank(error)))


async def test_a_balance_that_cannot_be_read_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Our own limits still hold, and the log says that the cannot read the provider's balance."""
    run = memory_run(MemoryStorage(), client=Bank(BadAnswer("no number")), I2V_DAILY_CAP_USD="5")
    assert await preflight.room_usd(run) == (Decimal(5), "I2V_DAILY_CAP_USD")
    assert "cannot read the provider's balance" in caplog.text


async def test_only_what_nobody_paid_is_unpaid_prices() -> None:
    """New and ready jobs cost; equal images are one job; what is claimed, submitted or ended costs nothing more."""
    run = memory_run(MemoryStorage())
    orders = [Order(IMAGE, Request(prompt=f"zoom {number}"), PRICE) for number in range(3)]
    for order in orders[:2]:
        held = await ready(run.ledger, order.key, IMAGE, order.request)
    await run.ledger.change(
        held, lambda job: transitions.claim(job, token="A", run_id="r", image=IMAGE, price_usd=PRICE, now=NOW)
    )
    assert await preflight.unpaid_prices(run, [*orders, orders[0], orders[2]]) == [PRICE, PRICE]


def test_the_worst_case_is_the_dearest_video() -> None:
    """An override that makes another one the dearest counts."""
    assert preflight.worst_case_usd(memory_run(MemoryStorage()), 10) == Decimal("3.30")
    dear = memory_run(MemoryStorage(), I2V_PRICES_USD='{"standard-10": "1.5"}')
    assert preflight.worst_case_usd(dear, 2) == 3
    assert {mode for mode, _ in preflight.PRODUCTS} == set(Mode)


def test_no_limit_has_less_than_nothing_left() -> None:
    """A cap that was lowered below what is spent has nothing left."""
    with pytest.raises(BudgetExceeded, match=r"has \$0.00 left"):
        preflight.check_money([PRICE], Decimal("-1.00"), "I2V_DAILY_CAP_USD", partial=False)
