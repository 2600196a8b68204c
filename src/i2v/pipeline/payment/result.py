"""Record what came of a claim: a task id, a refusal, a lost answer, or a release. `pay` claims and pays.

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
from i2v.errors import AccountRejected, AnswerLost, I2vError, LedgerError, ProviderError, Rejected, TaskRejected
from i2v.ledger import transitions
from i2v.ledger.job import EndKind, JobRecord, Reason
from i2v.ledger.ledger import Edit, VersionedRecord
from i2v.ledger.task_ids import claim_task, record_task
from i2v.pipeline.context import RunContext
from i2v.pipeline.order import Order

log = logging.getLogger(__name__)
RETRY_FIRST_SECONDS, RETRY_MOST_SECONDS = 1.0, 60.0
T = TypeVar("T")


async def release(run: RunContext, order: Order, claim: str, job: VersionedRecord | None = None) -> None:
    """Release a claim that was not paid; try until the process ends, so that no job stays unknown for it."""
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

    Raises:
        ProviderError: nothing was paid, and the job is ready again.
    """
    reason, now = Reason(code=error.code, message=str(error)), datetime.now(UTC)
    if isinstance(error, AnswerLost):
        log.warning("%s: the answer to a paid request was lost: %s", order.log_name, error, extra=order.log_context())
        run.budget.pay(claim)
        run.client.limiter.slow_down()
        run.brake.count_lost_answer()
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


async def _write_end(run: RunContext, claimed: VersionedRecord, edit: Edit) -> VersionedRecord:
    """Record how a POST ended; try until the process ends. A refusal that is lost would become unknown."""
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

    return await _until_written(write, f"job {key[:12]}: the end of its submit is not recorded yet, retrying")


async def record_task_id(run: RunContext, claimed: VersionedRecord, claim: str, task_id: str) -> VersionedRecord:
    """Record the id of a paid task; try until the process ends. A record that was deleted is written again."""
    key, job = claimed.record.key, claimed

    def add_task(record: JobRecord) -> JobRecord | None:
        return transitions.record_task(record, claim, task_id, datetime.now(UTC))

    async def write() -> VersionedRecord:
        nonlocal job
        await _put_task_page(run, claimed.record, claim, task_id)
        try:
            while not (written := await record_task(run.ledger, job, add_task, task_id)):
                job = await run.ledger.read_existing(key)
        except I2vError:
            if newest := await run.ledger.read(key):
                job = newest
            elif (changed := add_task(claimed.record)) and (recreated := await run.ledger.recreate(changed)):
                return recreated
            raise
        return written

    return await _until_written(write, f"job {key}: PAID task {task_id} is not recorded yet, retrying")


async def _put_task_page(run: RunContext, record: JobRecord, claim: str, task_id: str) -> None:
    """Claim the task for this attempt. A page that cannot be read, or is another job's, must not stop the record."""
    attempt = record.attempt_for_claim(claim)
    try:
        page = await claim_task(run.storage, run.settings, task_id, record.key, attempt.number if attempt else 0)
    except LedgerError as error:
        log.error("job %s: the page of task %s cannot be read: %s", record.key[:12], task_id, error)  # noqa: TRY400
        return
    if page.job != record.key:
        log.error("job %s: its task %s was adopted by job %s", record.key[:12], task_id, page.job[:12])


async def _until_written(write: Callable[[], Awaitable[T]], problem: str) -> T:
    wait = RETRY_FIRST_SECONDS
    while True:
        try:
            return await write()
        except Exception as error:  # noqa: BLE001 - whatever it is, what happened to the money must not be lost
            log.error("%s: %s", problem, error)  # noqa: TRY400 - a traceback would hide the task id
        await asyncio.sleep(wait)
        wait = min(wait * 2, RETRY_MOST_SECONDS)
