"""Record the provider's answer to a submit, or that it was lost. `check_and_pay` sends the submit.

A lost answer makes the job unknown, and `i2v.recovery` resolves it. `i2v.apixo.errors` decides which answers count as
lost, `i2v.apixo.client` which broken connections.

Add what another error of a submit means to `record_error`. A failed write here must never lose a payment.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from i2v.apixo.fail_codes import FailClass, classify_fail_code
from i2v.errors import AccountRejected, AnswerLost, I2vError, ProviderError, Rejected, TaskRejected
from i2v.ledger import transitions
from i2v.ledger.attempt import EndKind, Reason
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Edit, VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.video_order import Order

log = logging.getLogger(__name__)
RETRY_FIRST_SECONDS, RETRY_MOST_SECONDS = 1.0, 60.0
T = TypeVar("T")


async def release(run: RunContext, order: Order, claim: str, job: VersionedRecord | None = None) -> None:
    """Release an unpaid claim; retry until it is written, or the job would become unknown."""
    key = order.key

    async def write() -> None:
        nonlocal job
        current, job = job or await run.ledger.read(key), None
        if current is None:  # without a record there is no claim
            return
        released = await run.ledger.change(
            current, lambda record: transitions.release(record, claim, datetime.now(UTC))
        )
        if released:
            await run.ended_markers.add(released.record, released.record.attempt_for_claim(claim))

    await _until_written(write, f"job {key[:12]}: the claim is not released yet, retrying")


async def record_error(
    run: RunContext, claimed: VersionedRecord, order: Order, claim: str, error: ProviderError
) -> VersionedRecord:
    """Record a submit that returned no task id; return the job. Its reservation is paid or given back.

    Raise the error if nothing was paid and the job is ready again.
    """
    reason, now = Reason(code=error.code, message=str(error)), datetime.now(UTC)
    if isinstance(error, AnswerLost):
        reason = reason.model_copy(update={"message": error.message})  # pages and commands show what to do beside it
        _count_lost_answer(run, order, claim, error)
        return await _write_end(run, claimed, lambda one: transitions.mark_lost(one, claim, reason, now))
    run.brake.count_answer()
    if isinstance(error, TaskRejected):
        run.budget.pay(claim)
        if classify_fail_code(error.code) is FailClass.FETCH:
            run.brake.count_failed_fetch()
        reject = partial(transitions.reject, token=claim, kind=EndKind.FAILED, reason=reason, now=now)
        return await _write_end(run, claimed, reject)
    if isinstance(error, Rejected) and error.status != HTTPStatus.NOT_FOUND:
        reject = partial(transitions.reject, token=claim, kind=EndKind.REFUSED, reason=reason, now=now)
        refused = await _write_end(run, claimed, reject)
        run.budget.release(claim)
        return refused
    if isinstance(error, AccountRejected | Rejected):  # a 404 is about the address, not about the image
        run.brake.stop("account", error.message)
    await release(run, order, claim, claimed)
    run.budget.release(claim)
    raise error


def _count_lost_answer(run: RunContext, order: Order, claim: str, error: AnswerLost) -> None:
    """Count a submit that was possibly charged; a callback or a user finds out what came of it."""
    log.warning("%s: the answer to a paid request was lost: %s", order.log_name, error, extra=order.log_context())
    run.budget.pay(claim)
    run.client.limiter.slow_down()
    run.brake.count_lost_answer()


async def _write_end(run: RunContext, claimed: VersionedRecord, edit: Edit) -> VersionedRecord:
    """Record how a POST ended; retry until it is written. An unrecorded refusal would become unknown."""
    key, job = claimed.record.key, claimed

    async def write() -> VersionedRecord:
        nonlocal job
        try:
            return await run.ledger.change(job, edit) or await run.ledger.read_existing(key)
        except I2vError:
            if newest := await run.ledger.read(key):
                job = newest
            elif recreated := await run.ledger.recreate(edit(claimed.record) or claimed.record):
                return recreated
            raise

    return await _until_written(write, f"job {key[:12]}: its submit's outcome is not recorded yet, retrying")


async def record_task_id(run: RunContext, claimed: VersionedRecord, claim: str, task_id: str) -> VersionedRecord:
    """Record the id of a paid task; retry until it is written. A record that was deleted is written again."""
    key, job = claimed.record.key, claimed
    attempt = claimed.record.attempt_for_claim(claim)

    def add_task(record: JobRecord) -> JobRecord | None:
        return transitions.record_task(record, claim, task_id, datetime.now(UTC))

    async def write() -> VersionedRecord:
        nonlocal job
        try:
            while not (written := await run.ledger.record_task(job, add_task, task_id)):
                job = await run.ledger.read_existing(key)
        except I2vError:
            if newest := await run.ledger.read(key):
                job = newest
            elif (changed := add_task(claimed.record)) and (recreated := await run.ledger.recreate(changed)):
                return recreated
            raise
        return written

    writing = _until_written(write, f"job {key}: PAID task {task_id} is not recorded yet, retrying")
    page = run.ledger.task_pages.put(key, attempt.number if attempt else 0, task_id)
    return (await asyncio.gather(writing, page))[0]  # neither waits for the other


async def _until_written(write: Callable[[], Awaitable[T]], problem: str) -> T:
    wait = RETRY_FIRST_SECONDS
    while True:
        try:
            return await write()
        except Exception as error:  # noqa: BLE001 - whatever it is, what happened to the money must not be lost
            log.error("%s: %s", problem, error)  # noqa: TRY400 - a traceback would hide the task id
        await asyncio.sleep(wait)
        wait = min(wait * 2, RETRY_MOST_SECONDS)
