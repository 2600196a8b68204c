"""Which attempt has which of the provider's tasks: `claim_task`, and then `record_task` in the job's record.

There is one page for each paid task, `jobs/tasks/<sha256 of the task id>`. Its conditional create decides, so that no
two jobs have the same task and no lookup has to search the ledger.
"""

import asyncio

from pydantic import BaseModel, ConfigDict

from i2v.errors import Conflict
from i2v.ledger import keys
from i2v.ledger.documents import read_document
from i2v.ledger.job import FORMAT, JobRecord
from i2v.ledger.ledger import Edit, Ledger, VersionedRecord
from i2v.s3.storage import Storage
from i2v.settings import Settings


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


async def record_task(ledger: Ledger, job: VersionedRecord, add_task: Edit, task_id: str) -> VersionedRecord | None:
    """Record a task in this version of a job, after the open marker of its attempt; return `None` after a conflict.

    Raise `ValueError` if `add_task` does not apply, `StorageError` if it may not be written.
    """
    if job.record.attempt_for_task(task_id):
        return job
    changed = add_task(job.record)
    attempt = changed.attempt_for_task(task_id) if changed else None
    if attempt is None:
        raise ValueError(f"job {job.record.key[:12]} has no attempt for task {task_id}")
    before = job.record.attempt_numbered(attempt.number)
    if before is None or not before.is_claimed:  # its marker may be deleted, or was never put
        await ledger.put_open_marker(job.record.image, job.record.key, attempt.number, reopened=attempt.reopened)

    def in_this_version(record: JobRecord) -> JobRecord | None:
        return add_task(record) if record.attempts == job.record.attempts else None

    return await ledger.change(job, in_this_version)
