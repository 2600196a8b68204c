"""Which images have no result, by object names alone: the rules, and a property test against a plain dict."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v.errors import NotTried
from i2v.ledger import keys
from i2v.media.images import ImageRef
from i2v.recovery.images_without_video import (
    MissingSearch,
    Versions,
    has_outcome,
    version_with_outcome,
    versions_with_outcome,
)
from i2v.s3.listing import S3Entry
from i2v.s3.objects import S3Object
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryStorage, memory_run

BUCKET = "b-1"
OLD, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
RUN = memory_run(MemoryStorage())
REQUEST, JOB = "0123456789ab", "c" * 64
NAMES = (
    "x.jpg",
    "x.jpg.png",
    "x.jpg/y.jpg",
    "x.jpg/0123456789ab-0123456789ab.jpg",
    "0123456789ab-0123456789ab.json.jpg",
    "Zo\u00eb.jpg",
    "Zoe\u0308.jpg",
    "a b+c%20d.jpg",
    "a b c d.jpg",
    "line\nend.PNG",
    "//x.jpeg",
    ".jpg",
    "e\u0301" * 298 + "end.jpg",
    "e\u0301" * 338 + "e.jpg",
)
"""The second to last name is its folder's name; the last has 1,019 bytes, so its folder is named after a digest."""


@dataclass(frozen=True)
class Version:
    """A version of an image: its name and etag."""

    name: str
    etag: str

    @property
    def folder(self) -> str:
        """Its output folder, as `i2v.ledger.keys` names it."""
        return keys.image_name(ImageRef(uri=S3Uri(BUCKET, f"images/{self.name}")), RUN.settings)

    def output(self, suffix: str) -> str:
        """Return the key of an output."""
        return f"videos/{self.folder}/{keys.digest12(self.etag)}-{REQUEST}{suffix}"

    @property
    def marker(self) -> str:
        """The key of its open marker."""
        return f"jobs/open/{keys.version_of(self.folder, self.etag)}-{JOB}"


def bucket(images: dict[Version, datetime], others: Iterable[str] = ()) -> MemoryStorage:
    """Return a bucket with these images and other keys."""
    storage = MemoryStorage()
    keys = {f"images/{image.name}": (image.etag, at) for image, at in images.items()} | dict.fromkeys(
        others, ("0" * 32, OLD)
    )
    for key, (etag, at) in keys.items():
        uri = S3Uri(BUCKET, key)
        storage.bucket.objects[uri] = S3Object(uri, etag, 1, at, at)
    return storage


def missing(storage: MemoryStorage, most: int = 1000, *, since: datetime = OLD, until: datetime = NOW) -> list[str]:
    """Return the names of all missing images, searched in batches of at most `most`."""

    async def find() -> list[str]:
        run = memory_run(storage)
        search = MissingSearch(run, await versions_with_outcome(run), since, until)
        found: list[S3Entry] = []
        while batch := await search.next_batch(most):
            found += batch
        return [entry.uri.key.removeprefix("images/") for entry in found]

    return asyncio.run(find())


def missing_batch(storage: MemoryStorage, most: int) -> list[S3Entry]:
    """Return the first batch."""
    search = MissingSearch(memory_run(storage), Versions(), OLD, NOW)
    return asyncio.run(search.next_batch(most))


VERSIONS = st.builds(
    Version, st.sampled_from(NAMES) | st.text("ax/.", max_size=8).map("{}.jpg".format), st.sampled_from("12")
)
KINDS = st.sampled_from([".mp4", ".jpg", ".json", ".refused.json", ".failed.json", "marker"])


@given(
    images=st.dictionaries(VERSIONS, st.integers(0, 3).map(lambda day: OLD + timedelta(days=day)), max_size=12),
    outputs=st.lists(st.tuples(VERSIONS, KINDS), max_size=12),
    most=st.integers(1, 4),
)
def test_images_without_a_result_and_a_marker_are_missing(
    images: dict[Version, datetime], outputs: list[tuple[Version, str]], most: int
) -> None:
    """For any names, etags, outputs and markers the search finds what a plain dict gives, oldest first, each once."""
    newest = {version.name: (version, at) for version, at in images.items()}
    others = [version.marker if kind == "marker" else version.output(kind) for version, kind in outputs]
    done = {version for version, kind in outputs if kind == "marker" or kind.endswith(".json")}
    expected = sorted((at, version.name) for version, at in newest.values() if version not in done)
    assert missing(bucket(dict(newest.values()), others), most) == [name for _, name in expected]


