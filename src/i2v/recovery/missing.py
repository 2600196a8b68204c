"""Which images have no answer: found from listings alone, whatever order a server lists in, in little memory.

An image version is its name and etag. It has an answer where its folder holds a manifest, a refusal or a failure for
that etag (a video alone is none: its manifest comes last), and is under way where an open mark names it. What is then
done about the others is in `i2v.recovery.backfill`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from i2v.inputs.sources import IMAGE_SUFFIXES
from i2v.ledger import keys
from i2v.pipeline.run import Run
from i2v.s3.listing import S3Entry
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

_ANSWER = re.compile(r"(?P<e12>[0-9a-f]{12})-[0-9a-f]{12}(?:\.refused|\.failed)?\.json")
_MARK = re.compile(r"(?P<version>[0-9a-f]{12}-[0-9a-f]{12})-[0-9a-f]{64}")
BUCKETS = 65_521
"""A prime, so that images of one content, whose versions end alike, lie on all buckets."""
AGE = tuple[datetime, str]
"""When an image was last written, and its key: the order in which images are taken."""


def version_of(name: str, etag: str) -> str:
    """`<n12>-<e12>`: an image version as its open mark names it."""
    return f"{keys.digest12(name)}-{keys.digest12(etag)}"


class Versions:
    """A set of image versions in some 25 bytes each; a `set` of texts takes six times that.

    Of each version's 96 bits 64 are kept, on buckets that are searched from end to end: fifteen on each for a million
    versions. The chance that one of a million images is taken for another is one in ten million.
    """

    def __init__(self) -> None:
        self.buckets: dict[int, array[int]] = {}

    def add(self, version: str) -> None:
        """Put a version in."""
        bits = self._bits(version)
        bucket = self.buckets.get(bits % BUCKETS)
        if bucket is None:
            self.buckets[bits % BUCKETS] = array("Q", (bits,))
        elif bits not in bucket:
            bucket.append(bits)

    def __contains__(self, version: str) -> bool:
        bits = self._bits(version)
        return bits in self.buckets.get(bits % BUCKETS, ())

    def __len__(self) -> int:
        return sum(map(len, self.buckets.values()))

    def _bits(self, version: str) -> int:
        return int(version[:12], 16) << 16 ^ int(version[13:], 16)


def answered_version(key: str) -> str | None:
    """The image version that an object below the videos prefix is an answer to; None for what is no answer."""
    name, _, file = key.rpartition("/")
    match = _ANSWER.fullmatch(file)
    return f"{keys.digest12(name)}-{match['e12']}" if match and name else None


def image_version(entry: S3Entry, settings: Settings) -> str:
    """The version of an image that a listing told of."""
    return version_of(keys.object_name(entry.uri, settings), entry.etag)


async def taken_versions(run: Run) -> Versions:
    """All versions that are under way or have an answer.

    Marks come first: a job that ends meanwhile loses its mark only after its answer is there.

    Raises:
        NotTried: the run was interrupted.
        StorageError: S3 could not be listed.
    """
    taken, videos = Versions(), len(run.settings.videos.key)
    marks = run.settings.jobs / "open/"
    async for page in _pages(run, marks):
        for entry in page:
            if match := _MARK.fullmatch(entry.uri.key[len(marks.key) :]):
                taken.add(match["version"])
    async for page in _pages(run, run.settings.videos):
        for entry in page:
            if version := answered_version(entry.uri.key[videos:]):
                taken.add(version)
    return taken


async def is_taken(run: Run, entry: S3Entry) -> bool:
    """Whether an image version is under way or has an answer by now, by two short listings.

    Raises:
        StorageError: S3 could not be listed.
    """
    version, name = image_version(entry, run.settings), keys.object_name(entry.uri, run.settings)
    places = {
        run.settings.jobs / f"open/{version}-": len(run.settings.jobs.key) + len("open/"),
        run.settings.videos / f"{name}/{version[13:]}-": len(run.settings.videos.key),
    }
    for place, skipped in places.items():
        async for found in run.storage.list(place):
            rest = found.uri.key[skipped:]
            if _MARK.fullmatch(rest) or answered_version(rest) == version:
                return True
    return False


@dataclass
class Search:
    """The images that are missing an answer, oldest first, a batch at a time.

    Args:
        run: the flow run.
        taken: what is under way or has an answer.
        since: what was last written before is left alone; `until` likewise what was written after.
        until: see `since`.
    """

    run: Run
    taken: Versions
    since: datetime
    until: datetime
    reserved: list[S3Uri] = field(default_factory=list)
    """Objects under the images prefix whose names begin like our own."""
    unsettled: int = 0
    """Images that are younger than `until`, and so left to the door."""
    _after: AGE | None = None

    async def next_batch(self, most: int) -> list[S3Entry]:
        """The next oldest, at most so many; each batch lists all images anew, and none comes twice.

        Raises:
            NotTried: the run was interrupted.
            StorageError: S3 could not be listed.
        """
        found: list[S3Entry] = []
        self.reserved, self.unsettled = [], 0
        async for page in _pages(self.run, self.run.settings.images):
            found += filter(self._is_wanted, page)
            if len(found) >= 2 * most:
                found = _oldest(found, most)
        found = _oldest(found, most)
        self._after = _age(found[-1]) if found else self._after
        return found

    def _is_wanted(self, entry: S3Entry) -> bool:
        if not entry.uri.key.lower().endswith(IMAGE_SUFFIXES) or entry.last_modified < self.since:
            return False
        if entry.uri.key.startswith(keys.RESERVED, len(self.run.settings.images.key)):
            self.reserved.append(entry.uri)
            return False
        if entry.last_modified > self.until:
            self.unsettled += 1
            return False
        is_new = self._after is None or _age(entry) > self._after
        return is_new and image_version(entry, self.run.settings) not in self.taken


def _age(entry: S3Entry) -> AGE:
    return entry.last_modified, entry.uri.key


def _oldest(entries: Collection[S3Entry], most: int) -> list[S3Entry]:
    return sorted(entries, key=_age)[:most]


async def _pages(run: Run, prefix: S3Uri) -> AsyncIterator[Sequence[S3Entry]]:
    async with aclosing(run.storage.pages(prefix)) as pages:
        async for page in pages:
            run.refuse_if_interrupted()
            yield page
