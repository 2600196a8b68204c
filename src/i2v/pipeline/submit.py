"""Step 2, the one that pays: attach to a job, or pay for one attempt where no attempt is under way.

Reserve, claim, POST, record. The claim is the last write before the POST, no POST starts more than 60 s after its
claim, a submit is never repeated after a lost answer, and a task id in hand is written until the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus

from i2v.apixo.callbacks import callback_url, hide_signatures
from i2v.apixo.errors import FailClass, classify_fail_code
from i2v.apixo.models import SubmitBody, submit_body
from i2v.errors import (
    AccountRejected,
    AnswerLost,
    BudgetExceeded,
    Busy,
    I2vError,
    NothingSent,
    NotTried,
    Paused,
    ProviderError,
    Rejected,
    StorageError,
    TaskRejected,
)
from i2v.ledger import transitions
from i2v.ledger.job import JobRecord, JobState, Reason
from i2v.ledger.ledger import Edit, VersionedRecord
from i2v.logs import log_context
from i2v.money import ZERO
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import JobSubmitted, StepStarted
from i2v.pipeline.order import Order

log = logging.getLogger(__name__)
CLAIM_TO_POST_SECONDS = 60.0
"""No POST starts later than this after its claim."""
POST_SECONDS = 120.0
"""The time limit of a POST; together with the limit above it is well within the lease."""
CLAIM_CHECK_SECONDS = 3.0
LEASE_OVER = Reason(
    code="lease_over",
    message="a process claimed this job and never recorded whether it was submitted: it may be paid",
)
BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS = 1.0, 60.0


async def submit(run: RunContext, order: Order) -> VersionedRecord:
    """Attach to the order's job where it is under way or has ended; otherwise pay for one attempt.

    Returns:
        The job, in any state but ready or claimed.

    Raises:
        NotTried: the run's submits are stopped, or a limit forbids this one.
        ProviderError: the submit was plainly refused until the patience ended; nothing was paid.
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
            log.info("%s: %s; retrying in %.0f s", _name(order), error.message, wait, extra=_log_context(order))
            run.emit(StepStarted("waiting", order.key))
            await run.brake.sleep(wait)
            backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)


def _name(order: Order) -> str:
    return f"{order.name} (job {order.key[:12]})"


def _log_context(order: Order, task_id: str | None = None) -> dict[str, str | None]:
    return log_context(order.image.label, order.key, task_id)


async def _wait_for_claim(run: RunContext, job: VersionedRecord) -> None:
    """Wait a little for another's claim to change; past its lease, record that it may be paid."""
    attempt = job.record.attempt
    lease = run.settings.lease_seconds
    if attempt is not None and job.age_seconds > lease:
        await run.ledger.change(job, lambda record: transitions.mark_unknown(record, attempt.claim, LEASE_OVER))
        return
    if run.brake.interrupted:
        raise NotTried("interrupted while another run was submitting this job")
    await run.brake.sleep(min(CLAIM_CHECK_SECONDS, max(0.1, lease - job.age_seconds + 0.1)))


async def _pay(run: RunContext, job: VersionedRecord, order: Order) -> VersionedRecord | None:
    """Reserve the price and pay once; return `None` where another run was faster."""
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
    """Presign, claim and POST. Release the reservation only where nothing can have been paid."""
    try:
        seconds = max(run.settings.presign_seconds, int(run.settings.poll_deadline_seconds))
        url = await run.storage.presign(order.image.at, seconds=seconds, version_id=order.image.version_id)
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
    """Return the job and what may have been paid for it; no job where another run was faster."""
    async with run.client.limiter:
        run.brake.check_submit()
        claim, started = secrets.token_hex(8), _now()  # before the marker: an old marker may be deleted
        await run.ledger.put_open_marker(order.image, order.key)
        claimed = await _claim(run, job, order, claim)
        if claimed is None:
            return None, ZERO
        if _now() - started > CLAIM_TO_POST_SECONDS:
            await _release(run, order.key, claim, claimed)
            return None, ZERO
        log.debug("%s: submitting", _name(order))
        answer = await _post(run, _body(run, order, image_url, claimed.record.last_attempt))
        if isinstance(answer, ProviderError):
            return await _handle_refusal(run, claimed, order, claim, answer)
        task_id = answer
    log.info("%s: submitted as task %s", _name(order), task_id, extra=_log_context(order, task_id))
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
        await _release(run, order.key, claim)
        raise
    if claimed is None:  # lost to another run, or written and then changed by another: then it must be released
        await _release(run, order.key, claim)
    return claimed


