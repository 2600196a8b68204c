"""Step 2, the one that pays: attach to a job, or pay for one attempt if none is under way.

Reserve, claim, POST; `i2v.pipeline.submit_result` records what came of it. The claim is the last write before the POST,
no POST starts more than 60 s after its claim, and a submit is never repeated after a lost answer.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from datetime import UTC, datetime
from decimal import Decimal

from i2v.apixo.callbacks import callback_url, hide_signatures
from i2v.apixo.models import SubmitBody, submit_body
from i2v.errors import BudgetExceeded, Busy, I2vError, NothingSent, NotTried, Paused, ProviderError, StorageError
from i2v.ledger import transitions
from i2v.ledger.job import JobRecord, JobState, Reason
from i2v.ledger.ledger import VersionedRecord
from i2v.money import ZERO
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import JobSubmitted, StepStarted
from i2v.pipeline.order import Order
from i2v.pipeline.submit_result import record_error, record_task_id, release

log = logging.getLogger(__name__)
CLAIM_TO_POST_SECONDS = 60.0
"""No POST starts later than this after its claim."""
POST_SECONDS = 120.0
"""The time limit of a POST; together with the limit above it is well within the lease."""
CLAIM_CHECK_SECONDS = 3.0
LEASE_OVER = Reason(code="lease_over", message="a process claimed this job and never recorded a submit: it may be paid")
BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS = 1.0, 60.0


async def submit(run: RunContext, order: Order) -> VersionedRecord:
    """Attach to the order's job if it is under way or has ended; otherwise pay for one attempt.

    Returns:
        The job, in any state but ready or claimed.

    Raises:
        NotTried: the run's submits are stopped, or a limit forbids this one.
        ProviderError: the provider refused this submit, or all retries of `submit_patience_seconds`; nothing was paid.
        StorageError: the ledger cannot be read or written, so nothing was submitted.
    """
    give_up_at = _now() + run.settings.submit_patience_seconds
    backoff = BACKOFF_FIRST_SECONDS
    while True:
        job = await run.ledger.read_or_new(order.key, order.image, order.request, order.label)
        if job.record.state is JobState.CLAIMED:
            await _wait_for_claim(run, job)
            continue
        if job.record.state is not JobState.READY:
            return job
        try:
            if paid := await _pay(run, job, order):
                return paid
        except (Busy, NothingSent) as error:
            wait = max(error.retry_after or 0.0, backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            if _now() + wait > give_up_at or run.brake.stopped:
                raise
            log.info("%s: %s; retrying in %.0f s", order.log_name, error.message, wait, extra=order.log_context())
            run.emit(StepStarted("waiting", order.key))
            await run.brake.sleep(wait)
            backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)


async def _wait_for_claim(run: RunContext, job: VersionedRecord) -> None:
    """Wait briefly for another run's claim to change; once its lease is over, record that it may be paid."""
    attempt, lease = job.record.attempt, run.settings.lease_seconds
    if attempt is not None and job.age_seconds > lease:
        await run.ledger.change(job, lambda record: transitions.mark_unknown(record, attempt.claim, LEASE_OVER))
        return
    if run.brake.interrupted:
        raise NotTried("interrupted while another run was submitting this job")
    await run.brake.sleep(min(CLAIM_CHECK_SECONDS, max(0.1, lease - job.age_seconds + 0.1)))


async def _pay(run: RunContext, job: VersionedRecord, order: Order) -> VersionedRecord | None:
    """Reserve the price and pay once; return `None` if another run was faster."""
    run.brake.check_submit()
    try:
        day = await run.budget.reserve(order.price_usd)
    except Paused as error:
        run.brake.stop("paused", error.message)
        raise NotTried(error.message, error.hint) from None
    except BudgetExceeded as error:
        raise NotTried(error.message, error.hint) from None
    return await run.shielded.run(_spend(run, job, order, day))


async def _spend(run: RunContext, job: VersionedRecord, order: Order, day: str) -> VersionedRecord | None:
    """Presign, claim and POST. Release the reservation only if nothing can have been paid."""
    try:
        seconds, version_id = run.settings.image_url_seconds, order.image.version_id
        url = await run.storage.presign(order.image.at, seconds=seconds, version_id=version_id)
        _body(run, order, url, job.record.last_attempt + 1)  # an invalid body must fail before the claim
        posted, paid_usd = await _claim_and_post(run, job, order, url)
    except I2vError:  # raised only where nothing was paid; any other exception may follow a payment
        run.budget.refund(order.price_usd, day)
        raise
    if not paid_usd:
        run.budget.refund(order.price_usd, day)
    return posted


def _body(run: RunContext, order: Order, image_url: str, attempt: int) -> SubmitBody:
    """Return the request body. Its callback URL names the attempt, so it is made after the claim, without I/O."""
    callback = callback_url(run.settings, order.key, attempt) if order.delivery == "callback" else None
    return submit_body(order.request, image_url, callback_url=callback, route=run.settings.provider_route)


async def _claim_and_post(
    run: RunContext, job: VersionedRecord, order: Order, image_url: str
) -> tuple[VersionedRecord | None, Decimal]:
    """Return the job and what may have been paid for it; no job if another run was faster."""
    async with run.client.limiter:
        run.brake.check_submit()
        claim, started = secrets.token_hex(8), _now()  # before the marker: an old marker may be deleted
        await run.ledger.put_open_marker(order.image, order.key)
        claimed = await _claim(run, job, order, claim)
        if claimed is None:
            return None, ZERO
        if _now() - started > CLAIM_TO_POST_SECONDS:
            await release(run, order.key, claim, claimed)
            return None, ZERO
        log.debug("%s: submitting", order.log_name)
        task_id = await _post(run, _body(run, order, image_url, claimed.record.last_attempt))
        if isinstance(task_id, ProviderError):
            return await record_error(run, claimed, order, claim, task_id)
    log.info("%s: submitted as task %s", order.log_name, task_id, extra=order.log_context(task_id))
    run.brake.count_answer()
    submitted = await record_task_id(run, claimed, claim, task_id)
    run.emit(JobSubmitted(submitted.record))
    return submitted, order.price_usd


async def _post(run: RunContext, body: SubmitBody) -> str | ProviderError:
    """Return the task id, or the error, without the signed callback URL that the provider may repeat in it."""
    try:
        return await run.client.submit(body, timeout=POST_SECONDS)
    except ProviderError as error:
        message, code = hide_signatures(error.message), hide_signatures(error.code)
        return type(error)(message, error.hint, code, error.retry_after, error.status)


async def _claim(run: RunContext, job: VersionedRecord, order: Order, claim: str) -> VersionedRecord | None:
    def edit(record: JobRecord) -> JobRecord | None:
        return transitions.claim(
            record,
            token=claim,
            run_id=run.run_id,
            image=order.image,
            price_usd=order.price_usd,
            now=datetime.now(UTC),
            delivery=order.delivery,
        )

    try:
        claimed = await run.ledger.change(job, edit)
    except StorageError:
        await release(run, order.key, claim)
        raise
    if claimed is None:  # another run was faster, or changed the record after our claim, which must be released
        await release(run, order.key, claim)
    return claimed


def _now() -> float:
    """Return a monotonic time that also advances while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
