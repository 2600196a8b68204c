"""Checks before the first submit of a run: its cost against its own limit, the daily cap and the balance."""

import asyncio
import logging
from collections.abc import Sequence
from decimal import Decimal

from i2v.apixo.callbacks import check_callbacks
from i2v.errors import AccountRejected, BalanceTooLow, BudgetExceeded, LedgerError, NothingSent, ProviderError, Stopped
from i2v.ledger.attempt import Delivery
from i2v.money import ZERO, money_text
from i2v.pipeline.context import RunContext
from i2v.pipeline.video_order import Order
from i2v.pricing import price_usd
from i2v.request import Mode
from i2v.settings import Settings
from i2v.spending_limits import reset_hint

log = logging.getLogger(__name__)
PRODUCTS = ((Mode.STANDARD, 6), (Mode.STANDARD, 10), (Mode.PRO, 6))
BALANCE = "the provider's balance"


async def room_usd(run: RunContext) -> tuple[Decimal | None, str]:
    """Return what may be spent now, `None` for no limit, and the name of the tightest limit.

    Raise `Stopped` if the provider rejects this account or cannot be reached.
    """
    room, limit = await run.budget.available_usd()
    try:
        balance = await run.client.balance()
    except (AccountRejected, NothingSent) as error:
        raise Stopped(error.message, error.hint) from None
    except ProviderError as error:
        log.warning("cannot read the provider's balance: %s", error)
        return room, limit
    return (balance, BALANCE) if room is None or balance < room else (room, limit)


def worst_case_usd(run: RunContext, images: int) -> Decimal:
    """Return what this many images cost at most."""
    return images * max(price_usd(mode, seconds, run.settings.prices_usd) for mode, seconds in PRODUCTS)


async def unpaid_prices(run: RunContext, orders: Sequence[Order]) -> list[Decimal]:
    """Return the prices of the orders' jobs that are not paid yet, each job once."""
    jobs = {order.key: order for order in orders}
    unpaid = await asyncio.gather(*(_is_unpaid(run, order) for order in jobs.values()))
    return [order.price_usd for order, is_unpaid in zip(jobs.values(), unpaid, strict=True) if is_unpaid]


async def _is_unpaid(run: RunContext, order: Order) -> bool:
    """Return whether a job is not paid yet; an unreadable record counts here, and fails its own image at its submit."""
    try:
        job = await run.ledger.read(order.key)
    except LedgerError as error:
        log.warning("%s", error)
        return True
    return job is None or order.may_pay(job.record)


def check_money(prices: Sequence[Decimal], room: Decimal | None, limit: str, *, partial: bool) -> None:
    """Raise `BalanceTooLow` or `BudgetExceeded` if the limit does not cover all, or with `partial` the cheapest."""
    if not prices:
        return
    needed = min(prices) if partial else sum(prices, ZERO)
    if room is None or needed <= room:
        return
    all_cost = "1 video costs" if len(prices) == 1 else f"{len(prices)} videos cost"
    what = "the cheapest video costs" if partial else all_cost
    message = f"{limit} has ${money_text(max(room, ZERO))} left, {what} ${money_text(needed)}: nothing was submitted"
    if limit == BALANCE:
        message = message[0].upper() + message[1:]
        raise BalanceTooLow(message, "Add balance at the provider, name fewer images, or allow --partial")
    ways = ["Raise the limit", "name fewer images", *filter(None, [reset_hint(limit)])]
    raise BudgetExceeded(message, f"{', '.join(ways)}, or allow --partial")


def warn_of_expiring_credentials(run: RunContext) -> None:
    """Warn if the AWS credentials, and with them the presigned URLs, expire before the provider may have fetched."""
    seconds = run.settings.image_url_seconds
    if run.storage.credentials_end_within(seconds):
        log.warning("the AWS credentials expire in less than the %d s that presigned URLs must work", seconds)


async def check_delivery(delivery: Delivery, settings: Settings) -> None:
    """Raise `UsageError` if callbacks are requested and cannot arrive with these settings."""
    if delivery == "callback":
        await check_callbacks(settings)
