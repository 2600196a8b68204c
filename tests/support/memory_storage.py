"""S3 in memory: `MemoryStorage`, and `memory_run` on top of it, for unit tests and for thousands of simulated steps.

`tests/integration/s3/test_storage.py` holds it to the contract of the sandbox's S3. It has the methods
that the ledger, the budget and the reports call; a test injects faults by overriding `turn`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, cast

from i2v.apixo.client import ApixoClient
from i2v.errors import Conflict, FetchError, NotFound
from i2v.ledger.job import JobImage
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.ledger.run_record import RunRecord
from i2v.net.fetcher import Fetcher, FirstByte
from i2v.pipeline.context import RunContext
from i2v.pipeline.run import make_context
from i2v.request import Request
from i2v.s3.etags import EtagForm
from i2v.s3.listing import S3Entry
from i2v.s3.objects import S3Object
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from tests.support.settings import SealedSettings

T = TypeVar("T")


class MemoryBucket:
    """Objects and the server's clock, shared by any number of storages. `on_put` is called after each put."""

    def __init__(self) -> None:
        self.objects: dict[S3Uri, S3Object] = {}
        self.now = datetime.now(UTC)
        self.on_put: Callable[[S3Uri, bytes], None] = lambda _uri, _body: None

    def wait(self, seconds: float) -> None:
        """Advance the server's clock."""
        self.now += timedelta(seconds=seconds)

    def time(self) -> datetime:
        """Return the server's time, in whole seconds as in HTTP."""
        return self.now.replace(microsecond=0)

    def get(self, uri: S3Uri) -> S3Object:
        """Return an object; its times are whole seconds, as in HTTP."""
        if uri not in self.objects:
            raise NotFound(f"{uri} does not exist")
        found = self.objects[uri]
        return S3Object(
            uri=uri,
            etag=found.etag,
            size=found.size,
            last_modified=found.last_modified,
            served_at=self.time(),
            content_type=found.content_type,
            metadata=found.metadata,
            body=found.body,
        )

    def put(self, uri: S3Uri, body: bytes, content_type: str, metadata: Mapping[str, str], condition: str) -> str:
        """Write if the condition holds: an ETag, `*` for "must not exist", or empty."""
        if condition == "*" and uri in self.objects:
            raise Conflict(f"PutObject of {uri} failed: another writer was first")
        if condition not in {"", "*", self.get(uri).etag if condition not in {"", "*"} else ""}:
            raise Conflict(f"PutObject of {uri} failed: another writer was first")
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        moment = self.time()
        self.objects[uri] = S3Object(uri, etag, len(body), moment, moment, None, content_type, dict(metadata), body)
        self.on_put(uri, body)
        return etag

    def delete(self, uri: S3Uri) -> None:
        """Delete an object if it exists."""
        self.objects.pop(uri, None)

    def list(self, prefix: S3Uri, start_after: str, recursive: bool) -> list[S3Entry]:
        """List in the byte order of keys; keys with a further `/` only if `recursive`."""
        found = [
            S3Entry(uri, one.etag, one.size, one.last_modified)
            for uri, one in self.objects.items()
            if prefix.holds(uri) and uri.key > start_after and (recursive or "/" not in uri.key[len(prefix.key) :])
        ]
        return sorted(found, key=lambda entry: entry.uri.key.encode())


