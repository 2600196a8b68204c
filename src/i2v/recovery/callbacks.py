"""A callback's word for an attempt whose submit was never answered: `Adopter` gives it its task, if all agree.

A forger may hold one valid address, and know other jobs' task ids. So a task is adopted only where the provider's
status confirms it, it was created within the attempt's own claim, and no other job has it: neither in a record (all
that were written since that claim are read) nor by another adoption (a page for each, made by a conditional write).
Submits cost nothing more for this: task ids that an answer brought lie in the records.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from i2v.apixo.callbacks import is_task_id
from i2v.apixo.models import TaskStatus
from i2v.errors import Conflict, NotFound, Rejected, StorageError, UsageError
from i2v.ledger import keys, transitions
from i2v.ledger.documents import parse_document
from i2v.ledger.job import FORMAT, Attempt, JobRecord
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.run import Run
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
TOLERANCE = timedelta(seconds=60)
"""Between the provider's clock and ours."""
CLOCKS = timedelta(minutes=15)
"""Between S3's clock and ours: with more, S3 refuses our requests."""
PAUSES = (1.0, 4.0, 16.0)
"""Seconds before each further try to write a paid task down; after them the run fails, and can be run again."""
_ENTRY = re.compile(r"([0-9a-f]{64})(?:/([1-9][0-9]{0,8})/(.+))?")


@dataclass(frozen=True, slots=True)
class CallbackHint:
    """What a callback told: an attempt of a job has ended, and its task is called so. As text: `KEY/ATTEMPT/TASKID`."""

    key: str
    attempt: int
    task_id: str

    def __str__(self) -> str:
        return f"{self.key}/{self.attempt}/{self.task_id}"


def read_entry(text: str) -> tuple[str, CallbackHint | None]:
    """A job key and, where the text names attempt and task too, what was told of it.

    Raises:
        UsageError: it is neither `KEY` nor `KEY/ATTEMPT/TASKID`.
    """
    match = _ENTRY.fullmatch(text)
    if match is None or (match[3] is not None and not is_task_id(match[3])):
        shown = text[:80].encode("unicode_escape").decode()
        raise UsageError(f"{shown!r} names no job", "A job is named by its key, 64 hex digits, or KEY/ATTEMPT/TASKID")
    return match[1], CallbackHint(match[1], int(match[2]), match[3]) if match[3] else None


class TaskPage(BaseModel):
    """`jobs/tasks/<sha256 of the task id>`: which attempt adopted a task."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    job: str
    attempt: int
    task_id: str


async def claim_task(storage: Storage, settings: Settings, task_id: str, key: str, attempt: int) -> TaskPage:
    """Adopt a task for this attempt, if nobody has; the page of whoever has it then.

    Raises:
        LedgerError: what lies there is no page that this version can read.
        StorageError: S3 did not answer well.
    """
    uri = keys.task_uri(settings, task_id)
    mine = TaskPage(job=key, attempt=attempt, task_id=task_id)
    while True:
        try:
            await storage.put(uri, mine.model_dump_json().encode(), content_type="application/json", create=True)
        except Conflict:
            try:
                return parse_document(TaskPage, (await storage.get(uri)).body, uri)
            except NotFound:
                await asyncio.sleep(0.1)  # 409: another write was under way, and came to nothing
                continue
        return mine


class Adopter:
    """Adopts for one run; it looks through the ledger once for all callbacks of the run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = asyncio.Lock()
        self._since: datetime | None = None
        self._owners: dict[str, str] = {}

    async def adopt_from_callback(
        self, held: VersionedRecord, told: Sequence[CallbackHint]
    ) -> tuple[VersionedRecord, TaskStatus | None]:
        """Give attempts the tasks that callbacks named, where they await one and all agree; else nothing changes.

        Returns:
            The job, and the status of its task, if that was adopted just now.

        Raises:
            ProviderError: the task could not be asked for, so that nothing is known of it yet.
            LedgerError: a record cannot be read, so that it is not known whose the task is.
            StorageError: S3 did not answer well.
        """
        current = None
        for one in told:
            attempt = transitions.awaiting_callback(held.record, one.attempt)
            status = await self._confirmed(attempt, one) if attempt else None
            if attempt and status and await self._is_free(attempt, one):
                held = await self._write(held, one)
                current = status
        return held, current if current and current.task_id == held.record.task_id else None

    async def _confirmed(self, attempt: Attempt, told: CallbackHint) -> TaskStatus | None:
        """The provider's status of the task, if it knows it and made it for this attempt."""
        try:
            status = await self._run.client.status(told.task_id)
        except Rejected as error:
            log.warning("job %s: a callback named task %s: %s", told.key[:12], told.task_id, error.message)
            return None
        lease = timedelta(seconds=self._run.settings.lease_seconds)
        first, last = attempt.claimed_at - TOLERANCE, attempt.claimed_at + lease + TOLERANCE
        if status.created_at is None or not first <= status.created_at <= last:
            log.warning("job %s: task %s was not made for it: its time is another", told.key[:12], told.task_id)
            return None
        return status

    async def _is_free(self, attempt: Attempt, told: CallbackHint) -> bool:
        """Whether no other job has the task; from now on no other can adopt it."""
        owner = (await self._recorded(attempt.claimed_at - TOLERANCE - CLOCKS)).get(told.task_id, told.key)
        if owner == told.key:
            page = await claim_task(self._run.storage, self._run.settings, told.task_id, told.key, told.attempt)
            if (page.job, page.attempt) == (told.key, told.attempt):
                return True
            owner = page.job
        log.error("job %s: a callback named task %s, which is job %s's", told.key[:12], told.task_id, owner[:12])
        return False

    async def _recorded(self, since: datetime) -> dict[str, str]:
        """The job of each task id in the records that were written since then."""
        async with self._lock:
            if self._since is None or since < self._since:
                found: dict[str, str] = {}
                async for record in self._run.ledger.records(since=since):
                    found |= {task: record.key for attempt in record.attempts for task in attempt.task_ids}
                self._since, self._owners = since, found
            return self._owners

    async def _write(self, held: VersionedRecord, told: CallbackHint) -> VersionedRecord:
        """Mark the job as open, and write its task down."""

        def edit(record: JobRecord) -> JobRecord | None:
            return transitions.adopt_from_callback(record, told.attempt, told.task_id, datetime.now(UTC))

        for pause in (*PAUSES, None):
            try:
                await self._run.ledger.put_open_marker(held.record.image, told.key)
                heard = await self._run.ledger.change(held, edit)
                log.info("job %s: a callback brought its task %s", told.key[:12], told.task_id)
                return heard or await self._run.ledger.read_existing(told.key)
            except StorageError as error:
                log.warning("job %s: PAID task %s is not yet written down: %s", told.key, told.task_id, error)
                if pause is None:
                    raise
                await self._run.sleep(pause)
        raise AssertionError("the last try returns or raises")
