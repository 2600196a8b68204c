"""What a person can decide about a job: adopt a task, have it paid again, or drop it.

Nothing here pays: a resubmitted job is ready, and the next run that needs it pays.
"""

from datetime import UTC, datetime

from i2v.advised_commands import command
from i2v.apixo.client import ApixoClient
from i2v.errors import CannotResolve, ProviderError
from i2v.ledger import transitions
from i2v.ledger.attempt import DROPPED_CODE, Reason
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Edit, Ledger, VersionedRecord
from i2v.ledger.task_pages import claim_task
from i2v.pipeline.outputs.verdicts import remove_verdicts
from i2v.s3.storage import Storage
from i2v.settings import Settings

DROPPED_BY_PERSON = Reason(
    code=DROPPED_CODE, message="dropped by a person (jobs resolve --drop); it may have been billed"
)


class Resolver:
    """Resolves the jobs of one ledger."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._ledger = Ledger(storage, settings)

    async def adopt(self, key: str, task_id: str, client: ApixoClient) -> JobRecord:
        """Give a job whose answer was lost its task; the next run or reconcile stores the video.

        Raise `CannotResolve` if no answer is lost, the provider does not know the task, or another job has it.
        """
        job = await self._ledger.read_existing(key)
        if job.record.attempt_for_task(task_id):
            raise CannotResolve(f"Job {key[:12]} already has task {task_id}")
        if transitions.adoptable(job.record, None) is None:
            raise _not_adoptable(job.record)
        created_at = await self._confirm(task_id, client)

        def add_task(record: JobRecord) -> JobRecord | None:
            return transitions.adopt(record, task_id, created_at, datetime.now(UTC))

        while attempt := transitions.adoptable(job.record, created_at):
            owner = await claim_task(self._storage, self._settings, task_id, key, attempt.number)
            if owner.job != key:
                raise CannotResolve(f"Task {task_id} already belongs to job {owner.job[:12]}")
            adopted = await self._ledger.record_task(job, add_task, task_id)
            if adopted:
                return adopted.record
            job = await self._ledger.read_existing(key)
        raise _not_adoptable(job.record)

    async def _confirm(self, task_id: str, client: ApixoClient) -> datetime | None:
        """Return when the provider created a task. Raise `CannotResolve` if it does not know it."""
        try:
            return (await client.status(task_id)).created_at
        except ProviderError as error:
            raise CannotResolve(f"The provider does not confirm task {task_id}: {error.message}", error.hint) from None

    async def resubmit(self, key: str) -> JobRecord:
        """Make a job ready that is unknown, refused, failed, or stored with an unverified video.

        Raise `CannotResolve` if it is in another state.
        """
        job = await self._ledger.read_existing(key)
        ready = await self._change(job, transitions.resubmit)
        await remove_verdicts(self._storage, self._settings, ready.image, ready.request)
        return ready

    async def keep(self, key: str) -> JobRecord:
        """Accept the unverified video of a stored job. Raise `CannotResolve` if it has none."""
        return await self._change(await self._ledger.read_existing(key), transitions.keep)

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
                f"Inspect it with: {command('jobs', 'show', job.record.key[:12])}",
            )
        return changed.record


def _not_adoptable(record: JobRecord) -> CannotResolve:
    return CannotResolve(f"Job {record.key[:12]} is {record.state}; only a job whose answer was lost can adopt a task")