@pytest.mark.parametrize(
    "key",
    [
        "x.jpg/0123456789ab-0123456789ab.mp4",
        "x.jpg/0123456789ab-0123456789ab.jpg",
        "x.jpg/0123456789ab-0123456789ab.json.txt",
        "x.jpg/0123456789ab-0123456789ab.json/x",
        "x.jpg/0123456789AB-0123456789ab.json",
        "x.jpg/0123456789ab.json",
        "0123456789ab-0123456789ab.json",
    ],
)
def test_other_keys_are_not_results(key: str) -> None:
    """A video without its manifest, a poster or an unrelated object is no result."""
    assert version_with_outcome(key) is None


def test_a_replaced_image_is_missing_again() -> None:
    """A result of an earlier etag does not count for the current image."""
    before, now = Version("x.jpg", "1"), Version("x.jpg", "2")
    assert missing(bucket({now: OLD}, [before.output(".json"), before.marker])) == ["x.jpg"]


def test_only_images_in_the_time_range_are_missing() -> None:
    """Images before `since` or after `until` are left out; both ends are inclusive."""
    images = {Version(f"{day}.jpg", "1"): OLD + timedelta(days=day) for day in range(5)}
    since, until = OLD + timedelta(days=1), OLD + timedelta(days=3)
    assert missing(bucket(images), since=since, until=until) == ["1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    "name", ["x.jpg.txt", "x.jpg.part", "x.gif", "folder/", "_s3/b/x.jpg", "_url/h/x.jpg", "_long/x.jpg"]
)
def test_other_objects_are_never_missing(name: str) -> None:
    """Sidecars, other file types, folders and reserved names are not images."""
    assert missing(bucket({Version(name, "1"): OLD})) == []


def test_reserved_and_recent_images_are_counted() -> None:
    """Images with reserved names are listed, and recent ones are counted."""
    storage = bucket({Version("_s3/b/x.jpg", "1"): OLD, Version("new.jpg", "1"): NOW + timedelta(seconds=1)})
    search = MissingSearch(memory_run(storage), Versions(), OLD, NOW)
    assert asyncio.run(search.next_batch(10)) == []
    assert ([uri.key for uri in search.reserved], search.unsettled) == (["images/_s3/b/x.jpg"], 1)


@pytest.mark.parametrize("kind", [".json", ".refused.json", ".failed.json", "marker"])
def test_a_second_check_finds_new_results(kind: str) -> None:
    """A result or marker put after the listing is found; one of another etag or of a similar name is not."""
    image, replacement = Version("x.jpg", "1"), Version("x.jpg", "2")
    similar = Version(f"x.jpg/{keys.digest12('1')}-x.jpg", "1")
    entry = S3Entry(S3Uri(BUCKET, "images/x.jpg"), "1", 1, OLD)
    for version, found in ((image, True), (replacement, False), (similar, False)):
        key = version.marker if kind == "marker" else version.output(kind)
        assert asyncio.run(has_outcome(memory_run(bucket({image: OLD}, [key])), entry)) is found


def test_an_interrupted_search_stops_listing() -> None:
    """Ctrl-C ends the search within one page."""
    run = memory_run(bucket({Version("x.jpg", "1"): OLD}, [Version("x.jpg", "1").output(".json")]))
    search = MissingSearch(run, Versions(), OLD, NOW)
    run.brake.interrupt()
    for listing in (versions_with_outcome(run), search.next_batch(1)):
        with pytest.raises(NotTried):
            asyncio.run(listing)


class ManyImages(MemoryStorage):
    """A bucket that lists this many images without storing them."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self._images = images

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", recursive: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """List the newest image first, so that each is older than all before it."""
        del start_after, recursive
        for start in range(0, self._images if prefix.key == "images/" else 0, 1000):
            yield [
                S3Entry(prefix / f"{number:07}.jpg", f"{number:032}", 1, NOW - timedelta(seconds=number))
                for number in range(start, start + 1000)
            ]


def test_the_search_keeps_only_one_batch() -> None:
    """Four times as many missing images take no more memory to search."""
    peaks = []
    for images in (2_000, 8_000):
        tracemalloc.start()
        try:
            assert len(missing_batch(ManyImages(images), 100)) == 100
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2


@pytest.mark.parametrize("by", ["name", "etag"])
def test_versions_take_little_memory(by: str) -> None:
    """A million versions take under 34 MB and are fast to search, even if all share one etag or one name."""
    pairs = [(str(number), "1") if by == "name" else ("x.jpg", str(number)) for number in range(100_000)]
    versions = [keys.version_of(*each) for each in pairs]
    tracemalloc.start()
    try:
        index, before = Versions(), tracemalloc.get_traced_memory()[0]
        for version in versions:
            index.add(version)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(index) == 100_000
    assert grown < 10_000_000 + 24 * 100_000
    assert all(version in index for version in versions)
    assert keys.version_of("x.jpg", "y") not in index
    assert max(map(len, index.buckets.values())) < 20
