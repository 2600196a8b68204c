"""The pages of paid tasks, `jobs/tasks/<sha256 of the task id>`: each names the attempt that has the task.

Its conditional create decides, so no two jobs have the same task and no lookup has to search the ledger. A record
never waits for the page of its task: an attempt without a page keeps its open marker, and reconcile writes the page.
"""

import asyncio
import logging

from pydantic import BaseModel, ConfigDict

from i2v.errors import Conflict, LedgerError
from i2v.ledger import keys
from i2v.ledger.attempt import Attempt
from i2v.ledger.documents import read_document
from i2v.ledger.job import FORMAT, JobRecord
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)


class TaskPage(BaseModel):
    """The attempt that has a task."""

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


class TaskPages:
    """Writes the pages of tasks that are, or are about to be, in a record."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._missing: dict[str, TaskPage] = {}
        """By task id; their writes have failed until now, or are under way."""
        self._under_way: set[str] = set()
        self._written: set[str] = set()

    async def put(self, key: str, number: int, task_id: str) -> None:
        """Write the page of an attempt's task. An error is logged, and the write is tried again by `put_missing`."""
        page = TaskPage(job=key, attempt=number, task_id=task_id)
        self._missing[task_id] = page
        self._under_way.add(task_id)
        try:
            await self._put(page)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task id must still be recorded
            log.warning("job %s: the page of task %s is not written yet: %s", key[:12], task_id, error)
        else:
            self._written.add(task_id)
            self._missing.pop(task_id, None)  # a heartbeat may have tried it meanwhile
        finally:
            self._under_way.discard(task_id)

    async def _put(self, page: TaskPage) -> None:
        """Write a page. Log one that another job has, or that cannot be read, and leave it."""
        key, task_id = page.job[:12], page.task_id
        try:
            found = await claim_task(self._storage, self._settings, task_id, page.job, page.attempt)
        except LedgerError as error:
            log.error("job %s: the page of task %s cannot be read: %s", key, task_id, error)  # noqa: TRY400
            return
        if found.job != page.job:
            log.error("job %s: its task %s was adopted by job %s", key, task_id, found.job[:12])

    async def put_missing(self) -> None:
        """Try again to write the pages that are missing."""
        for page in [one for task_id, one in self._missing.items() if task_id not in self._under_way]:
            await self.put(page.job, page.attempt, page.task_id)

    async def ensure(self, record: JobRecord, attempt: Attempt) -> bool:
        """Write the page of an attempt's task unless this process has; return whether it is written.

        The process that recorded the task may have died before it wrote the page.
        """
        task_id = attempt.task_id
        if task_id and task_id not in self._written | self._under_way:
            await self.put(record.key, attempt.number, task_id)
        return task_id not in self._missing

    async def put_all(self, record: JobRecord) -> None:
        """Write the pages of all tasks of a job. Raise `StorageError` if one may not be written."""
        for attempt in record.attempts:
            if attempt.task_id:
                await self._put(TaskPage(job=record.key, attempt=attempt.number, task_id=attempt.task_id))