class MemoryStorage(Storage):
    """A `Storage` over a `MemoryBucket`. Override `turn` to delay or fail operations."""

    def __init__(self, bucket: MemoryBucket | None = None) -> None:
        self.bucket = bucket or MemoryBucket()

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Do one operation: get, head, put, put if, delete, list or copy."""
        del operation, uri
        return action()

    def close(self) -> None:
        """Do nothing; no connection is open."""

    async def call(self, uri: S3Uri, function: Callable[..., T], /, **arguments: Any) -> T:
        """Raise, since there is no boto3 client."""
        raise NotImplementedError(f"{function} of {uri}")

    async def get(self, uri: S3Uri, *, limit: int | None = None, version_id: str | None = None) -> S3Object:
        """Read an object, which must not be larger than the limit."""
        assert version_id is None
        found = await self.turn("get", uri, lambda: self.bucket.get(uri))
        assert limit is None or len(found.body) <= limit
        return found

    async def get_file(self, uri: S3Uri, path: Path) -> S3Object:
        """Copy an object to a file."""
        found = await self.get(uri)
        await asyncio.to_thread(path.write_bytes, found.body)
        return found

    async def head(self, uri: S3Uri) -> S3Object:
        """Read an object's metadata."""
        return await self.turn("head", uri, lambda: self.bucket.get(uri))

    async def put(
        self,
        uri: S3Uri,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        create: bool = False,
        if_match: str | None = None,
        etag_form: EtagForm | None = None,
    ) -> str:
        """Write an object, optionally with a condition."""
        condition = "*" if create else if_match or ""
        return await self.turn(
            "put if" if condition else "put",
            uri,
            lambda: self.bucket.put(uri, body, content_type, metadata or {}, condition),
        )

    async def copy(
        self, source: S3Uri, target: S3Uri, *, metadata: Mapping[str, str] | None = None, content_type: str = ""
    ) -> None:
        """Copy an object with its metadata and content type, or with these."""

        def action() -> None:
            found = self.bucket.get(source)
            kept = (found.content_type, found.metadata) if metadata is None else (content_type, metadata)
            self.bucket.put(target, found.body, *kept, "")

        await self.turn("copy", source, action)

    async def delete(self, uri: S3Uri) -> None:
        """Delete an object if it exists."""
        await self.turn("delete", uri, lambda: self.bucket.delete(uri))

    async def delete_many(self, uris: Sequence[S3Uri]) -> None:
        """Delete objects, one after another."""
        for uri in uris:
            await self.delete(uri)

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", recursive: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """Yield one page with all objects below a prefix."""
        yield await self.turn("list", prefix, lambda: self.bucket.list(prefix, start_after, recursive))

    async def server_time(self, prefix: S3Uri) -> datetime:
        """Return the bucket's clock."""
        del prefix
        return self.bucket.time()

    def credentials_end_within(self, seconds: int) -> bool:
        """Return that the credentials never expire."""
        del seconds
        return False

    async def presign(
        self,
        uri: S3Uri,
        *,
        seconds: int,
        version_id: str | None = None,
        content_type: str | None = None,
        disposition: str | None = None,
    ) -> str:
        """Return a URL that no test fetches."""
        del version_id, disposition
        return f"https://{uri.bucket}.example/{uri.key}?expires={seconds}"


class WatchedStorage(MemoryStorage):
    """A storage that calls `before` with each operation and its object first; what that raises is raised."""

    def __init__(self, bucket: MemoryBucket, before: Callable[[str, S3Uri], object]) -> None:
        super().__init__(bucket)
        self._before = before

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Call `before`, then do the operation."""
        self._before(operation, uri)
        return await super().turn(operation, uri, action)


class MemoryFetcher:
    """Fetches the first byte of every URL, like a stranger for whom presigned URLs work."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.answer: FirstByte | FetchError = FirstByte(206, None, "image/jpeg", None, "")

    async def fetch_first_byte(self, url: str) -> FirstByte:
        """Return the answer, or raise it."""
        self.urls.append(url)
        if isinstance(self.answer, FetchError):
            raise self.answer
        return self.answer


def memory_run(
    storage: MemoryStorage,
    run_id: str = "run-1",
    *,
    client: object = None,
    fetcher: MemoryFetcher | None = None,
    max_spend_usd: Decimal | None = None,
    label: str | None = None,
    **variables: Any,
) -> RunContext:
    """Make a run over a bucket in memory; `client` stands for the provider, `variables` are environment variables."""
    settings = SealedSettings(**{"I2V_BUCKET": "b-1", "APIXO_API_KEY": "k", **variables})
    now = datetime.now(UTC)
    record = RunRecord(run_id=run_id, started_at=now, touched_at=now, label=label)
    url_fetcher = cast("Fetcher", fetcher or MemoryFetcher())
    return make_context(
        settings, storage, cast("ApixoClient", client), url_fetcher, record, max_spend_usd=max_spend_usd
    )


async def ready(ledger: Ledger, key: str, image: JobImage, request: Request) -> VersionedRecord:
    """Create a job whose record exists and that was never paid."""
    held = await ledger.read_or_new(key, image, request)
    made = await ledger.change(held, lambda job: job)
    assert made
    return made
