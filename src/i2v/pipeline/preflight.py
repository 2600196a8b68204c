"""Whether a run may start: its cost against its own limit, the daily cap and the balance, before any submit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from decimal import Decimal

from i2v.apixo.callbacks import check_callbacks
from i2v.errors import (
    AccountRejected,
    BalanceTooLow,
    BudgetExceeded,
    LedgerError,
    NothingSent,
    ProviderError,
    Stopped,
)
from i2v.ledger.job import Delivery, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.money import money_text
from i2v.pipeline.run import Run
from i2v.pipeline.submit import Order
from i2v.pricing import price_usd
from i2v.request import Mode
from i2v.settings import Settings

log = logging.getLogger(__name__)
DEAREST = ((Mode.STANDARD, 6), (Mode.STANDARD, 10), (Mode.PRO, 6))


async def room_usd(run: Run) -> tuple[Decimal | None, str]:
    """What may be spent now and which limit says so, `None` for no limit; the provider's balance is one of them.

    Raises:
        Stopped: the provider does not know this account, or cannot be reached.
    """
    room, limit = await run.budget.available_usd()
    try:
        balance = await run.client.balance()
    except (AccountRejected, NothingSent) as error:
        raise Stopped(error.message, error.hint) from None
    except ProviderError as error:
        log.warning("the provider's balance is not known: %s", error)
        return room, limit
    return (balance, "the provider's balance") if room is None or balance < room else (room, limit)


def worst_case_usd(run: Run, images: int) -> Decimal:
    """What so many images cost at the very most."""
    return images * max(price_usd(mode, duration, run.settings.prices_usd) for mode, duration in DEAREST)


async def still_to_pay(run: Run, orders: Sequence[Order]) -> list[Decimal]:
    """The prices of those orders, each job once, that nobody has paid yet.

    Raises:
        StorageError: the ledger cannot be read.
    """
    jobs = {order.key: order for order in orders}
    held = await asyncio.gather(*(_read(run, key) for key in jobs))
    return [order.price_usd for order, found in zip(jobs.values(), held, strict=True) if _is_unpaid(found)]


async def _read(run: Run, key: str) -> VersionedRecord | None:
    """A record; one that cannot be read counts as unpaid here, and ends its own image when it is taken up."""
    try:
        return await run.ledger.read(key)
    except LedgerError as error:
        log.warning("%s", error)
        return None


def _is_unpaid(held: VersionedRecord | None) -> bool:
    return held is None or held.record.state is JobState.READY


def check_money(prices: Sequence[Decimal], room: Decimal | None, limit: str, *, partial: bool) -> None:
    """Refuse a run that cannot be paid in full; where `partial`, one of which nothing can be paid.

    Raises:
        BalanceTooLow: the provider's balance is the limit.
        BudgetExceeded: `max_spend_usd` or the daily cap is.
    """
    if not prices:
        return
    needed = min(prices, default=Decimal(0)) if partial else sum(prices, Decimal(0))
    if room is None or needed <= room:
        return
    count = "1 video costs" if len(prices) == 1 else f"{len(prices)} videos cost"
    what = "the cheapest video costs" if partial else count
    message = (
        f"{limit} has ${money_text(max(room, Decimal(0)))} left, {what} ${money_text(needed)}: nothing was submitted"
    )
    if limit == "the provider's balance":
        raise BalanceTooLow(message.capitalize(), "Add balance at the provider, name fewer images, or allow --partial")
    raise BudgetExceeded(message, "Raise the limit, name fewer images, or allow --partial")


def warn_of_short_credentials(run: Run) -> None:
    """Say so where the credentials, and with them the images' URLs, end before the provider may have fetched them."""
    seconds = max(run.settings.presign_seconds, int(run.settings.poll_deadline_seconds))
    if run.storage.credentials_end_within(seconds):
        log.warning("the AWS credentials end in less than the %d s for which the provider may fetch images", seconds)


async def check_delivery(delivery: Delivery, settings: Settings) -> None:
    """Refuse callbacks that could not come, before anything is paid.

    Raises:
        UsageError: the delivery is `callback`, and its settings are missing, too weak, or lead nowhere public.
    """
    if delivery == "callback":
        await check_callbacks(settings)
