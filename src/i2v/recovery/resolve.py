"""What a person can decide about a job: adopt a task, have it paid again, or drop it.

Nothing here pays: a resubmitted job is ready, and the next run that needs it pays.
"""

from __future__ import annotations

from datetime import UTC, datetime

from i2v.apixo.client import ApixoClient
from i2v.errors import CannotResolve, ProviderError
from i2v.ledger import transitions
from i2v.ledger.job import DROPPED_CODE, JobRecord, JobState, Reason
from i2v.ledger.ledger import Edit, Ledger, VersionedRecord
from i2v.pipeline.publish import remove_verdicts
from i2v.recovery.callbacks import claim_task
from i2v.s3.storage import Storage
from i2v.settings import Settings

DROPPED_BY_PERSON = Reason(
    code=DROPPED_CODE, message="dropped by a person with i2v jobs resolve --drop; it may have been billed"
)


class Resolver:
    """Resolves the jobs of one ledger."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._ledger = Ledger(storage, settings)

    async def adopt(self, key: str, task_id: str, client: ApixoClient) -> JobRecord:
        """Give an unknown job its task; the next run or reconcile stores the video.

        Raises:
            CannotResolve: the job is not unknown, the provider does not know the task, or another job has it.
        """
        job = await self._ledger.read_existing(key)
        if job.record.state is not JobState.UNKNOWN:
            raise CannotResolve(f"Job {key[:12]} is {job.record.state}; only an unknown job can adopt a task")
        try:
            await client.status(task_id)
        except ProviderError as error:
            raise CannotResolve(f"The provider does not confirm task {task_id}: {error.message}", error.hint) from None
        await self._refuse_taken(task_id, key)
        number = job.record.attempt.number if job.record.attempt else 0
        owner = await claim_task(self._storage, self._settings, task_id, key, number)
        if owner.job != key:
            raise CannotResolve(f"Task {task_id} already belongs to job {owner.job[:12]}")
        now = datetime.now(UTC)
        return await self._change(job, lambda record: transitions.adopt(record, task_id, now))

    async def _refuse_taken(self, task_id: str, key: str) -> None:
        async for record in self._ledger.records():
            if record.key != key and any(task_id in attempt.task_ids for attempt in record.attempts):
                raise CannotResolve(f"Task {task_id} already belongs to job {record.key[:12]}")

    async def resubmit(self, key: str) -> JobRecord:
        """Make an unknown, refused or failed job ready. Raise `CannotResolve` if it is in another state."""
        job = await self._ledger.read_existing(key)
        ready = await self._change(job, lambda record: transitions.resubmit(record, self._settings.max_attempts))
        await remove_verdicts(self._storage, self._settings, ready.image, ready.request)
        return ready

    async def drop(self, key: str) -> JobRecord:
        """Fail an unknown or submitted job for good; it may have been billed. Raise `CannotResolve` in other states."""
        job = await self._ledger.read_existing(key)
        now = datetime.now(UTC)
        return await self._change(job, lambda record: transitions.drop(record, DROPPED_BY_PERSON, now))

    async def _change(self, job: VersionedRecord, edit: Edit) -> JobRecord:
        changed = await self._ledger.change(job, edit)
        if changed is None:
            newest = await self._ledger.read_existing(job.record.key)
            raise CannotResolve(
                f"Job {job.record.key[:12]} is {newest.record.state}, which this command cannot resolve",
                f"Inspect it with: i2v jobs show {job.record.key[:12]}",
            )
        return changed.record
