"""The job records in S3: `Ledger` reads them and changes them by conditional writes.

boto3 repeats a write whose answer was lost and then gets 412 for its own write. Each write therefore carries a random
writer and a new revision: a process that reads its own back has won. Changes themselves are in `transitions`.
"""

import asyncio
import contextlib
import logging
import random
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from i2v.errors import Conflict, I2vError, LedgerError, Paused, StorageError, UsageError
from i2v.ledger import keys
from i2v.ledger.abandoned import ClaimState
from i2v.ledger.documents import read_document, write_document
from i2v.ledger.job import FORMAT, JobImage, JobRecord
from i2v.ledger.transitions import validate_change
from i2v.request import Request
from i2v.s3.conditions import prove_conditional_writes
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


class LedgerInfo(BaseModel):
    """`jobs/ledger.json`: the one provider and account that the ledger serves, its pause flag, and proven buckets."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    host: str
    account: str
    paused: bool = False
    fetched_from: tuple[str, ...] = ()
    """The buckets from which the provider has fetched an image."""


class Ledger:
    """The job records under one jobs prefix. Every method can raise `StorageError`."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self.storage = storage
        self.settings = settings

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
        """Return what the job's record tells of a claim."""
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
            new = _stamped(edited)
            uri = keys.job_uri(self.settings, new.key)
            try:
                return VersionedRecord(new, await write_document(self.storage, new, uri, current.etag))
            except Conflict:
                current = await self._read_after_conflict(current)
                if (current.record.writer, current.record.revision) == (new.writer, new.revision):
                    return current
                await _wait_briefly()
        return None

    async def recreate(self, record: JobRecord) -> VersionedRecord | None:
        """Write a record that was deleted; return `None` if there is one."""
        new = _stamped(record)
        with contextlib.suppress(Conflict):
            return VersionedRecord(
                new, await write_document(self.storage, new, keys.job_uri(self.settings, new.key), None)
            )
        return None

    async def _read_after_conflict(self, current: VersionedRecord) -> VersionedRecord:
        """Return the winner's record; after a 409 on a new record it may not exist yet."""
        if current.etag is None:
            return await self.read(current.record.key) or current
        return await self.read_existing(current.record.key)

    async def records(
        self, *, since: datetime | None = None, on_error: Callable[[str, I2vError], None] | None = None
    ) -> AsyncIterator[JobRecord]:
        """Yield all records, or those written since then, by key. Log each that cannot be read, or call `on_error`."""
        async for key, found in self.read_many(await self.find_keys(since=since)):
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
        entries = self.storage.list(self.settings.jobs / start, recursive=False)
        recent = [entry.uri async for entry in entries if since is None or entry.last_modified >= since]
        names = (uri.key.removeprefix(self.settings.jobs.key) for uri in recent)
        return [match[1] for name in names if (match := _RECORD_NAME.fullmatch(name))]

    async def put_open_marker(self, image: JobImage, key: str, number: int, *, reopened: bool = False) -> None:
        """Put the open marker of an attempt, before it is claimed or reopened."""
        await self.storage.put(keys.open_marker_uri(self.settings, image, key, number, reopened=reopened), b"")

    async def read_info(self) -> LedgerInfo | None:
        """Return `jobs/ledger.json`, or `None` before the first run."""
        info, etag = await self._read_info()
        return info if etag else None

    async def _read_info(self) -> tuple[LedgerInfo, str | None]:
        """Return the info and its etag; if there is none, a new one and `None`."""
        if found := await read_document(self.storage, LedgerInfo, keys.ledger_uri(self.settings)):
            return found.content, found.etag
        return LedgerInfo(host=provider_host(self.settings), account=self.settings.account_label), None

    async def set_paused(self, paused: bool) -> bool:
        """Pause or resume all submits; return whether the flag changed. Runs see it before their next reservation.

        Raise `UsageError` if the ledger belongs to another provider or account.
        """
        return await self._change_info(lambda info: info.model_copy(update={"paused": paused}))

    async def add_fetched_bucket(self, bucket: str) -> None:
        """Remember for good that the provider can fetch from this bucket."""
        await self._change_info(
            lambda info: info.model_copy(update={"fetched_from": tuple(dict.fromkeys((*info.fetched_from, bucket)))})
        )

    async def _change_info(self, edit: Callable[[LedgerInfo], LedgerInfo]) -> bool:
        while True:
            info, etag = await self._read_info()
            self._check_owner(info)
            changed = edit(info)
            if changed == info:
                return False
            with contextlib.suppress(Conflict):
                await self._write_info(changed, etag)
                return True

    async def raise_if_paused(self) -> None:
        """Raise `Paused` if a person has paused all submits."""
        info = await self.read_info()
        if info and info.paused:
            raise Paused("All submits are paused in this ledger", "Resume with: i2v resume")

    async def prepare(self) -> LedgerInfo:
        """Create `jobs/ledger.json` if it is missing, and verify that the server honors conditional writes.

        Raise `UsageError` if the ledger belongs to another provider or account, `LedgerError` if it cannot be used.
        """
        try:
            info = await self._read_or_create_info()
            self._check_owner(info)
            await prove_conditional_writes(self.storage, keys.ledger_uri(self.settings))
        except StorageError as error:
            message = f"The ledger cannot be used, so nothing is submitted: {error.message}"
            raise LedgerError(message, error.hint) from None
        return info

    async def _read_or_create_info(self) -> LedgerInfo:
        while True:
            info, etag = await self._read_info()
            if etag and info.format == FORMAT:
                return info
            try:  # an older i2v that meets the new format stops before it pays
                await self._write_info(info.model_copy(update={"format": FORMAT}), etag)
            except Conflict:
                log.debug("another run is creating jobs/ledger.json")
                await _wait_briefly()

    def _check_owner(self, info: LedgerInfo) -> None:
        host, account = provider_host(self.settings), self.settings.account_label
        if (info.host, info.account) != (host, account):
            raise UsageError(
                f"The ledger {self.settings.jobs} belongs to {info.host} (account {info.account!r}), "
                f"not to {host} (account {account!r})",
                "Use another bucket or I2V_JOBS_PREFIX for each provider and account",
            )

    async def _write_info(self, info: LedgerInfo, etag: str | None) -> None:
        await write_document(self.storage, info, keys.ledger_uri(self.settings), etag)


def provider_host(settings: Settings) -> str:
    """Return the host and port of the provider's API, in lower case and without credentials."""
    return urlsplit(settings.base_url).netloc.rpartition("@")[2].lower()


def _log_unreadable(_key: str, error: I2vError) -> None:
    log.warning("%s", error)


def _stamped(record: JobRecord) -> JobRecord:
    return record.model_copy(
        update={
            "format": FORMAT,
            "revision": record.revision + 1,
            "writer": secrets.token_hex(8),
            "updated_at": datetime.now(UTC),
        }
    )


async def _wait_briefly() -> None:
    await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - jitter, not a secret
