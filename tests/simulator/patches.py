"""What the library takes from its machine, taken from the simulated world instead: clocks, chance, decoders, clients.

`install` replaces module attributes of `i2v` for the rest of the process; the library itself knows nothing of it. Add a
seam here.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib
import pkgutil
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import i2v
from i2v.errors import BrokenVideo, Refused, StorageError
from i2v.media.images import ImageFacts
from i2v.media.video_facts import VideoFacts
from i2v.s3.versions import NotDeleted, ObjectVersion
from i2v.s3_uri import S3Uri
from tests.simulator.virtual_time import OWNER

if TYPE_CHECKING:
    from tests.simulator.world import World

UTC = dt.UTC
BAD_IMAGE, BROKEN_VIDEO = b"not an image", b"\0half a video"


class _Current:
    world: World


CURRENT = _Current()
"""The world that is played now."""


def wall_clock() -> dt.datetime:
    """Return the time by the current process's clock."""
    owner = OWNER.get()
    return CURRENT.world.now + dt.timedelta(seconds=owner.skew if owner else 0.0)


class _AnyDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, dt.datetime)


class SimulatedDatetime(dt.datetime, metaclass=_AnyDatetime):
    """`datetime` with the simulated clock."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        """Return the time by the current process's clock."""
        return wall_clock().astimezone(tz) if tz is not UTC else wall_clock()


class _Time:
    """The module `time` with simulated clocks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return CURRENT.world.loop.time()

    def clock_gettime(self, _clock: int) -> float:
        return CURRENT.world.loop.time()

    def time(self) -> float:
        return wall_clock().timestamp()


class _Random:
    """The module `random`, seeded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(CURRENT.world.library_random, name)


class _Secrets:
    """The module `secrets`, seeded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(secrets, name)

    def token_hex(self, nbytes: int = 32) -> str:
        return CURRENT.world.library_random.randbytes(nbytes).hex()


class SimulatedDecoder:
    """Knows the images and videos of the simulated world."""

    async def check_image(self, body: bytes, label: str) -> ImageFacts:
        """Validate an image of the simulated bucket."""
        if body.startswith(BAD_IMAGE):
            raise Refused(f"{label} is corrupt", "Upload another", "corrupt")
        return ImageFacts(sha256=hashlib.sha256(body).hexdigest(), size=len(body), format="JPEG", width=640, height=480)

    async def examine_video(self, path: Path, sha256: str, _fingerprint: str) -> tuple[VideoFacts, bytes]:
        """Examine a downloaded video of the simulated provider."""
        body = path.read_bytes()  # noqa: ASYNC240 - a few bytes
        if body.startswith(BROKEN_VIDEO):
            raise BrokenVideo("the video is truncated")
        facts = VideoFacts(width=1344, height=768, seconds=6.0, frames=144, codec="h264", size=len(body), sha256=sha256)
        return facts, b"poster"

    async def salvage(self, path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
        """Return what is known of a damaged video."""
        size = path.stat().st_size  # noqa: ASYNC240 - one call
        return VideoFacts(width=0, height=0, seconds=0, frames=0, codec="", size=size, sha256=sha256), b"poster"


async def list_versions(storage: Any, prefix: S3Uri, *, recursive: bool = True) -> AsyncIterator[ObjectVersion]:
    """Yield the objects of a bucket without versions."""
    async for one in storage.list(prefix, recursive=recursive):
        yield ObjectVersion(one.uri, "", True, one.etag)


async def delete_versions(storage: Any, versions: Sequence[ObjectVersion]) -> list[NotDeleted]:
    """Delete them; name those for which S3 fails."""
    left = []
    for one in versions:
        try:
            await storage.delete(one.uri)
        except StorageError as error:
            left.append(NotDeleted(one.uri, str(error)))
    return left


def install() -> None:
    """Patch the whole library, once."""
    replacements: dict[int, Any] = {
        id(dt.datetime): SimulatedDatetime,
        id(time): _Time(),
        id(random): _Random(),
        id(secrets): _Secrets(),
    }
    for module in _library_modules():
        for name, value in list(vars(module).items()):
            if id(value) in replacements:
                setattr(module, name, replacements[id(value)])
    for module in ("i2v.s3.versions", "i2v.erasure.search"):
        _replace(module, "list_versions", list_versions)
    _replace("i2v.s3.versions", "delete_versions", delete_versions)
    _replace("i2v.pipeline.run", "DECODER", SimulatedDecoder())
    _replace("i2v.pipeline.run", "limit_malloc_arenas", lambda: None)
    _replace("i2v.pipeline.run", "ApixoClient", lambda _settings: OWNER.get().client)
    _replace("i2v.pipeline.run", "Fetcher", lambda _settings: OWNER.get().fetcher)


def _replace(module: str, name: str, value: object) -> None:
    assert hasattr(sys.modules[module], name), f"{module} has no {name}"
    setattr(sys.modules[module], name, value)


def _library_modules() -> list[Any]:
    skipped = ("i2v.cli", "i2v.doctor", "i2v.media.videos")
    names = [found.name for found in pkgutil.walk_packages(i2v.__path__, "i2v.") if not found.name.startswith(skipped)]
    return [importlib.import_module(name) for name in names]
