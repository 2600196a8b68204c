"""What only a person can say of a job: `adopt` a task for it, have it paid again, or give it up.

Nothing here pays: a resubmitted job is ready, and the next run that wants it pays.
"""

from __future__ import annotations

from datetime import UTC, datetime

from i2v.apixo.client import ApixoClient
from i2v.errors import CannotResolve, ProviderError
from i2v.ledger import transitions
from i2v.ledger.job import DROPPED_CODE, JobRecord, JobState, Reason
from i2v.ledger.ledger import Edit, Ledger, VersionedRecord
from i2v.pipeline.store import remove_verdicts
from i2v.recovery.callbacks import claim_task
from i2v.s3.storage import Storage
from i2v.settings import Settings

DROPPED_BY_PERSON = Reason(
    code=DROPPED_CODE, message="given up by a person with i2v jobs resolve --drop; it may have been billed"
)


class Resolver:
    """Resolves jobs of one ledger."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._ledger = Ledger(storage, settings)

    async def adopt(self, key: str, task_id: str, client: ApixoClient) -> JobRecord:
        """Give an unknown job the task that it was submitted as; the next run or reconcile stores its video.

        Raises:
            CannotResolve: the job is not unknown, the provider does not know the task, or another job has it.
            StorageError: S3 did not answer well.
        """
        held = await self._ledger.read_existing(key)
        if held.record.state is not JobState.UNKNOWN:
            raise CannotResolve(f"Job {key[:12]} is {held.record.state}; only an unknown job can adopt a task")
        try:
            await client.status(task_id)
        except ProviderError as error:
            raise CannotResolve(f"The provider does not confirm task {task_id}: {error.message}", error.hint) from None
        await self._refuse_taken(task_id, key)
        number = held.record.attempt.number if held.record.attempt else 0
        owner = await claim_task(self._storage, self._settings, task_id, key, number)
        if owner.job != key:
            raise CannotResolve(f"Task {task_id} belongs to job {owner.job[:12]} already")
        now = datetime.now(UTC)
        return await self._change(held, lambda record: transitions.adopt(record, task_id, now))

    async def _refuse_taken(self, task_id: str, key: str) -> None:
        async for record in self._ledger.records():
            if record.key != key and any(task_id in attempt.task_ids for attempt in record.attempts):
                raise CannotResolve(f"Task {task_id} belongs to job {record.key[:12]} already")

    async def resubmit(self, key: str) -> JobRecord:
        """Make an unknown, refused or failed job ready: the next run that wants it pays for it.

        Raises:
            CannotResolve: the job is in another state.
            StorageError: S3 did not answer well.
        """
        held = await self._ledger.read_existing(key)
        ready = await self._change(held, lambda record: transitions.resubmit(record, self._settings.max_attempts))
        await remove_verdicts(self._storage, self._settings, ready.image, ready.request)
        return ready

    async def drop(self, key: str) -> JobRecord:
        """Give an unknown or submitted job up: failed for good, though it may have been billed.

        Raises:
            CannotResolve: the job is in another state.
            StorageError: S3 did not answer well.
        """
        held = await self._ledger.read_existing(key)
        now = datetime.now(UTC)
        return await self._change(held, lambda record: transitions.drop(record, DROPPED_BY_PERSON, now))

    async def _change(self, held: VersionedRecord, edit: Edit) -> JobRecord:
        changed = await self._ledger.change(held, edit)
        if changed is None:
            newest = await self._ledger.read_existing(held.record.key)
            raise CannotResolve(
                f"Job {held.record.key[:12]} is {newest.record.state}, which this cannot resolve",
                f"Look at it with: i2v jobs show {held.record.key[:12]}",
            )
        return changed.record
