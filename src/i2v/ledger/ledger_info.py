"""`jobs/ledger.json`: the one provider and account that a ledger serves, its pause flag, and its proven buckets.

`ForgottenImages` are the markers of erased images, `jobs/forgotten/<n12>-<e12>`: such an image gets a video only if it
is named. A run puts its open marker before it looks for this one, and `i2v forget` puts this one before it looks for
open markers: one of the two sees the other. In a ledger that never had one, runs look for none.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from i2v.advised_commands import command
from i2v.errors import Conflict, LedgerError, NotFound, Paused, StorageError, UsageError
from i2v.ledger import keys
from i2v.ledger.documents import read_document, wait_briefly, write_document
from i2v.ledger.job import FORMAT
from i2v.s3.preconditions import prove_conditional_writes
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
PAUSE_RECHECK_SECONDS = 5.0
"""A pause stops submits within 10 s: this, and the time of one request."""


class LedgerInfo(BaseModel):
    """What the document says."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    host: str
    account: str
    paused: bool = False
    fetched_from: tuple[str, ...] = ()
    """The buckets from which the provider has fetched an image."""
    has_forgotten: bool = False
    """Whether an image was ever erased, so that runs look for its marker before they pay."""


class LedgerInfoStore:
    """Reads and changes the document. Every method can raise `StorageError`.

    Changes raise `UsageError` if the ledger belongs to another provider or account.
    """

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._lock = asyncio.Lock()
        self._recent: LedgerInfo | None = None
        self._recent_at = float("-inf")

    async def read(self) -> LedgerInfo | None:
        """Return the document, or `None` before the first run."""
        info, etag = await self._read()
        return info if etag else None

    async def _read(self) -> tuple[LedgerInfo, str | None]:
        """Return the document and its etag; if there is none, a new one and `None`."""
        if found := await read_document(self._storage, LedgerInfo, keys.ledger_uri(self._settings)):
            return found.content, found.etag
        return LedgerInfo(host=provider_host(self._settings), account=self._settings.account_label), None

    async def set_paused(self, paused: bool) -> bool:
        """Pause or resume all submits; return whether the flag changed."""
        return await self._change(lambda info: info.model_copy(update={"paused": paused}))

    async def add_fetched_bucket(self, bucket: str) -> None:
        """Remember for good that the provider can fetch from this bucket."""
        await self._change(
            lambda info: info.model_copy(update={"fetched_from": tuple(dict.fromkeys((*info.fetched_from, bucket)))})
        )

    async def _change(self, edit: Callable[[LedgerInfo], LedgerInfo]) -> bool:
        while True:
            info, etag = await self._read()
            self._check_owner(info)
            changed = edit(info)
            if changed == info:
                return False
            with contextlib.suppress(Conflict):
                await self._write(changed, etag)
                return True

    async def raise_if_paused(self) -> None:
        """Raise `Paused` if a person has paused all submits."""
        info = await self.read()
        if info and info.paused:
            raise _paused()

    async def check_pause(self) -> None:
        """Raise as `raise_if_paused`, but read the flag at most every `PAUSE_RECHECK_SECONDS`."""
        info = await self._read_recent()
        if info and info.paused:
            self._recent_at = float("-inf")
            raise _paused()

    async def has_forgotten(self) -> bool:
        """Return whether an image was ever erased; what another process did counts after `PAUSE_RECHECK_SECONDS`."""
        info = await self._read_recent()
        return info is not None and info.has_forgotten

    async def set_forgotten(self) -> bool:
        """Let runs look for the markers of erased images; return whether they did not before."""
        changed = await self._change(lambda info: info.model_copy(update={"has_forgotten": True}))
        self._recent_at = float("-inf")
        return changed

    async def _read_recent(self) -> LedgerInfo | None:
        async with self._lock:
            started = time.monotonic()
            if started - self._recent_at >= PAUSE_RECHECK_SECONDS:
                self._recent, self._recent_at = await self.read(), started
            return self._recent

    async def prepare(self) -> LedgerInfo:
        """Create the document if it is missing, and verify that the server honors conditional writes.

        Raise `LedgerError` if the ledger cannot be used.
        """
        try:
            info = await self._read_or_create()
            self._check_owner(info)
            await prove_conditional_writes(self._storage, keys.ledger_uri(self._settings))
        except StorageError as error:
            message = f"The ledger cannot be used, so nothing is submitted: {error.message}"
            raise LedgerError(message, error.hint) from None
        return info

    async def _read_or_create(self) -> LedgerInfo:
        while True:
            info, etag = await self._read()
            if etag and info.format == FORMAT:
                return info
            try:  # an older i2v that meets the new format stops before it pays
                await self._write(info.model_copy(update={"format": FORMAT}), etag)
            except Conflict:
                log.debug("another run is creating jobs/ledger.json")
                await wait_briefly()

    def _check_owner(self, info: LedgerInfo) -> None:
        host, account = provider_host(self._settings), self._settings.account_label
        if (info.host, info.account) != (host, account):
            raise UsageError(
                f"The ledger {self._settings.jobs} belongs to {info.host} (account {info.account!r}), "
                f"not to {host} (account {account!r})",
                "Use another bucket or I2V_JOBS_PREFIX for each provider and account",
            )

    async def _write(self, info: LedgerInfo, etag: str | None) -> None:
        await write_document(self._storage, info, keys.ledger_uri(self._settings), etag)


class ForgottenMarker(BaseModel):
    """When an image version was erased."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    at: datetime


class ForgottenImages:
    """The markers of one ledger, by image version: `keys.version_of`. Every method can raise `StorageError`."""

    def __init__(self, storage: Storage, settings: Settings, info: LedgerInfoStore) -> None:
        self._storage = storage
        self._settings = settings
        self._info = info

    async def add(self, version: str) -> bool:
        """Put a marker; return `False` if there is one, whose time stays."""
        body = ForgottenMarker(at=datetime.now(UTC)).model_dump_json().encode()
        uri = keys.forgotten_uri(self._settings, version)
        try:
            await self._storage.put(uri, body, content_type="application/json", create=True)
        except Conflict:
            return False
        return True

    async def since(self, version: str) -> datetime | None:
        """Return when an image version was erased, by S3's clock; `None` if it was not."""
        if not await self._info.has_forgotten():
            return None
        try:
            return (await self._storage.head(keys.forgotten_uri(self._settings, version))).last_modified
        except NotFound:
            return None

    async def remove(self, version: str) -> None:
        """Delete a marker, because a person named the image again."""
        await self._storage.delete(keys.forgotten_uri(self._settings, version))


def _paused() -> Paused:
    return Paused("All submits are paused in this ledger", f"Resume with: {command('resume')}")


def provider_host(settings: Settings) -> str:
    """Return the host and port of the provider's API, in lower case and without credentials."""
    return urlsplit(settings.base_url).netloc.rpartition("@")[2].lower()
