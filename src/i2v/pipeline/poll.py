"""The step that waits: `poll` asks for a task's status by the vendor's schedule until it ends or the deadline passes.

A status that fails is asked again and never ends a job; a deadline ends the wait, not the job.
"""

from __future__ import annotations

import logging
import random
import time
from datetime import UTC, datetime
from typing import assert_never

from i2v.apixo.callbacks import hide_signatures
from i2v.apixo.errors import FailClass, classify_fail_code
from i2v.apixo.models import TaskState, TaskStatus
from i2v.errors import ProviderError
from i2v.ledger import transitions
from i2v.ledger.job import Attempt, JobState, Reason
from i2v.ledger.ledger import VersionedRecord
from i2v.logs import log_context
from i2v.pipeline.run import UNFETCHED, Run

log = logging.getLogger(__name__)
LINE_SECONDS = 60.0
"""Between two lines that tell of a wait."""
JITTER = 0.05
"""Added to each wait, at most this part of it, so that a thousand videos do not ask at once."""


async def poll(run: Run, held: VersionedRecord) -> tuple[VersionedRecord, TaskStatus | None]:
    """Wait for a submitted job's task.

    Returns:
        The job and, where the video is ready, the status that says so. Without a status the job is still submitted
        (the deadline passed, or the run was interrupted), or has ended, or is ready for another attempt.

    Raises:
        StorageError: the end could not be written; the job stays open and is settled later.
    """
    attempt = held.record.attempt
    if held.record.state is not JobState.SUBMITTED or attempt is None or attempt.task_id is None:
        return held, None
    begun = attempt.created_at or attempt.submitted_at or attempt.claimed_at
    wait = min(run.settings.poll_first_seconds, run.settings.poll_first_seconds - _age(begun))
    asked, told = 0, time.monotonic()
    while asked == 0 or _age(begun) < run.settings.poll_deadline_seconds:
        await run.sleep(max(0.0, wait) * random.uniform(1, 1 + JITTER))  # noqa: S311 - jitter
        if run.stop_waiting.is_set():
            break
        asked += 1
        status = await query_status(run, held, asked)
        if status is not None and status.state is not TaskState.RUNNING:
            return await handle_final_status(run, held, attempt, status)
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            log.info("%s: rendering, %.0f s, poll %d", job_label(held), _age(begun), asked, extra=_about(held))
        wait = run.settings.poll_every_seconds
    return held, None


def job_label(held: VersionedRecord) -> str:
    """The image, its job and its task, as log lines name them."""
    record = held.record
    return f"{record.image.name} (job {record.key[:12]}, task {record.task_id})"


def _about(held: VersionedRecord) -> dict[str, str | None]:
    return log_context(held.record.image.label, held.record.key, held.record.task_id)


async def query_status(run: Run, held: VersionedRecord, count: int) -> TaskStatus | None:
    """One status, or `None` where the provider could not say; that is logged and asked again later."""
    run.tell("rendering", held.record.key)
    run.polls[held.record.key] += 1
    try:
        status = await run.client.status(held.record.task_id or "")
    except ProviderError as error:
        log.warning("%s: no status, the job stays open: %s", job_label(held), error, extra=_about(held))
        return None
    log.debug("%s: %s at poll %d", job_label(held), status.raw_state, count)
    return status


async def handle_final_status(
    run: Run, held: VersionedRecord, attempt: Attempt, status: TaskStatus
) -> tuple[VersionedRecord, TaskStatus | None]:
    """A task has ended: a success goes on to be stored, a failure is written down by its class."""
    if status.state is TaskState.SUCCESS:
        run.unfetched.clear()
        log.info(
            "%s: rendered%s, %d polls", job_label(held), _took(status), run.polls[held.record.key], extra=_about(held)
        )
        return held, status
    state, reason = classify_failure(run, held, status)
    log.warning("%s: %s", job_label(held), reason.message, extra=_about(held))
    now, task_id = status.completed_at or datetime.now(UTC), attempt.task_id or ""
    ended = await run.ledger.change(held, lambda record: transitions.end_task(record, task_id, state, reason, now))
    return ended or await run.ledger.read_existing(held.record.key), None


def classify_failure(run: Run, held: VersionedRecord, status: TaskStatus) -> tuple[JobState, Reason]:
    """What a failed task makes of its job, by the class of its fail code."""
    code = status.fail_code
    told = ": ".join(part for part in (code, status.fail_message) if part)
    message = hide_signatures(told) or "the provider named no reason"
    reason = Reason(code=hide_signatures(code) or "no fail code", message=message)
    again = transitions.attempts_left(held.record, run.settings.max_attempts)
    match kind := classify_fail_code(code):
        case FailClass.CONTENT | FailClass.INPUT:
            return JobState.REFUSED, reason
        case FailClass.TRANSIENT:
            return (JobState.READY if again else JobState.FAILED), reason
        case FailClass.ACCOUNT:
            run.stop_submits("account", message)
            return (JobState.READY if again else JobState.FAILED), reason
        case FailClass.FETCH:
            if run.unfetched.fault():
                run.stop_submits("unfetched", UNFETCHED)
            return JobState.FAILED, reason
        case FailClass.UNKNOWN:
            return JobState.FAILED, reason
        case _:
            assert_never(kind)


def _took(status: TaskStatus) -> str:
    return "" if status.cost_ms is None else f" in {status.cost_ms / 1000:.0f} s"


def _age(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
