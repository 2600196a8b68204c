"""A model of S3: one bucket with a clock of its own, and a `Storage` whose requests take time and fail.

A request arrives after a while, is done, and is answered after another while, whatever becomes of the process that sent
it. How one fails is drawn by `Weather`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from i2v.errors import Conflict, NotFound
from i2v.s3.etags import EtagForm
from i2v.s3.listing import S3Entry
from i2v.s3.objects import S3Object
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from tests.simulator.models.s3_request import S3Request

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World

T = TypeVar("T")


class Bucket:
    """The objects of one bucket, and what was ever written to it."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.objects: dict[str, S3Object] = {}
        self.on_write: Callable[[str, bytes | None], None] = lambda _key, _body: None
        self._now = now

    def time(self) -> datetime:
        """Return S3's time, in whole seconds as in HTTP."""
        return self._now().replace(microsecond=0)

    def get(self, uri: S3Uri) -> S3Object:
        """Return an object. Raise `NotFound` if there is none."""
        found = self.objects.get(uri.key)
        if found is None:
            raise NotFound(f"{uri} does not exist")
        return S3Object(
            uri, found.etag, found.size, found.last_modified, self.time(), None, "", found.metadata, found.body
        )

    def put(self, uri: S3Uri, body: bytes, metadata: Mapping[str, str], condition: str) -> str:
        """Write if the condition holds: an ETag, `*` for "must not exist", or empty."""
        old = self.objects.get(uri.key)
        if condition and old is None and condition != "*":
            raise NotFound(f"{uri} does not exist")
        if condition and old is not None and condition != old.etag:
            raise Conflict(f"PutObject of {uri}: 412")
        etag, now = hashlib.md5(body, usedforsecurity=False).hexdigest(), self.time()
        self.objects[uri.key] = S3Object(uri, etag, len(body), now, now, None, "", dict(metadata), body)
        self.on_write(uri.key, body)
        return etag

    def delete(self, uri: S3Uri) -> None:
        """Delete an object if it exists."""
        if self.objects.pop(uri.key, None):
            self.on_write(uri.key, None)

    def list(self, prefix: S3Uri, start_after: str, *, recursive: bool) -> list[S3Entry]:
        """List by key; keys with a further `/` only if `recursive`."""
        skipped = len(prefix.key)
        return [
            S3Entry(S3Uri(prefix.bucket, key), one.etag, one.size, one.last_modified)
            for key, one in sorted(self.objects.items())
            if key.startswith(prefix.key) and key > start_after and (recursive or "/" not in key[skipped:])
        ]


class SimulatedStorage(Storage):
    """The `Storage` of one process."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._bucket = world.bucket

    def close(self) -> None:
        """Do nothing; no connection is open."""

    def credentials_end_within(self, seconds: int) -> bool:
        """Say that they never end."""
        return False

    async def call(self, uri: S3Uri, function: Callable[..., T], /, **arguments: Any) -> T:
        """Raise, since there is no boto3 client."""
        raise NotImplementedError(f"{function} of {uri}")

    async def _request(self, kind: str, uri: S3Uri, action: Callable[[], T]) -> T:
        await self._process.about_to(kind, uri.key)
        answer: asyncio.Future[T] = self._world.loop.create_future()
        S3Request(self._world, self._process, kind, uri, action, answer).send()
        return await answer

    async def get(self, uri: S3Uri, *, limit: int | None = None, version_id: str | None = None) -> S3Object:
        """Read an object."""
        return await self._request("get", uri, lambda: self._bucket.get(uri))

    async def head(self, uri: S3Uri) -> S3Object:
        """Read an object's metadata."""
        return await self._request("head", uri, lambda: self._bucket.get(uri))

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
        kind = "put if" if condition else "put"
        return await self._request(kind, uri, lambda: self._bucket.put(uri, body, metadata or {}, condition))

    async def put_file(
        self,
        uri: S3Uri,
        path: Path,
        *,
        sha256: str,
        content_type: str,
        metadata: Mapping[str, str],
        if_match: str | None = None,
    ) -> str:
        """Write a file if there is no object, or over the version with etag `if_match`."""
        body = path.read_bytes()  # noqa: ASYNC240 - a few bytes
        assert hashlib.sha256(body).hexdigest() == sha256
        return await self._request("put if", uri, lambda: self._bucket.put(uri, body, metadata, if_match or "*"))

    async def copy(self, source: S3Uri, target: S3Uri, **conditions: Any) -> None:
        """Copy an object with its metadata."""

        def action() -> None:
            found = self._bucket.get(source)
            self._bucket.put(target, found.body, found.metadata, "")

        await self._request("copy", source, action)

    async def delete(self, uri: S3Uri) -> None:
        """Delete an object if it exists."""
        await self._request("delete", uri, lambda: self._bucket.delete(uri))

    async def delete_many(self, uris: Sequence[S3Uri]) -> None:
        """Delete objects in one request."""

        def action() -> None:
            for uri in uris:
                self._bucket.delete(uri)

        await self._request("delete", uris[0], action)

    async def server_time(self, prefix: S3Uri) -> datetime:
        """Return S3's time."""
        return await self._request("list", prefix, self._bucket.time)

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", recursive: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """Yield one page with all objects below a prefix."""
        yield await self._request("list", prefix, lambda: self._bucket.list(prefix, start_after, recursive=recursive))

    async def presign(
        self, uri: S3Uri, *, seconds: int, version_id: str | None = None, content_type: str | None = None
    ) -> str:
        """Return a URL by which the simulated provider finds the object."""
        return f"https://{uri.bucket}.example/{uri.key}?expires={seconds}"
