"""Step 3, free: poll a task's status on the provider's schedule until it ends or the deadline passes.

A failed status request is retried and never ends a job. The deadline ends the wait, not the job.
"""

import logging
import random
import time
from datetime import UTC, datetime
from typing import NamedTuple, assert_never

from i2v.apixo.fail_codes import FailClass, classify_fail_code
from i2v.apixo.models import TaskState, TaskStatus
from i2v.errors import LedgerError, ProviderError, StorageError
from i2v.ledger import transitions
from i2v.ledger.attempt import EndKind, Reason
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.logs import log_context
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import StepStarted
from i2v.telemetry.spans import Attributes, describe_job, traced
from i2v.urls import hide_signatures

log = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 60.0
"""Between two log lines of one wait."""
JITTER = 0.05
"""The part of each wait that is random, so that a thousand jobs do not poll at once."""


class PollResult(NamedTuple):
    """How a wait ended.

    With a `status` the video is ready. Without one the job is still submitted (the deadline passed, or the run was
    interrupted), has ended, or is ready for another attempt.
    """

    job: VersionedRecord
    status: TaskStatus | None = None
    polls: int = 0


def _describe(result: PollResult) -> Attributes:
    return describe_job(result.job) | {"i2v.polls": result.polls}


@traced("poll", _describe)
async def poll(run: RunContext, job: VersionedRecord) -> PollResult:
    """Wait for a submitted job's task. Raise `StorageError` if its end cannot be written: the job stays open."""
    attempt, first_seconds = job.record.attempt, run.settings.poll_first_seconds
    if job.record.state is not JobState.SUBMITTED or attempt is None or attempt.task_id is None:
        return PollResult(job)
    created = attempt.created_at or attempt.submitted_at or attempt.claimed_at
    wait = min(first_seconds, first_seconds - _age(created))
    polls, logged_at = 0, time.monotonic()
    while polls == 0 or _age(created) < run.settings.poll_deadline_seconds:
        await run.brake.sleep(max(0.0, wait) * random.uniform(1, 1 + JITTER))  # noqa: S311 - jitter
        if run.brake.interrupted:
            break
        polls += 1
        status = await query_status(run, job, attempt.task_id, polls)
        if status is not None:
            job = await note_unknown_state(run, job, status)
        if status is not None and status.state is not TaskState.RUNNING:
            return await handle_final_status(run, job, status, polls)
        if time.monotonic() - logged_at >= LOG_EVERY_SECONDS:
            logged_at = time.monotonic()
            log.info("%s: rendering, %.0f s, poll %d", job_label(job), _age(created), polls, extra=job_log_context(job))
        wait = run.settings.poll_every_seconds
    return PollResult(job, polls=polls)


def job_label(job: VersionedRecord) -> str:
    """Return image, job and task as log lines name them."""
    record = job.record
    return f"{record.image.name} (job {record.key[:12]}, task {record.task_id})"


def job_log_context(job: VersionedRecord) -> dict[str, str | None]:
    """Return the `extra` of a log line about a job."""
    return log_context(job.record.image.label, job.record.key, job.record.task_id)


async def query_status(run: RunContext, job: VersionedRecord, task_id: str, polls: int) -> TaskStatus | None:
    """Request a task's status once; return `None`, after logging it, if the request failed."""
    run.emit(StepStarted("rendering", job.record.key))
    try:
        status = await run.client.status(task_id)
    except ProviderError as error:
        log.warning("%s: no status, the job stays open: %s", job_label(job), error, extra=job_log_context(job))
        return None
    log.debug("%s: %s at poll %d", job_label(job), status.raw_state, polls)
    return status


async def note_unknown_state(run: RunContext, job: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    """Log and record a state that i2v does not know, once; return the record."""
    state, attempt = status.unknown_state, job.record.attempt_for_task(status.task_id)
    if state is None or attempt is None or attempt.provider_state == state:
        return job
    words = "%s: the provider reports the state %r, which i2v does not know: it counts as running until it has a video"
    log.warning(words, job_label(job), state, extra=job_log_context(job))
    try:
        return (
            await run.ledger.change(job, lambda record: transitions.note_provider_state(record, status.task_id, state))
            or job
        )
    except (LedgerError, StorageError) as error:
        log.warning("%s: the state could not be recorded: %s", job_label(job), error, extra=job_log_context(job))
        return job


async def handle_final_status(run: RunContext, job: VersionedRecord, status: TaskStatus, polls: int) -> PollResult:
    """Return a success for `store`; record a failure by the class of its fail code."""
    if status.state is TaskState.SUCCESS:
        run.brake.count_fetch()
        await run.first_submits.rendered(job.record.image.at.bucket)
        took = "" if status.cost_ms is None else f" in {status.cost_ms / 1000:.0f} s"
        log.info("%s: rendered%s, %d polls", job_label(job), took, polls, extra=job_log_context(job))
        return PollResult(job, status, polls)
    kind, reason, max_attempts = classify_failure(run, status)
    log.warning("%s: %s", job_label(job), reason.message, extra=job_log_context(job))
    now = status.completed_at or datetime.now(UTC)

    def end(record: JobRecord) -> JobRecord | None:
        return transitions.end_task(record, status.task_id, kind, reason, now, max_attempts=max_attempts)

    ended = await run.ledger.change(job, end)
    return PollResult(ended or await run.ledger.read_existing(job.record.key), polls=polls)


def classify_failure(run: RunContext, status: TaskStatus) -> tuple[EndKind, Reason, int | None]:
    """Return how a failed task ends its attempt, why, and how many attempts its job may have if that is transient."""
    code = status.fail_code
    vendor_text = ": ".join(part for part in (code, status.fail_message) if part)
    message = hide_signatures(vendor_text) or "the provider gave no reason"
    reason = Reason(code=hide_signatures(code) or "no fail code", message=message)
    match kind := classify_fail_code(code):
        case FailClass.CONTENT | FailClass.INPUT:
            return EndKind.REFUSED, reason, None
        case FailClass.TRANSIENT:
            return EndKind.FAILED, reason, run.settings.max_attempts
        case FailClass.ACCOUNT:
            run.brake.stop("account", message)
            return EndKind.FAILED, reason, run.settings.max_attempts
        case FailClass.FETCH:
            run.brake.count_failed_fetch()
            return EndKind.FAILED, reason, None
        case FailClass.UNKNOWN:
            return EndKind.FAILED, reason, None
        case _:
            assert_never(kind)


def _age(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
