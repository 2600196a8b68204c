"""The step that pays: `submit` takes a job up, and pays for it only where nobody has.

Claim, POST, record. What holds here: the claim is the last thing before the POST, no POST starts more than 60 s after
its claim, a lost answer is never repeated, and a task id in hand is written down until the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from dataclasses import dataclass
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
from i2v.ledger.job import Delivery, JobImage, JobRecord, JobState, Reason
from i2v.ledger.ledger import Edit, VersionedRecord
from i2v.logs import log_context
from i2v.pipeline.run import UNFETCHED, Run
from i2v.request import Request

log = logging.getLogger(__name__)
CLAIM_TO_POST_SECONDS = 60.0
"""No POST starts later than this after its claim."""
POST_SECONDS = 120.0
"""A POST has ended by then, in all; with the above well within the lease."""
FRESH_CLAIM_LOOK_SECONDS = 3.0
LEASE_OVER = Reason(
    code="lease_over", message="a process claimed this job and never said whether it was submitted: it may be paid"
)
BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """One image with its request, valid and priced: what may become a job."""

    image: JobImage
    request: Request
    price_usd: Decimal
    label: str | None = None
    delivery: Delivery = "poll"

    @property
    def key(self) -> str:
        """The job's key."""
        return self.request.job_key(self.image.facts.sha256)

    @property
    def name(self) -> str:
        """How people know the image."""
        return self.image.name


async def submit(run: Run, order: Order) -> VersionedRecord:
    """Take the order's job up: attach where it is under way or ended, else pay for one attempt.

    Returns:
        The job, in any state but ready and claimed.

    Raises:
        NotTried: the run's submits are stopped, or a limit forbids this one.
        ProviderError: it was plainly refused, also again; nothing was paid.
        StorageError: the ledger cannot be read or written, so nothing was submitted.
    """
    give_up_at = _now() + run.settings.submit_patience_seconds
    backoff = BACKOFF_FIRST_SECONDS
    while True:
        held = await run.ledger.read_or_new(order.key, order.image, order.request, order.label)
        if held.record.state is JobState.CLAIMED:
            await _wait_for_claimant(run, held)
            continue
        if held.record.state is not JobState.READY:
            return held
        try:
            if paid := await _pay(run, held, order):
                return paid
        except (Busy, NothingSent) as error:
            wait = max(error.retry_after or 0.0, backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            if _now() + wait > give_up_at or run.stopped:
                raise
            said = log_context(order.image.label, order.key)
            log.info("%s (job %s): %s; again in %.0f s", order.name, order.key[:12], error.message, wait, extra=said)
            run.tell("waiting", order.key)
            await run.sleep(wait)
            backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)


async def _wait_for_claimant(run: Run, held: VersionedRecord) -> None:
    """Another's claim: wait a little for it to change; past its lease it is unknown whether it was paid."""
    attempt = held.record.attempt
    lease = run.settings.lease_seconds
    if attempt is not None and held.age_seconds > lease:
        await run.ledger.change(held, lambda record: transitions.mark_unknown(record, attempt.claim, LEASE_OVER))
        return
    if run.stop_waiting.is_set():
        raise NotTried("interrupted while another run was submitting this job")
    await run.sleep(min(FRESH_CLAIM_LOOK_SECONDS, max(0.1, lease - held.age_seconds + 0.1)))


async def _pay(run: Run, held: VersionedRecord, order: Order) -> VersionedRecord | None:
    """Reserve and pay once; `None` where another was faster and the job must be looked at again."""
    _check_may_submit(run)
    try:
        day = await run.budget.reserve(order.price_usd)
    except Paused as error:
        run.stop_submits("paused", error.message)
        raise NotTried(error.message, error.hint) from None
    except BudgetExceeded as error:
        raise NotTried(error.message, error.hint) from None
    return await run.shielded(_spend(run, held, order, day))


def _check_may_submit(run: Run) -> None:
    if run.stopped:
        raise NotTried(f"Not submitted: {run.stopped.message}")


async def _spend(run: Run, held: VersionedRecord, order: Order, day: str) -> VersionedRecord | None:
    """Presign, mark, claim and POST. What was reserved is given back only where nothing can have been paid."""
    try:
        seconds = max(run.settings.presign_seconds, int(run.settings.poll_deadline_seconds))
        url = await run.storage.presign(order.image.at, seconds=seconds, version_id=order.image.version_id)
        _body(run, order, url, held.record.last_attempt + 1)  # what cannot be made fails here, and not once claimed
        posted, paid_usd = await _claim_and_post(run, held, order, url)
    except I2vError:  # what may have been paid ends without one, and what ends in another way may have been paid
        run.budget.refund(order.price_usd, day)
        raise
    if not paid_usd:
        run.budget.refund(order.price_usd, day)
    return posted


def _body(run: Run, order: Order, image_url: str, attempt: int) -> SubmitBody:
    """What is sent. The address to call back names the attempt, so it is made after the claim, and without any I/O."""
    back = callback_url(run.settings, order.key, attempt) if order.delivery == "callback" else None
    return submit_body(order.request, image_url, callback_url=back, route=run.settings.provider_route)


