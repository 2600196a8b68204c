"""Adopt a lost task: `adopt_from_callback` takes the task id of an unanswered submit from a callback.

A forger may hold one valid callback URL and know other jobs' task ids. So a task is adopted only if the provider's
status confirms it, it was created within the attempt's claim, and no other attempt has its page: the object in the
ledger that names the attempt of a task (`i2v.ledger.task_pages`).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from i2v.apixo.answers import is_task_id
from i2v.apixo.models import TaskStatus
from i2v.errors import Rejected, StorageError, UsageError
from i2v.ledger import transitions
from i2v.ledger.attempt import Attempt
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import VersionedRecord
from i2v.ledger.task_pages import claim_task
from i2v.pipeline.context import RunContext

log = logging.getLogger(__name__)
TOLERANCE = timedelta(seconds=60)
"""Between the provider's clock and ours."""
RETRY_SECONDS = (1.0, 4.0, 16.0)
"""Before each further try to record a paid task; after them the run fails, and can be run again."""
_ENTRY = re.compile(r"([0-9a-f]{64})(?:/([1-9][0-9]{0,8})/(.+))?")


@dataclass(frozen=True, slots=True)
class CallbackHint:
    """What a callback claims: this attempt of this job has this task. As text: `KEY/ATTEMPT/TASKID`."""

    key: str
    attempt: int
    task_id: str

    def __str__(self) -> str:
        return f"{self.key}/{self.attempt}/{self.task_id}"


def parse_job_entry(text: str) -> tuple[str, CallbackHint | None]:
    """Return the job key in `KEY` or `KEY/ATTEMPT/TASKID`, and the latter's hint. Raise `UsageError` for other text."""
    match = _ENTRY.fullmatch(text)
    if match is None or (match[3] is not None and not is_task_id(match[3])):
        shown = text[:80].encode("unicode_escape").decode()
        raise UsageError(f"{shown!r} is not a job", "Name a job by its key, 64 hex characters, or KEY/ATTEMPT/TASKID")
    return match[1], CallbackHint(match[1], int(match[2]), match[3]) if match[3] else None


def hints_by_job(entries: Sequence[str]) -> dict[str, list[CallbackHint]]:
    """Return the callbacks' hints by job key; repeated entries count once."""
    hints: dict[str, list[CallbackHint]] = {}
    for key, hint in map(parse_job_entry, dict.fromkeys(entries)):
        hints.setdefault(key, []).extend([hint] if hint else [])
    return hints


async def adopt_from_callback(
    run: RunContext, job: VersionedRecord, hint: CallbackHint
) -> tuple[VersionedRecord, TaskStatus | None]:
    """Give the attempt that waits for this callback its task, if it is confirmed and free.

    Return the job, and the task's status if it was requested. After a `ProviderError` or `StorageError` the callback
    can be settled again.
    """
    attempt = transitions.awaiting_callback(job.record, hint.attempt)
    status = await _confirm(run, attempt, hint) if attempt else None
    if status and await _is_free(run, hint):
        job = await _record(run, job, hint)
    return job, status


async def _confirm(run: RunContext, attempt: Attempt, hint: CallbackHint) -> TaskStatus | None:
    """Return the task's status, if the provider knows the task and created it within the attempt's claim."""
    try:
        status = await run.client.status(hint.task_id)
    except Rejected as error:
        log.warning("job %s: a callback named task %s: %s", hint.key[:12], hint.task_id, error.message)
        return None
    lease = timedelta(seconds=run.settings.lease_seconds)
    first, last = attempt.claimed_at - TOLERANCE, attempt.claimed_at + lease + TOLERANCE
    if status.created_at is None or not first <= status.created_at <= last:
        log.warning("job %s: task %s was not created during its claim", hint.key[:12], hint.task_id)
        return None
    return status


async def _is_free(run: RunContext, hint: CallbackHint) -> bool:
    """Claim the task for this attempt; return whether no other attempt has it."""
    page = await claim_task(run.storage, run.settings, hint.task_id, hint.key, hint.attempt)
    if (page.job, page.attempt) == (hint.key, hint.attempt):
        return True
    log.error("job %s: a callback named task %s of job %s", hint.key[:12], hint.task_id, page.job[:12])
    return False


async def _record(run: RunContext, job: VersionedRecord, hint: CallbackHint) -> VersionedRecord:
    """Record the task id; try again after conflicts and failures."""

    def edit(record: JobRecord) -> JobRecord | None:
        return transitions.adopt_from_callback(record, hint.attempt, hint.task_id, datetime.now(UTC))

    for seconds in (*RETRY_SECONDS, None):
        try:
            while transitions.awaiting_callback(job.record, hint.attempt):
                if adopted := await run.ledger.record_task(job, edit, hint.task_id):
                    log.info("job %s: adopted task %s from a callback", hint.key[:12], hint.task_id)
                    return adopted
                job = await run.ledger.read_existing(hint.key)
        except StorageError as error:
            log.warning("job %s: PAID task %s is not recorded yet: %s", hint.key, hint.task_id, error)
            if seconds is None:
                raise
            await run.brake.sleep(seconds)
        else:
            return job
    raise AssertionError("the last try returns or raises")
