"""One payment, inside the client's limiter: check, reserve, claim, POST. `accepted_or_lost` records what came of it.

The claim is the last write before the POST. A POST starts on the UTC day of its reservation, and within
`claim_to_post_seconds` from the start of these checks.

Add a condition of a payment to `_check_before_claim`. `_reserve` checks pause and spending limits, `_remember` whether
the image was erased, and `Order.may_pay` the job's state.
"""

import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from i2v.apixo.callbacks import callback_url
from i2v.apixo.models import SubmitBody, submit_body
from i2v.clock import boot_time, today_utc
from i2v.errors import (
    BudgetExceeded,
    I2vError,
    LimitReached,
    NotFound,
    NotTried,
    Paused,
    ProviderError,
    Refused,
    StorageError,
)
from i2v.ledger import keys, transitions
from i2v.ledger.attempt import Attempt
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import JobSubmitted
from i2v.pipeline.payment.accepted_or_lost import record_error, record_task_id, release
from i2v.pipeline.payment.image_url import AGAIN, GONE, REPLACED, image_url
from i2v.pipeline.video_order import Order
from i2v.urls import hide_signatures

log = logging.getLogger(__name__)
FORGOTTEN_RULE = "forgotten"
LOOK_AGAIN_AFTER = timedelta(seconds=5)
"""An image that was read longer ago is looked at again before it is paid for."""


class TooLate(NotTried):
    """The POST was not sent in time, so nothing was paid."""


_Answer = str | ProviderError | TooLate
"""What came of a POST: a task id, an error, or that nothing was sent in time."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A claim that is about to be made: its token, its attempt's number, when it started, and the day it counts for."""

    token: str
    number: int
    started: float
    day: str


async def pay(run: RunContext, job: VersionedRecord, order: Order) -> VersionedRecord | None:
    """Pay for one attempt of a ready job; return `None` if another run was faster or the claim came too late.

    Raise only if nothing was paid.
    """
    token = secrets.token_hex(8)
    try:
        async with run.client.limiter:
            claimed, answer = await _claim_and_post(run, job, order, token)
    except I2vError:  # raised only where nothing was paid; any other exception may follow a payment
        run.budget.release(token)
        raise
    if claimed is None:
        run.budget.release(token)
        return None
    if isinstance(answer, TooLate):
        log.info("%s: %s", order.log_name, answer, extra=order.log_context())
        await release(run, order, token, claimed)
        run.budget.release(token)
        return None
    if isinstance(answer, ProviderError):
        return await record_error(run, claimed, order, token, answer)
    log.info("%s: submitted as task %s", order.log_name, answer, extra=order.log_context(answer))
    run.budget.pay(token)
    run.brake.count_answer()
    submitted = await record_task_id(run, claimed, token, answer)
    run.emit(JobSubmitted(submitted.record))
    return submitted


async def _claim_and_post(
    run: RunContext, job: VersionedRecord, order: Order, token: str
) -> tuple[VersionedRecord | None, _Answer]:
    """Return the claimed job and the answer to its POST; no job if it could not be claimed."""
    run.brake.check_submit()
    started = boot_time()
    claim = _Claim(token, job.record.next_number, started, await _reserve(run, order, token))
    image_url = await _check_before_claim(run, order, claim)
    claimed = await _claim(run, job, order, claim)
    return claimed, await _post(run, order, claim, image_url) if claimed else ""


async def _reserve(run: RunContext, order: Order, token: str) -> str:
    """Check the pause flag and reserve the price; return the UTC day it counts for."""
    try:
        await run.ledger.info.check_pause()
        return await run.budget.reserve(order.price_usd, order.key, token)
    except Paused as error:
        run.brake.stop("paused", error.message)
        raise NotTried(error.message, error.hint) from None
    except BudgetExceeded as error:
        raise LimitReached(error.message, error.hint) from None


