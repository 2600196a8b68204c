"""The job records in S3: `Ledger` reads them and changes them by conditional writes.

boto3 repeats a write whose answer was lost and then gets 412 for its own write. Each write therefore carries a random
writer and a new revision: a process that reads its own back has won. Changes themselves are in `transitions`.
"""

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from i2v.errors import Conflict, I2vError, LedgerError
from i2v.ledger import keys
from i2v.ledger.abandoned_reservations import ClaimState
from i2v.ledger.documents import read_document, wait_briefly, write_document
from i2v.ledger.job import FORMAT, JobImage, JobRecord
from i2v.ledger.ledger_info import ForgottenImages, LedgerInfoStore
from i2v.ledger.task_pages import TaskPages
from i2v.ledger.transitions import validate_change
from i2v.request import Request
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
_RECORD_NAME = re.compile(r"([0-9a-f]{64})\.json")
CONCURRENT_READS = 64
Edit = Callable[[JobRecord], JobRecord | None]


@dataclass(frozen=True, slots=True)
class VersionedRecord:
    """A record, and the etag that its next write is conditional on; `None` if it has not been written yet."""

    record: JobRecord
    etag: str | None
    age_seconds: float = 0.0
    """By S3's clock, when it was read."""


class Ledger:
    """The job records under one jobs prefix. Every method can raise `StorageError`."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self.storage = storage
        self.settings = settings
        self.info = LedgerInfoStore(storage, settings)
        self.task_pages = TaskPages(storage, settings)
        self.forgotten = ForgottenImages(storage, settings, self.info)

    async def read(self, key: str) -> VersionedRecord | None:
        """Return a record, or `None` if there is none. Raise `LedgerError` if it cannot be parsed."""
        found = await read_document(self.storage, JobRecord, keys.job_uri(self.settings, key))
        return VersionedRecord(*found) if found else None

    async def read_existing(self, key: str) -> VersionedRecord:
        """Return a record. Raise `LedgerError` if it is missing or cannot be parsed."""
        found = await self.read(key)
        if found is None:
            raise LedgerError(f"The record of job {key[:12]} is missing", "Restore it; never delete job records")
        return found

    async def read_claim(self, key: str, claim: str) -> ClaimState:
        """Return what the job's record shows of a claim."""
        found = await self.read(key)
        attempt = found.record.attempt_for_claim(claim) if found else None
        if attempt is None:
            return "absent"
        return "counts" if attempt.cost_usd else "free"

    async def read_or_new(
        self, key: str, image: JobImage, request: Request, label: str | None = None
    ) -> VersionedRecord:
        """Return the job's record, or a new one that its first change will write."""
        if found := await self.read(key):
            return found
        now = datetime.now(UTC)
        new = JobRecord(key=key, image=image, request=request, label=label, created_at=now, updated_at=now)
        return VersionedRecord(new, None)

    async def change(self, current: VersionedRecord, edit: Edit) -> VersionedRecord | None:
        """Apply an edit from `i2v.ledger.transitions` and write the record; return `None` if the edit does not apply.

        After a conflict the edit runs again, on the newer record. Raise `ValueError` if it breaks the state machine.
        After a `StorageError` the change may or may not be written.
        """
        while (edited := edit(current.record)) is not None:
            validate_change(current.record, edited)
            if current.record.was_format_1:
                await self.task_pages.put_all(current.record)
            new = _stamped(edited)
            try:
                return await self._write(new, current.etag)
            except Conflict:
                current = await self._read_after_conflict(current)
                if (current.record.writer, current.record.revision) == (new.writer, new.revision):
                    return current
                await wait_briefly()
        return None

    async def _write(self, new: JobRecord, etag: str | None) -> VersionedRecord:
        uri = keys.job_uri(self.settings, new.key)
        return VersionedRecord(new, await write_document(self.storage, new, uri, etag))

    async def recreate(self, record: JobRecord) -> VersionedRecord | None:
        """Write a record that was deleted; return `None` if there is one."""
        with contextlib.suppress(Conflict):
            return await self._write(_stamped(record), None)
        return None

    async def _read_after_conflict(self, current: VersionedRecord) -> VersionedRecord:
        """Return the winner's record; after a 409 on a new record it may not exist yet."""
        if current.etag is None:
            return await self.read(current.record.key) or current
        return await self.read_existing(current.record.key)

    async def record_task(self, job: VersionedRecord, add_task: Edit, task_id: str) -> VersionedRecord | None:
        """Record a task in this version of a job, after its attempt's open marker; return `None` after a conflict.

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
            await self.put_open_marker(job.record.image, job.record.key, attempt.number, reopened=attempt.reopened)

        def in_this_version(record: JobRecord) -> JobRecord | None:
            return add_task(record) if record.attempts == job.record.attempts else None

        return await self.change(job, in_this_version)

    async def records(
        self, *, since: datetime | None = None, on_error: Callable[[str, I2vError], None] | None = None
    ) -> AsyncIterator[JobRecord]:
        """Yield all records, or those written since then, by key. Log each that cannot be read, or call `on_error`."""
        async for some in self._key_pages("", since):
            async for key, found in self.read_many(some):
                if isinstance(found, VersionedRecord):
                    yield found.record
                elif found:
                    (on_error or _log_unreadable)(key, found)

    async def read_many(self, job_keys: Sequence[str]) -> AsyncIterator[tuple[str, VersionedRecord | I2vError | None]]:
        """Yield each key with its record, with the error that made it unreadable, or with `None`, in this order."""
        for start in range(0, len(job_keys), CONCURRENT_READS):
            some = job_keys[start : start + CONCURRENT_READS]
            for found in zip(some, await asyncio.gather(*map(self._read_or_error, some)), strict=True):
                yield found

    async def _read_or_error(self, key: str) -> VersionedRecord | I2vError | None:
        try:
            return await self.read(key)
        except I2vError as error:
            return error

    async def find_keys(self, start: str = "", *, since: datetime | None = None) -> list[str]:
        """Return the job keys that start with these characters, or only those of records written since then."""
        return [key async for some in self._key_pages(start, since) for key in some]

    async def _key_pages(self, start: str, since: datetime | None) -> AsyncIterator[list[str]]:
        """Yield the keys page by page of the listing, so that memory does not grow with the ledger."""
        async with aclosing(self.storage.pages(self.settings.jobs / start, recursive=False)) as pages:
            async for entries in pages:
                recent = [entry.uri for entry in entries if since is None or entry.last_modified >= since]
                names = (uri.key.removeprefix(self.settings.jobs.key) for uri in recent)
                yield [match[1] for name in names if (match := _RECORD_NAME.fullmatch(name))]

    async def put_open_marker(self, image: JobImage, key: str, number: int, *, reopened: bool = False) -> None:
        """Put the open marker of an attempt, before it is claimed or reopened."""
        await self.storage.put(keys.open_marker_uri(self.settings, image, key, number, reopened=reopened), b"")


def _log_unreadable(_key: str, error: I2vError) -> None:
    log.warning("%s", error)


def _stamped(record: JobRecord) -> JobRecord:
    """Return the record as the next write of this process."""
    written = {"revision": record.revision + 1, "writer": secrets.token_hex(8), "updated_at": datetime.now(UTC)}
    return record.model_copy(update={**written, "format": FORMAT, "was_format_1": False})
