"""Record what came of a claim: a task id, a refusal, a lost answer, or a release. `submit` claims and pays.

Add what another error of a submit means to `record_error`. A failed write here must never lose a payment.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus

from i2v.apixo.errors import FailClass, classify_fail_code
from i2v.errors import AccountRejected, AnswerLost, I2vError, ProviderError, Rejected, TaskRejected
from i2v.ledger import transitions
from i2v.ledger.job import JobRecord, JobState, Reason
from i2v.ledger.ledger import Edit, VersionedRecord
from i2v.money import ZERO
from i2v.pipeline.context import RunContext
from i2v.pipeline.order import Order

log = logging.getLogger(__name__)
RETRY_FIRST_SECONDS, RETRY_MOST_SECONDS = 1.0, 60.0


async def release(run: RunContext, key: str, claim: str, job: VersionedRecord | None = None) -> None:
    """Release a claim. If that cannot be written, the job becomes unknown after its lease, which is safe."""
    try:
        job = job or await run.ledger.read(key)
        if job:  # without a record there is no claim
            await run.ledger.change(job, lambda record: transitions.release(record, claim))
    except I2vError as error:
        log.warning("job %s: the claim could not be released: %s", key[:12], error)


async def record_error(
    run: RunContext, claimed: VersionedRecord, order: Order, claim: str, error: ProviderError
) -> tuple[VersionedRecord, Decimal]:
    """Record a submit that returned no task id; return the job and what may have been paid for it.

    Raises:
        ProviderError: nothing was paid, and the job is ready again.
    """
    reason, now = Reason(code=error.code, message=str(error)), datetime.now(UTC)
    if isinstance(error, AnswerLost):
        log.warning("%s: the answer to a paid request was lost: %s", order.log_name, error, extra=order.log_context())
        run.client.limiter.slow_down()
        run.brake.count_lost_answer()
        unknown = await _write_end(run, claimed, lambda record: transitions.mark_unknown(record, claim, reason))
        return unknown, order.price_usd
    run.brake.count_answer()
    if isinstance(error, TaskRejected):
        if classify_fail_code(error.code) is FailClass.FETCH:
            run.brake.count_failed_fetch()
        return await _reject(run, claimed, claim, JobState.FAILED, reason, now), order.price_usd
    if isinstance(error, Rejected) and error.status != HTTPStatus.NOT_FOUND:
        return await _reject(run, claimed, claim, JobState.REFUSED, reason, now), ZERO
    if isinstance(error, AccountRejected | Rejected):  # a 404 is about the address, not about the image
        run.brake.stop("account", error.message)
    await release(run, order.key, claim, claimed)
    raise error


async def _reject(
    run: RunContext, claimed: VersionedRecord, claim: str, state: JobState, reason: Reason, now: datetime
) -> VersionedRecord:
    return await _write_end(run, claimed, lambda record: transitions.reject(record, claim, state, reason, now))


async def _write_end(run: RunContext, claimed: VersionedRecord, edit: Edit) -> VersionedRecord:
    """Record how a POST ended. If S3 fails too, the job stays claimed and marked until its lease is over."""
    try:
        return await run.ledger.change(claimed, edit) or await run.ledger.read_existing(claimed.record.key)
    except I2vError as error:
        log.warning("job %s: the end of its submit could not be recorded: %s", claimed.record.key[:12], error)
        return claimed


async def record_task_id(run: RunContext, job: VersionedRecord, claim: str, task_id: str) -> VersionedRecord:
    """Record the id of a paid task; try until the process ends."""
    key, image = job.record.key, job.record.image

    def add_task(record: JobRecord) -> JobRecord | None:
        return transitions.record_task(record, claim, task_id, datetime.now(UTC))

    def add_task_if_claimed(record: JobRecord) -> JobRecord | None:
        return add_task(record) if record.state is JobState.CLAIMED else None

    wait = RETRY_FIRST_SECONDS
    while True:
        try:
            if submitted := await run.ledger.change(job, add_task_if_claimed):
                return submitted
            newest = await run.ledger.read_existing(key)
            if any(task_id in attempt.task_ids for attempt in newest.record.attempts):
                return newest  # a callback was faster
            await run.ledger.put_open_marker(image, key)  # an earlier end may have deleted it
            return await run.ledger.change(job, add_task) or await run.ledger.read_existing(key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task id must not be dropped
            log.error(  # noqa: TRY400 - a traceback would hide the task id
                "job %s: PAID task %s is not recorded yet, retrying: %s", key, task_id, error
            )
        await asyncio.sleep(wait)
        wait = min(wait * 2, RETRY_MOST_SECONDS)