async def _check_before_claim(run: RunContext, order: Order, claim: _Claim) -> str:
    """Return the image's presigned URL. Raise `NotTried` if a condition does not hold."""
    image = order.image
    if image.version_id is None and not _seen_lately(order):
        await _raise_if_changed(run, order)
    url = await image_url(run, image, copied=order.needs_copy)
    await run.address_probe.check(url, image, partial(_raise_if_changed, run, order))
    _body(run, order, url, claim.number)  # an invalid body must fail before the claim
    return url


def _seen_lately(order: Order) -> bool:
    return order.read_at is not None and abs(datetime.now(UTC) - order.read_at) < LOOK_AGAIN_AFTER


async def _raise_if_changed(run: RunContext, order: Order) -> None:
    try:
        now = await run.storage.head(order.image.at)
    except NotFound:
        raise NotTried(GONE) from None
    is_own_copy = run.settings.jobs.holds(order.image.at)  # of an https image, whose etag is its hash
    if now.etag != order.image.etag and not is_own_copy:
        raise NotTried(REPLACED, AGAIN)


def _body(run: RunContext, order: Order, image_url: str, attempt: int) -> SubmitBody:
    callback = callback_url(run.settings, order.key, attempt) if order.delivery == "callback" else None
    return submit_body(order.request, image_url, callback_url=callback, route=run.settings.provider_route)


async def _claim(run: RunContext, job: VersionedRecord, order: Order, claim: _Claim) -> VersionedRecord | None:
    """Put the open marker and claim the attempt; return `None` if another run was faster, or S3 was too slow."""
    attempt = Attempt(
        number=claim.number,
        claim=claim.token,
        run_id=run.run_id,
        claimed_at=datetime.now(UTC),
        price_usd=order.price_usd,
        day=claim.day,
        delivery=order.delivery,
    )
    await run.ledger.put_open_marker(order.image, order.key, claim.number)
    await _remember(run, order)
    if _problem(run, claim):  # its marker may be gone
        return None
    try:
        named = order.request if order.by_name else None
        claimed = await run.ledger.change(
            job, lambda record: transitions.claim(record, order.image, attempt, order.extra, named=named)
        )
    except StorageError:
        await release(run, order, claim.token)
        raise
    if claimed is None:  # another run was faster, or changed the record after our claim, which must be released
        await release(run, order, claim.token)
    return claimed


async def _remember(run: RunContext, order: Order) -> None:
    """Raise `Refused` if the image was erased. If a person has named it since, clear that mark instead.

    The open marker is there already, so either `i2v forget` sees it or this run sees that the image is forgotten.
    """
    version = keys.version_of(order.image.name, order.image.etag)
    if at := await run.ledger.forgotten.since(version):
        if not order.by_name or at > run.started_at:
            raise forgotten(order.image.label, at)
        await run.ledger.forgotten.remove(version)


def forgotten(label: str, at: datetime) -> Refused:
    """Return the refusal of an image that a person has erased."""
    hint = "To make it again, name the image itself and no prefix or batch file"
    return Refused(f"{label} was erased on {at:%Y-%m-%d}", hint, FORGOTTEN_RULE)


def _problem(run: RunContext, claim: _Claim) -> str | None:
    """Return why the POST may not be sent any more."""
    if boot_time() - claim.started > run.settings.claim_to_post_seconds:
        return "the claim took too long"
    if today_utc() != claim.day:
        return "the UTC day has ended since the price was reserved"
    return None


async def _post(run: RunContext, order: Order, claim: _Claim, image_url: str) -> _Answer:
    """Return the task id or the error; hide the signed callback URL that the error may repeat."""

    def check() -> None:
        if problem := _problem(run, claim):
            raise TooLate(f"Not submitted in time: {problem}")

    body = _body(run, order, image_url, claim.number)
    log.debug("%s: submitting", order.log_name)
    try:
        check()
        return await run.client.submit(body, timeout=run.settings.post_seconds, before_send=check)
    except TooLate as error:
        return error
    except ProviderError as error:
        message, code = hide_signatures(error.message), hide_signatures(error.code)
        return type(error)(message, error.hint, code, error.retry_after, error.status)
