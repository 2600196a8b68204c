"""Which images have no answer, by names alone: the rules, and the same as a plain dict would say for any bucket."""

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
from i2v.recovery.missing import (
    MissingSearch,
    Versions,
    has_outcome,
    version_of,
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
R12, JOB = "0123456789ab", "c" * 64
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
"""The last but one has a folder by its name, the last, of 1,019 bytes, one by its digest."""


@dataclass(frozen=True)
class Version:
    """An image as it was at a time: what it is called, and its etag."""

    name: str
    etag: str

    @property
    def folder(self) -> str:
        """Where its answers lie, as `i2v.ledger.keys` says."""
        return keys.image_name(ImageRef(uri=S3Uri(BUCKET, f"images/{self.name}")), RUN.settings)

    def answer(self, ending: str) -> str:
        """The key of an answer."""
        return f"videos/{self.folder}/{keys.digest12(self.etag)}-{R12}{ending}"

    @property
    def mark(self) -> str:
        """The key of its open mark."""
        return f"jobs/open/{version_of(self.folder, self.etag)}-{JOB}"


def bucket(images: dict[Version, datetime], others: Iterable[str] = ()) -> MemoryStorage:
    """A bucket with these images and other keys."""
    storage = MemoryStorage()
    keys = {f"images/{image.name}": (image.etag, at) for image, at in images.items()} | dict.fromkeys(
        others, ("0" * 32, OLD)
    )
    for key, (etag, at) in keys.items():
        uri = S3Uri(BUCKET, key)
        storage.bucket.objects[uri] = S3Object(uri, etag, 1, at, at)
    return storage


def missing(storage: MemoryStorage, most: int = 1000, *, since: datetime = OLD, until: datetime = NOW) -> list[str]:
    """The names of the missing, in batches of so many until there are no more."""

    async def find() -> list[str]:
        run = memory_run(storage)
        search = MissingSearch(run, await versions_with_outcome(run), since, until)
        found: list[S3Entry] = []
        while batch := await search.next_batch(most):
            found += batch
        return [entry.uri.key.removeprefix("images/") for entry in found]

    return asyncio.run(find())


def missing_batch(storage: MemoryStorage, most: int) -> list[S3Entry]:
    """The first batch."""
    search = MissingSearch(memory_run(storage), Versions(), OLD, NOW)
    return asyncio.run(search.next_batch(most))


VERSIONS = st.builds(
    Version, st.sampled_from(NAMES) | st.text("ax/.", max_size=8).map("{}.jpg".format), st.sampled_from("12")
)
KINDS = st.sampled_from([".mp4", ".jpg", ".json", ".refused.json", ".failed.json", "mark"])


@given(
    images=st.dictionaries(VERSIONS, st.integers(0, 3).map(lambda day: OLD + timedelta(days=day)), max_size=12),
    told=st.lists(st.tuples(VERSIONS, KINDS), max_size=12),
    most=st.integers(1, 4),
)
def test_exactly_what_has_no_answer_and_no_mark_is_missing(
    images: dict[Version, datetime], told: list[tuple[Version, str]], most: int
) -> None:
    """Whatever the names, etags, answers and marks, it is what a plain dict says, oldest first and each once."""
    newest = {version.name: (version, at) for version, at in images.items()}
    others = [version.mark if kind == "mark" else version.answer(kind) for version, kind in told]
    taken = {version for version, kind in told if kind == "mark" or kind.endswith(".json")}
    expected = sorted((at, version.name) for version, at in newest.values() if version not in taken)
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
def test_what_is_no_answer_answers_nothing(key: str) -> None:
    """A video without its manifest, a poster and a stranger's file leave the image missing."""
    assert version_with_outcome(key) is None


def test_a_replaced_image_is_missing_again() -> None:
    """An answer to an earlier etag is none to the image as it is now."""
    before, now = Version("x.jpg", "1"), Version("x.jpg", "2")
    assert missing(bucket({now: OLD}, [before.answer(".json"), before.mark])) == ["x.jpg"]


def test_only_images_of_the_time_are_missing() -> None:
    """What is older than asked for, or younger than may be judged, is left alone; the edges count as in time."""
    images = {Version(f"{day}.jpg", "1"): OLD + timedelta(days=day) for day in range(5)}
    since, until = OLD + timedelta(days=1), OLD + timedelta(days=3)
    assert missing(bucket(images), since=since, until=until) == ["1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    "name", ["x.jpg.txt", "x.jpg.part", "x.gif", "folder/", "_s3/b/x.jpg", "_url/h/x.jpg", "_long/x.jpg"]
)
def test_what_is_no_image_is_never_missing(name: str) -> None:
    """Sidecars, half names, folders and names like our own are no images."""
    assert missing(bucket({Version(name, "1"): OLD})) == []


def test_what_is_left_out_is_counted() -> None:
    """Names like our own, and images too young, are told of."""
    storage = bucket({Version("_s3/b/x.jpg", "1"): OLD, Version("new.jpg", "1"): NOW + timedelta(seconds=1)})
    search = MissingSearch(memory_run(storage), Versions(), OLD, NOW)
    assert asyncio.run(search.next_batch(10)) == []
    assert ([uri.key for uri in search.reserved], search.unsettled) == (["images/_s3/b/x.jpg"], 1)


@pytest.mark.parametrize("kind", [".json", ".refused.json", ".failed.json", "mark"])
def test_a_second_look_sees_what_came_meanwhile(kind: str) -> None:
    """An image that was answered or taken up after it was listed is seen to be; what others are told is no sign."""
    image, replaced = Version("x.jpg", "1"), Version("x.jpg", "2")
    tempting = Version(f"x.jpg/{keys.digest12('1')}-x.jpg", "1")
    entry = S3Entry(S3Uri(BUCKET, "images/x.jpg"), "1", 1, OLD)
    for version, found in ((image, True), (replaced, False), (tempting, False)):
        key = version.mark if kind == "mark" else version.answer(kind)
        assert asyncio.run(has_outcome(memory_run(bucket({image: OLD}, [key])), entry)) is found


def test_an_interrupted_search_lists_no_further() -> None:
    """Ctrl-C ends the search within a page, not after a million keys."""
    run = memory_run(bucket({Version("x.jpg", "1"): OLD}, [Version("x.jpg", "1").answer(".json")]))
    search = MissingSearch(run, Versions(), OLD, NOW)
    run.brake.interrupt()
    for listing in (versions_with_outcome(run), search.next_batch(1)):
        with pytest.raises(NotTried):
            asyncio.run(listing)


class Many(MemoryStorage):
    """So many images, none of them kept."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self._images = images

    async def pages(
        self, prefix: S3Uri, *, start_after: str = "", deep: bool = True
    ) -> AsyncGenerator[Sequence[S3Entry], None]:
        """The youngest first, so that each is older than all before it."""
        del start_after, deep
        for start in range(0, self._images if prefix.key == "images/" else 0, 1000):
            yield [
                S3Entry(prefix / f"{number:07}.jpg", f"{number:032}", 1, NOW - timedelta(seconds=number))
                for number in range(start, start + 1000)
            ]


def test_no_more_is_kept_than_is_asked_for() -> None:
    """Four times as many missing images take no more memory to search: they are listed, and not kept."""
    most_bytes = []
    for images in (2_000, 8_000):
        tracemalloc.start()
        try:
            assert len(missing_batch(Many(images), 100)) == 100
            most_bytes.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert most_bytes[1] < most_bytes[0] * 1.2


@pytest.mark.parametrize("by", ["name", "etag"])
def test_versions_take_little_memory(by: str) -> None:
    """A million versions take under 34 MB and no long search, also where all have one content or one name."""
    several = [(str(number), "1") if by == "name" else ("x.jpg", str(number)) for number in range(100_000)]
    versions = [version_of(*each) for each in several]
    tracemalloc.start()
    try:
        kept, before = Versions(), tracemalloc.get_traced_memory()[0]
        for version in versions:
            kept.add(version)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(kept) == 100_000
    assert grown < 10_000_000 + 24 * 100_000
    assert all(version in kept for version in versions)
    assert version_of("x.jpg", "y") not in kept
    assert max(map(len, kept.buckets.values())) < 20
