"""Adopt a lost task from a callback: `CallbackAdopter` gives an attempt whose submit was not answered its task id.

A forger may hold one valid callback URL and know other jobs' task ids. So a task is adopted only if the provider's
status confirms it, it was created within the attempt's claim, and no other job has it: neither a record (all that were
written since the claim are read) nor another adoption (one object per task, created by a conditional write).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from i2v.apixo.answers import is_task_id
from i2v.apixo.models import TaskStatus
from i2v.errors import Conflict, Rejected, StorageError, UsageError
from i2v.ledger import keys, transitions
from i2v.ledger.documents import read_document
from i2v.ledger.job import FORMAT, Attempt, JobRecord
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
TOLERANCE = timedelta(seconds=60)
"""Between the provider's clock and ours."""
CLOCK_SKEW = timedelta(minutes=15)
"""Between S3's clock and ours; S3 rejects requests beyond that."""
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


class TaskPage(BaseModel):
    """`jobs/tasks/<sha256 of the task id>`: the attempt that adopted a task."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    job: str
    attempt: int
    task_id: str


async def claim_task(storage: Storage, settings: Settings, task_id: str, key: str, attempt: int) -> TaskPage:
    """Claim a task for this attempt; return the page of the attempt that has it. Raise as `parse_document` does."""
    uri = keys.task_uri(settings, task_id)
    own = TaskPage(job=key, attempt=attempt, task_id=task_id)
    while True:
        try:
            await storage.put(uri, own.model_dump_json().encode(), content_type="application/json", create=True)
        except Conflict:
            if other := await read_document(storage, TaskPage, uri):
                return other.content
            await asyncio.sleep(0.1)  # 409: another write was under way and failed
        else:
            return own


class CallbackAdopter:
    """Adopts tasks for one run. It scans the ledger once for all callbacks of the run."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._lock = asyncio.Lock()
        self._scanned_since: datetime | None = None
        self._owners: dict[str, str] = {}

    async def adopt_from_callback(
        self, job: VersionedRecord, hints: Sequence[CallbackHint]
    ) -> tuple[VersionedRecord, TaskStatus | None]:
        """Give each attempt that waits for a callback its task, if the task is confirmed and free.

        Returns:
            The job, and the status of its task if that was adopted just now.

        Raises:
            ProviderError: the status request failed.
            LedgerError: a record cannot be read, so the task's owner is not known.
        """
        adopted = None
        for hint in hints:
            attempt = transitions.awaiting_callback(job.record, hint.attempt)
            status = await self._confirmed(attempt, hint) if attempt else None
            if attempt and status and await self._is_free(attempt, hint):
                job = await self._record(job, hint)
                adopted = status
        return job, adopted if adopted and adopted.task_id == job.record.task_id else None

    async def _confirmed(self, attempt: Attempt, hint: CallbackHint) -> TaskStatus | None:
        """Return the task's status, if the provider knows it and created it within the attempt's claim."""
        try:
            status = await self._run.client.status(hint.task_id)
        except Rejected as error:
            log.warning("job %s: a callback named task %s: %s", hint.key[:12], hint.task_id, error.message)
            return None
        lease = timedelta(seconds=self._run.settings.lease_seconds)
        first, last = attempt.claimed_at - TOLERANCE, attempt.claimed_at + lease + TOLERANCE
        if status.created_at is None or not first <= status.created_at <= last:
            log.warning("job %s: task %s was not created during its claim", hint.key[:12], hint.task_id)
            return None
        return status

    async def _is_free(self, attempt: Attempt, hint: CallbackHint) -> bool:
        """Claim the task for this attempt; return whether no other job has it."""
        owner = (await self._recorded_owners(attempt.claimed_at - TOLERANCE - CLOCK_SKEW)).get(hint.task_id, hint.key)
        if owner == hint.key:
            page = await claim_task(self._run.storage, self._run.settings, hint.task_id, hint.key, hint.attempt)
            if (page.job, page.attempt) == (hint.key, hint.attempt):
                return True
            owner = page.job
        log.error("job %s: a callback named task %s of job %s", hint.key[:12], hint.task_id, owner[:12])
        return False

    async def _recorded_owners(self, since: datetime) -> dict[str, str]:
        """Return the job key by task id, from all records written since then."""
        async with self._lock:
            if self._scanned_since is None or since < self._scanned_since:
                owners: dict[str, str] = {}
                async for record in self._run.ledger.records(since=since):
                    owners |= {task: record.key for attempt in record.attempts for task in attempt.task_ids}
                self._scanned_since, self._owners = since, owners
            return self._owners

    async def _record(self, job: VersionedRecord, hint: CallbackHint) -> VersionedRecord:
        """Put the open marker and record the task id."""

        def edit(record: JobRecord) -> JobRecord | None:
            return transitions.adopt_from_callback(record, hint.attempt, hint.task_id, datetime.now(UTC))

        for seconds in (*RETRY_SECONDS, None):
            try:
                await self._run.ledger.put_open_marker(job.record.image, hint.key)
                adopted = await self._run.ledger.change(job, edit)
                log.info("job %s: adopted task %s from a callback", hint.key[:12], hint.task_id)
                return adopted or await self._run.ledger.read_existing(hint.key)
            except StorageError as error:
                log.warning("job %s: PAID task %s is not recorded yet: %s", hint.key, hint.task_id, error)
                if seconds is None:
                    raise
                await self._run.brake.sleep(seconds)
        raise AssertionError("the last try returns or raises")
