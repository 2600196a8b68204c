"""Find images without an outcome, by listings alone and in little memory; the server may list in any order.

An image version is its name and etag. It has an outcome where its folder holds a manifest, a refusal or a failure for
that etag (a video alone does not count: its manifest comes last), and is under way where an open marker names it. One
that a person has erased (`i2v forget`) is not generated either.
`i2v.recovery.backfill` decides what to generate.
"""

import re
from array import array
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from i2v.inputs.sources import IMAGE_SUFFIXES
from i2v.ledger import keys
from i2v.pipeline.context import RunContext
from i2v.s3.listing import S3Entry
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

_OUTCOME = re.compile(r"(?P<e12>[0-9a-f]{12})-[0-9a-f]{12}(?:\.refused|\.failed)?\.json")
_VERSION = re.compile(r"[0-9a-f]{12}-[0-9a-f]{12}")
BUCKETS = 65_521
"""A prime, so that versions with the same content, which end alike, spread over all buckets."""
Age = tuple[datetime, str]
"""When an image was last written, and its key: the order in which images are generated."""


class Versions:
    """A set of image versions in about 25 bytes each; a `set` of strings takes six times that.

    It keeps 64 of each version's 96 bits in hash buckets: 15 in each for a million versions. The chance that one of a
    million images is mistaken for another is one in ten million.
    """

    def __init__(self) -> None:
        self.buckets: dict[int, array[int]] = {}

    def add(self, version: str) -> None:
        """Add a version."""
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


def version_with_outcome(key: str) -> str | None:
    """Return the image version whose outcome this key under the videos prefix is; `None` for other keys."""
    name, _, file = key.rpartition("/")
    match = _OUTCOME.fullmatch(file)
    return f"{keys.digest12(name)}-{match['e12']}" if match and name else None


def image_version(entry: S3Entry, settings: Settings) -> str:
    """Return the version of a listed image."""
    return keys.version_of(keys.object_name(entry.uri, settings), entry.etag)


async def versions_with_outcome(run: RunContext) -> Versions:
    """Return all versions that are under way, erased or have an outcome. Raise `NotTried` if the run is interrupted.

    Markers are listed first: a job that ends in between loses its marker only after its outcome is written.
    """
    taken, videos = Versions(), len(run.settings.videos.key)
    markers = run.settings.jobs / "open/"
    async for page in _pages(run, markers):
        for entry in page:
            if marker := keys.OpenMarker.parse(entry.uri.key[len(markers.key) :]):
                taken.add(marker.version)
    forgotten = run.settings.jobs / keys.FORGOTTEN_PREFIX
    async for page in _pages(run, forgotten):
        for entry in page:
            if match := _VERSION.fullmatch(entry.uri.key[len(forgotten.key) :]):
                taken.add(match[0])
    async for page in _pages(run, run.settings.videos):
        for entry in page:
            if version := version_with_outcome(entry.uri.key[videos:]):
                taken.add(version)
    return taken


async def has_outcome(run: RunContext, entry: S3Entry) -> bool:
    """Return whether an image version is under way or has an outcome by now; takes two short listings."""
    version, name = image_version(entry, run.settings), keys.object_name(entry.uri, run.settings)
    places = {
        run.settings.jobs / f"open/{version}-": len(run.settings.jobs.key) + len("open/"),
        run.settings.videos / f"{name}/{version[13:]}-": len(run.settings.videos.key),
    }
    for place, skipped in places.items():
        async for found in run.storage.list(place):
            rest = found.uri.key[skipped:]
            if keys.OpenMarker.parse(rest) or version_with_outcome(rest) == version:
                return True
    return False


@dataclass
class MissingSearch:
    """Finds the images without an outcome that were last written from `since` until `until`, oldest first, in batches.

    `taken` has the versions that are under way or have an outcome. No image is returned twice.
    """

    run: RunContext
    taken: Versions
    since: datetime
    until: datetime
    reserved: list[S3Uri] = field(default_factory=list)
    """Objects under the images prefix whose keys start with a reserved name."""
    unsettled: int = 0
    """Images that are younger than `until`: they are left to the door."""
    _after: Age | None = None

    async def next_batch(self, most: int) -> list[S3Entry]:
        """Return the next oldest, at most `most`, after listing all images again. Raise `NotTried` on an interrupt."""
        found: list[S3Entry] = []
        self.reserved, self.unsettled = [], 0
        async for page in _pages(self.run, self.run.settings.images):
            found += filter(self._is_missing, page)
            if len(found) >= 2 * most:
                found = _oldest(found, most)
        found = _oldest(found, most)
        self._after = _age(found[-1]) if found else self._after
        return found

    def _is_missing(self, entry: S3Entry) -> bool:
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


def _age(entry: S3Entry) -> Age:
    return entry.last_modified, entry.uri.key


def _oldest(entries: Collection[S3Entry], most: int) -> list[S3Entry]:
    return sorted(entries, key=_age)[:most]


async def _pages(run: RunContext, prefix: S3Uri) -> AsyncIterator[Sequence[S3Entry]]:
    async with aclosing(run.storage.pages(prefix)) as pages:
        async for page in pages:
            run.brake.check_interrupt()
            yield page
