"""The job records in S3: read, create, change, by conditional writes. The changes are in `i2v.ledger.transitions`.

A write carries a random writer and a rising revision, because boto3 repeats a write whose answer was lost and then gets
412 for its own: whoever reads its own writer and revision back has won.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.errors import Conflict, LedgerError, NotFound, Paused, StorageError, UsageError
from i2v.ledger import keys
from i2v.ledger.job import FORMAT, JobImage, JobRecord, JobState
from i2v.ledger.transitions import validate_change
from i2v.request import Request
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
_RECORD_NAME = re.compile(r"([0-9a-f]{64})\.json")
READ_AT_ONCE = 64
NO_ETAG = "0" * 32
"""An etag that no page of the ledger has."""
NOT_WRITTEN = ""
"""In place of an etag: the record is to be made, where none is."""
Edit = Callable[[JobRecord], JobRecord | None]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class VersionedRecord:
    """A record as it was read or written, with the etag that its next change is conditional on."""

    record: JobRecord
    etag: str
    age_seconds: float = 0.0
    """By S3's clock, at the time of reading."""


class LedgerInfo(BaseModel):
    """`jobs/ledger.json`: one ledger serves one provider and one account."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    host: str
    account: str
    paused: bool = False


class Ledger:
    """The job records of one bucket."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings

    async def read(self, key: str) -> VersionedRecord | None:
        """One record, or `None` where there is none.

        Raises:
            LedgerError: what lies there is no record that this version can read.
            StorageError: S3 did not answer well.
        """
        uri = keys.job_uri(self._settings, key)
        try:
            found = await self._storage.get(uri)
        except NotFound:
            return None
        return VersionedRecord(parse_document(JobRecord, found.body, uri), found.etag, found.age_seconds)

    async def read_or_new(
        self, key: str, image: JobImage, request: Request, label: str | None = None
    ) -> VersionedRecord:
        """The job's record; where there is none yet a new one, which its first change writes.

        Raises:
            StorageError: S3 did not answer well.
        """
        if held := await self.read(key):
            return held
        now = datetime.now(UTC)
        fresh = JobRecord(key=key, image=image, request=request, label=label, created_at=now, updated_at=now)
        return VersionedRecord(fresh, NOT_WRITTEN)

    async def change(self, held: VersionedRecord, edit: Edit) -> VersionedRecord | None:
        """Apply `edit` to the newest record until it is written; `None` where the edit no longer applies.

        Args:
            held: the record as last seen.
            edit: a pure function from `i2v.ledger.job`; it sees the newest record at every try.

        Raises:
            ValueError: the edit would break the state machine.
            StorageError: S3 did not answer well: the change may or may not be written.
        """
        while (edited := edit(held.record)) is not None:
            validate_change(held.record, edited)
            new = _stamped(edited)
            try:
                return await self._write(new, held.etag)
            except Conflict:
                held = await self._read_again(held)
                if (held.record.writer, held.record.revision) == (new.writer, new.revision):
                    return held
                await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - jitter, no secret
        return None

    async def _read_again(self, held: VersionedRecord) -> VersionedRecord:
        """Who won; after a 409 the winner's new record may not be there yet."""
        if held.etag == NOT_WRITTEN:
            return await self.read(held.record.key) or held
        return await self.read_existing(held.record.key)

    async def read_existing(self, key: str) -> VersionedRecord:
        """One record that must be there.

        Raises:
            LedgerError: it is gone, or cannot be read by this version.
            StorageError: S3 did not answer well.
        """
        held = await self.read(key)
        if held is None:
            raise LedgerError(f"There is no record of job {key[:12]}", "Records are never to be deleted; restore it")
        return held

    async def records(self, *, since: datetime | None = None) -> AsyncIterator[JobRecord]:
        """Every job record, or those written since then, in the order of their keys.

        Raises:
            LedgerError: a record cannot be read by this version.
            StorageError: S3 did not answer well.
        """
        keys: list[str] = []
        async for entry in self._storage.list(self._settings.jobs, deep=False):
            match = _RECORD_NAME.fullmatch(entry.uri.key.removeprefix(self._settings.jobs.key))
            if match and (since is None or entry.last_modified >= since):
                keys.append(match[1])
        async for held in self.read_many(keys):
            yield held.record

    async def read_many(self, keys: Sequence[str]) -> AsyncIterator[VersionedRecord]:
        """The records of these keys that exist, in their order, many at once.

        Raises:
            LedgerError: a record cannot be read by this version.
            StorageError: S3 did not answer well.
        """
        for start in range(0, len(keys), READ_AT_ONCE):
            for held in await asyncio.gather(*(self.read(key) for key in keys[start : start + READ_AT_ONCE])):
                if held:
                    yield held

    async def find_keys(self, start: str) -> list[str]:
        """The job keys that begin so; people copy the first twelve digits.

        Raises:
            StorageError: S3 did not answer well.
        """
        prefix = self._settings.jobs / start
        entries = [entry async for entry in self._storage.list(prefix, deep=False)]
        names_ = (entry.uri.key.removeprefix(self._settings.jobs.key) for entry in entries)
        return [match[1] for name in names_ if (match := _RECORD_NAME.fullmatch(name))]

    async def _write(self, record: JobRecord, over: str) -> VersionedRecord:
        uri = keys.job_uri(self._settings, record.key)
        body = record.model_dump_json(indent=1).encode()
        is_new = over == NOT_WRITTEN
        condition = None if is_new else over
        put = await self._storage.put(uri, body, content_type="application/json", create=is_new, if_match=condition)
        return VersionedRecord(record, put.etag)

    async def put_open_marker(self, image: JobImage, key: str) -> None:
        """Put the job's open mark, before its claim."""
        await self._storage.put(keys.open_marker_uri(self._settings, image.name, image.etag, key), b"")

    async def delete_open_marker(self, record: JobRecord) -> None:
        """Remove the job's open mark, after its end; it is put again where the job was opened anew meanwhile."""
        await self._storage.delete(
            keys.open_marker_uri(self._settings, record.image.name, record.image.etag, record.key)
        )
        if record.state is not JobState.STORED:
            newest = (await self.read_existing(record.key)).record
            if newest.state.is_open or newest.state is JobState.READY:  # somebody may be about to claim it
                await self.put_open_marker(newest.image, newest.key)

    async def read_info(self) -> LedgerInfo | None:
        """The ledger's own page, or `None` before its first run."""
        page, etag = await self._read_page()
        return page if etag else None

    async def _read_page(self) -> tuple[LedgerInfo, str | None]:
        """The page and its etag; a fresh page of ours and `None` where there is none yet."""
        uri = keys.ledger_uri(self._settings)
        try:
            found = await self._storage.get(uri)
        except NotFound:
            return LedgerInfo(host=provider_host(self._settings), account=self._settings.account_label), None
        return parse_document(LedgerInfo, found.body, uri), found.etag

    async def set_paused(self, paused: bool) -> bool:
        """Stop all submits of all runs within their next block, or allow them again; whether that is a change.

        Raises:
            UsageError: the ledger belongs to another provider or account.
            LedgerError: the page cannot be read by this version.
            StorageError: S3 did not answer well.
        """
        while True:
            page, etag = await self._read_page()
            self._check_owner(page)
            if page.paused == paused:
                return False
            try:
                await self._put_page(page.model_copy(update={"paused": paused}), create=etag is None, if_match=etag)
            except Conflict:
                continue
            return True

    async def raise_if_paused(self) -> None:
        """Ask whether a person has paused all submits.

        Raises:
            Paused: so it is.
            StorageError: the page cannot be read, so nothing may be submitted.
        """
        page = await self.read_info()
        if page and page.paused:
            raise Paused("All submits are paused in this ledger", "Go on with: i2v resume")

    async def prepare(self) -> LedgerInfo:
        """Make the ledger's page where there is none, and prove that the server honours conditional writes.

        Raises:
            UsageError: the ledger belongs to another provider or account.
            LedgerError: it cannot be read or written, or the server ignores conditions.
        """
        try:
            page = await self._open_page()
            self._check_owner(page)
            await self._prove_conditions(page)
        except StorageError as error:
            raise LedgerError(
                f"The ledger cannot be used, so nothing is submitted: {error.message}", error.hint
            ) from None
        return page

    async def _open_page(self) -> LedgerInfo:
        while True:
            page, etag = await self._read_page()
            if etag:
                return page
            try:
                await self._put_page(page, create=True)
            except Conflict:
                log.debug("another run makes the ledger's page just now")
                await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - jitter, no secret

    def _check_owner(self, page: LedgerInfo) -> None:
        mine = (provider_host(self._settings), self._settings.account_label)
        if (page.host, page.account) != mine:
            raise UsageError(
                f"The ledger {self._settings.jobs} belongs to {page.host} (account {page.account!r}), "
                f"not to {mine[0]} (account {mine[1]!r})",
                "Use another bucket or I2V_JOBS_PREFIX for each provider and account",
            )

    async def _prove_conditions(self, page: LedgerInfo) -> None:
        for condition, create, if_match in (("IfNoneMatch", True, None), ("IfMatch", False, NO_ETAG)):
            try:
                await self._put_page(page, create=create, if_match=if_match)
            except Conflict:
                continue
            raise LedgerError(
                f"The S3 server ignores conditional writes ({condition})",
                "Without them two runs could pay for one video; use a server that honours them",
            )

    async def _put_page(self, page: LedgerInfo, *, create: bool = False, if_match: str | None = None) -> None:
        await self._storage.put(
            keys.ledger_uri(self._settings),
            page.model_dump_json(indent=1).encode(),
            content_type="application/json",
            create=create,
            if_match=if_match,
        )


def provider_host(settings: Settings) -> str:
    """Host and port of the provider's API, as the ledger names it."""
    return urlsplit(settings.base_url).netloc.rpartition("@")[2].lower()


def _stamped(record: JobRecord) -> JobRecord:
    return record.model_copy(
        update={"revision": record.revision + 1, "writer": secrets.token_hex(8), "updated_at": datetime.now(UTC)}
    )


def parse_document(model: type[M], body: bytes, uri: S3Uri) -> M:
    """A page of the ledger; its format is looked at first.

    Raises:
        LedgerError: it is of a newer i2v, or is no such page.
    """
    try:
        data = json.loads(body)
        if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
            raise LedgerError(f"{uri} has format {data['format']}, this i2v reads up to {FORMAT}", "Upgrade i2v")
        return model.model_validate(data)
    except (ValueError, ValidationError, RecursionError) as error:
        raise LedgerError(f"{uri} cannot be read: {type(error).__name__}", "Restore it; never delete it") from None
