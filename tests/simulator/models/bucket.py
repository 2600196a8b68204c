"""A model of S3: one bucket with a clock of its own, and a `Storage` whose requests take time and fail.

A request arrives after a while, is done, and is answered after another while, whatever becomes of the process that sent
it. How one fails is drawn by `Weather`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from i2v.s3.objects import S3Object
from i2v.s3_uri import S3Uri
from tests.simulator.models.s3_request import S3Request
from tests.support.memory_storage import MemoryBucket, MemoryStorage

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World

T = TypeVar("T")
NAME = "b-1"


class Bucket(MemoryBucket):
    """The objects of the story's one bucket, by its own clock. `on_write` is called after each put and delete."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self.on_write: Callable[[str, bytes | None], None] = lambda _key, _body: None
        self._now = now

    def time(self) -> datetime:
        """Return S3's time, in whole seconds as in HTTP."""
        return self._now().replace(microsecond=0)

    def names(self) -> list[str]:
        """Return the keys of all objects."""
        return [uri.key for uri in self.objects]

    def find(self, key: str) -> S3Object | None:
        """Return an object, or `None` if there is none."""
        return self.objects.get(S3Uri(NAME, key))

    def put(self, uri: S3Uri, body: bytes, content_type: str, metadata: Mapping[str, str], condition: str) -> str:
        """Write as there."""
        etag = super().put(uri, body, content_type, metadata, condition)
        self.on_write(uri.key, body)
        return etag

    def delete(self, uri: S3Uri) -> None:
        """Delete an object if it exists."""
        if uri in self.objects:
            super().delete(uri)
            self.on_write(uri.key, None)


class SimulatedStorage(MemoryStorage):
    """The `Storage` of one process."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.bucket)
        self._world = world
        self._process = process

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Send a request, which its process may not outlive."""
        await self._process.about_to(operation, uri.key)
        answer: asyncio.Future[T] = self._world.loop.create_future()
        S3Request(self._world, self._process, operation, uri, action, answer).send()
        return await answer

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
        return await self.turn(
            "put if", uri, lambda: self.bucket.put(uri, body, content_type, metadata, if_match or "*")
        )

    async def delete_many(self, uris: Sequence[S3Uri]) -> None:
        """Delete objects in one request."""

        def action() -> None:
            for uri in uris:
                self.bucket.delete(uri)

        await self.turn("delete", uris[0], action)

    async def server_time(self, prefix: S3Uri) -> datetime:
        """Return S3's time."""
        return await self.turn("list", prefix, self.bucket.time)