async def _release(run: RunContext, key: str, claim: str, job: VersionedRecord | None = None) -> None:
    """Release a claim. Where that cannot be written, the job becomes unknown after its lease, which is safe."""
    try:
        job = job or await run.ledger.read(key)
        if job:  # without a record there is no claim
            await run.ledger.change(job, lambda record: transitions.release(record, claim))
    except I2vError as error:
        log.warning("job %s: the claim could not be released: %s", key[:12], error)


async def _handle_refusal(
    run: RunContext, claimed: VersionedRecord, order: Order, claim: str, error: ProviderError
) -> tuple[VersionedRecord, Decimal]:
    """Record what a submit without a task id means, by the class of its error.

    Raises:
        ProviderError: nothing was paid, and the job is ready again.
    """
    if isinstance(error, AnswerLost):
        return await _handle_lost_answer(run, claimed, order, claim, error), order.price_usd
    run.brake.count_answer()
    reason, now = Reason(code=error.code, message=str(error)), datetime.now(UTC)
    if isinstance(error, TaskRejected):
        if classify_fail_code(error.code) is FailClass.FETCH:
            run.brake.count_failed_fetch()
        failed = JobState.FAILED
        return await _write_end(
            run, claimed, lambda r: transitions.reject(r, claim, failed, reason, now)
        ), order.price_usd
    if isinstance(error, Rejected) and error.status != HTTPStatus.NOT_FOUND:
        refused = JobState.REFUSED
        return await _write_end(run, claimed, lambda r: transitions.reject(r, claim, refused, reason, now)), ZERO
    if isinstance(error, AccountRejected | Rejected):  # a 404 is about the address, not about the image
        run.brake.stop("account", error.message)
    await _release(run, order.key, claim, claimed)
    raise error


async def _handle_lost_answer(
    run: RunContext, claimed: VersionedRecord, order: Order, claim: str, error: AnswerLost
) -> VersionedRecord:
    """Record that the job may be paid: it is unknown until a callback or a person resolves it."""
    log.warning("%s: the answer to a paid request was lost: %s", _name(order), error, extra=_log_context(order))
    run.client.limiter.slow_down()
    run.brake.count_lost_answer()
    reason = Reason(code=error.code, message=str(error))
    return await _write_end(run, claimed, lambda record: transitions.mark_unknown(record, claim, reason))


async def _write_end(run: RunContext, claimed: VersionedRecord, edit: Edit) -> VersionedRecord:
    """Record how a POST ended. Where S3 fails too, the job stays claimed and marked until its lease is over."""
    try:
        return await run.ledger.change(claimed, edit) or await run.ledger.read_existing(claimed.record.key)
    except I2vError as error:
        log.warning("job %s: the end of its submit could not be recorded: %s", claimed.record.key[:12], error)
        return claimed


async def record_task_id(run: RunContext, job: VersionedRecord, claim: str, task_id: str) -> VersionedRecord:
    """Record the id of a paid task; try until the process ends."""

    def edit(record: JobRecord) -> JobRecord | None:
        return transitions.record_task(record, claim, task_id, datetime.now(UTC))

    def edit_claimed(record: JobRecord) -> JobRecord | None:
        return edit(record) if record.state is JobState.CLAIMED else None

    backoff = BACKOFF_FIRST_SECONDS
    while True:
        try:
            if written := await run.ledger.change(job, edit_claimed):
                return written
            newest = await run.ledger.read_existing(job.record.key)
            if any(task_id in attempt.task_ids for attempt in newest.record.attempts):
                return newest  # a callback was faster
            await run.ledger.put_open_marker(
                job.record.image, job.record.key
            )  # the marker may be gone with an earlier end
            return await run.ledger.change(job, edit) or await run.ledger.read_existing(job.record.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task id must not be dropped
            log.error(  # noqa: TRY400 - a traceback would hide the task id
                "job %s: PAID task %s is not recorded yet, retrying: %s", job.record.key, task_id, error
            )
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)


def _now() -> float:
    """Return a monotonic time that also advances while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