async def _claim_and_post(
    run: Run, held: VersionedRecord, order: Order, image_url: str
) -> tuple[VersionedRecord | None, Decimal]:
    """The job as it is now and what may have been paid for it; no job where another was faster."""
    async with run.client.limiter:
        _check_may_submit(run)
        token, started = secrets.token_hex(8), _now()  # before the mark: one that grew old may be taken away
        await run.ledger.put_open_marker(order.image, order.key)
        claimed = await _claim(run, held, order, token)
        if claimed is None:
            return None, Decimal(0)
        if _now() - started > CLAIM_TO_POST_SECONDS:
            await _release(run, claimed, token)
            return None, Decimal(0)
        log.debug("%s (job %s): submitting", order.name, order.key[:12])
        answer = await _post(run, _body(run, order, image_url, claimed.record.last_attempt))
        if isinstance(answer, ProviderError):
            return await _without_task(run, claimed, order, token, answer)
        task_id = answer
    said = log_context(order.image.label, order.key, task_id)
    log.info("%s (job %s, task %s): submitted", order.name, order.key[:12], task_id, extra=said)
    run.unknowns.clear()
    held = await record_task_id(run, claimed, token, task_id)
    run.tell_submitted(held.record)
    return held, order.price_usd


async def _post(run: Run, body: SubmitBody) -> str | ProviderError:
    """The task id, or what came in its place; the provider may repeat the body's callback address, which is secret."""
    try:
        return await run.client.submit(body, timeout=POST_SECONDS)
    except ProviderError as error:
        message, code = hide_signatures(error.message), hide_signatures(error.code)
        return type(error)(message, error.hint, code, error.retry_after, error.status)


async def _claim(run: Run, held: VersionedRecord, order: Order, token: str) -> VersionedRecord | None:
    def edit(record: JobRecord) -> JobRecord | None:
        return transitions.claim(
            record,
            token=token,
            run_id=run.run_id,
            image=order.image,
            price_usd=order.price_usd,
            now=datetime.now(UTC),
            delivery=order.delivery,
        )

    try:
        claimed = await run.ledger.change(held, edit)
    except StorageError:
        await _release(run, None, token, key=order.key)
        raise
    if claimed is None:  # lost to another, or ours beneath another's write: then it is given back
        await _release(run, None, token, key=order.key)
    return claimed


async def _release(run: Run, held: VersionedRecord | None, token: str, *, key: str = "") -> None:
    """Give a claim back; where that cannot be written it ends as unknown after its lease, which is safe."""
    try:
        held = held or await run.ledger.read(key)
        if held:  # else not even its record was written
            await run.ledger.change(held, lambda record: transitions.release(record, token))
    except I2vError as error:
        log.warning("job %s: its claim could not be given back: %s", held.record.key[:12] if held else key[:12], error)


async def _without_task(
    run: Run, claimed: VersionedRecord, order: Order, token: str, error: ProviderError
) -> tuple[VersionedRecord, Decimal]:
    """The POST brought no task id: write down what that means, by the kind of the error.

    Raises:
        ProviderError: nothing was paid, and the job is ready again.
    """
    reason, now = Reason(code=error.code, message=str(error)), datetime.now(UTC)
    if isinstance(error, AnswerLost):
        said = log_context(order.image.label, order.key)
        log.warning(
            "%s (job %s): the answer to a paid request is lost: %s", order.name, order.key[:12], error, extra=said
        )
        run.client.limiter.slow_down()
        if run.unknowns.fault():
            run.stop_submits("unknowns", "three answers in a row were lost: the provider or the network is not well")
        return await _write_end(
            run, claimed, lambda record: transitions.mark_unknown(record, token, reason)
        ), order.price_usd
    run.unknowns.clear()
    if isinstance(error, TaskRejected):
        if classify_fail_code(error.code) is FailClass.FETCH and run.unfetched.fault():
            run.stop_submits("unfetched", UNFETCHED)
        failed = JobState.FAILED
        return await _write_end(
            run, claimed, lambda r: transitions.reject(r, token, failed, reason, now)
        ), order.price_usd
    if isinstance(error, Rejected) and error.status != HTTPStatus.NOT_FOUND:
        refused = JobState.REFUSED
        return await _write_end(run, claimed, lambda r: transitions.reject(r, token, refused, reason, now)), Decimal(0)
    if isinstance(error, AccountRejected | Rejected):  # a 404 says nothing of the image: the address is wrong
        run.stop_submits("account", error.message)
    await _release(run, claimed, token)
    raise error


async def _write_end(run: Run, claimed: VersionedRecord, edit: Edit) -> VersionedRecord:
    """Write how a POST ended; where S3 fails too it stays claimed and marked, and the lease's end finds it."""
    try:
        return await run.ledger.change(claimed, edit) or await run.ledger.read_existing(claimed.record.key)
    except I2vError as error:
        log.warning("job %s: its end could not be written: %s", claimed.record.key[:12], error)
        return claimed


async def record_task_id(run: Run, held: VersionedRecord, token: str, task_id: str) -> VersionedRecord:
    """Write a task id down, tried until the process ends: it is paid."""

    def edit(record: JobRecord) -> JobRecord | None:
        return transitions.record_task(record, token, task_id, datetime.now(UTC))

    def edit_in_time(record: JobRecord) -> JobRecord | None:
        return edit(record) if record.state is JobState.CLAIMED else None

    backoff = BACKOFF_FIRST_SECONDS
    while True:
        try:
            if written := await run.ledger.change(held, edit_in_time):
                return written
            newest = await run.ledger.read_existing(held.record.key)
            if any(task_id in attempt.task_ids for attempt in newest.record.attempts):
                return newest  # a callback was faster
            await run.ledger.put_open_marker(held.record.image, held.record.key)  # it may have ended, and lost its mark
            return await run.ledger.change(held, edit) or await run.ledger.read_existing(held.record.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task id may not be dropped
            log.error(  # noqa: TRY400 - the message says it; a traceback would hide the task id
                "job %s: PAID task %s is not yet written down, trying again: %s", held.record.key, task_id, error
            )
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)


def _now() -> float:
    """Seconds that also pass while the machine sleeps, where the system knows them."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
