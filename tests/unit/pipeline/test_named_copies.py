"""Published copies: their names, and who has a name when several processes publish at once or die."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pytest

from i2v.errors import NotTried, StorageError
from i2v.ledger.attempt import AttemptEnd, EndKind
from i2v.ledger.job import JobRecord
from i2v.pipeline.named_copies.names import named_copy_uri
from i2v.pipeline.named_copies.publish_copy import publish_copy
from i2v.request import Mode, Request
from i2v.s3_uri import S3Uri
from tests.support.job_records import IMAGE, NOW, READY, VIDEO, claim_as
from tests.support.memory_storage import MemoryBucket, MemoryStorage, memory_run
from tests.support.settings import SealedSettings

T = TypeVar("T")
TEMPLATE = "published/{stem}.mp4"
REQUEST = Request(prompt="zoom", mode=Mode.PRO, take=2)


@pytest.mark.parametrize(
    ("template", "label", "expected"),
    [
        ("published/{folder}{stem}.mp4", "s3://b-1/images/cats/young/tom.v2.jpg", "published/cats/young/tom.v2.mp4"),
        ("published/{folder}{stem}.mp4", "s3://b-1/images/tom.jpg", "published/tom.mp4"),
        ("published/{folder}{stem}.mp4", "s3://other/pics/tom.jpg", "published/pics/tom.mp4"),
        ("out/{mode}/{stem}-{take}.mp4", "https://example.com/a/tom%20cat.png", "out/pro/tom cat-2.mp4"),
        ("out/{{x}}/{extra.sku}.mp4", "s3://b-1/images/tom.jpg", "out/{x}/Ä-1.mp4"),
    ],
)
def test_a_name_is_filled_in(template: str, label: str, expected: str) -> None:
    """Folder and stem are of the key below the images prefix, the folder with its slash."""
    settings = SealedSettings(I2V_BUCKET="b-1", I2V_PUBLISH_AS=template)
    image = IMAGE.model_copy(update={"label": label})
    assert named_copy_uri(settings, image, REQUEST, {"sku": "Ä-1"}) == S3Uri("b-1", expected)


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({}, "s3://b-1/images/tom.jpg", r"needs \{extra.sku\}"),
        ({"sku": "../videos/x"}, "s3://b-1/images/tom.jpg", "empty folder, `.` or `..`"),
        ({"sku": "a//b"}, "s3://b-1/images/tom.jpg", "empty folder"),
        ({"sku": "a\nb"}, "s3://b-1/images/tom.jpg", "control characters"),
        ({"sku": "ü" * 500}, "s3://b-1/images/" + "x" * 60 + "/tom.jpg", "bytes; S3 allows 1024"),
    ],
)
def test_an_impossible_name_is_refused(columns: dict[str, str], label: str, message: str) -> None:
    """A column cannot lead out of the folder, and a missing one is named."""
    settings = SealedSettings(I2V_BUCKET="b-1", I2V_PUBLISH_AS="published/{folder}{extra.sku}.mp4")
    with pytest.raises(NotTried, match=message):
        named_copy_uri(settings, IMAGE.model_copy(update={"label": label}), REQUEST, columns)


class ShuffledStorage(MemoryStorage):
    """Each operation waits a random number of turns; some fail, before or after they are done."""

    def __init__(self, bucket: MemoryBucket, chance: random.Random, faults: float) -> None:
        super().__init__(bucket)
        self.chance, self.faults = chance, faults

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Wait, then do the operation or fail."""
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)
        fault = self.chance.random() if self.chance.random() < self.faults else 1.0
        if fault < 0.5:
            raise StorageError(f"S3 failed at {uri}", "Try again")
        result = action()
        if fault < 1:
            raise StorageError(f"the answer for {uri} was lost", "Try again")
        return result


def stored_job(bucket: MemoryBucket, number: int, image_name: str = "a/tom.jpg") -> JobRecord:
    """Put the outputs of a job, the later the higher its number, and return its record."""
    base = f"videos/{image_name}/{number}"
    at = {"uri": S3Uri("b-1", f"{base}.mp4"), "poster": S3Uri("b-1", f"{base}.jpg")}
    video = VIDEO.model_copy(update={**at, "manifest": S3Uri("b-1", f"{base}.json"), "sha256": f"sha-{number}"})
    image = IMAGE.model_copy(update={"name": image_name, "label": f"s3://b-1/images/{image_name}"})
    record = READY.model_copy(update={"key": f"{number:064x}", "image": image})
    claimed = claim_as(record, "A").model_copy(update={"image": image})
    end = AttemptEnd(kind=EndKind.STORED, at=NOW, revision=2, video=video)
    attempt = claimed.attempts[0].model_copy(update={"task_id": "t", "end": end})
    manifest = {
        "job": record.key,
        "image": image.model_dump(mode="json"),
        "stored_at": (NOW + timedelta(seconds=number)).isoformat(),
        "video": video.model_dump(mode="json"),
    }
    for ending, body in ((".mp4", b"video %d" % number), (".jpg", b"poster %d" % number)):
        bucket.put(S3Uri("b-1", base + ending), body, "x/y", {"attempt": "1"}, "")
    bucket.put(video.manifest, json.dumps(manifest).encode(), "application/json", {}, "")
    return claimed.with_attempt(attempt)


async def publish(storage: MemoryStorage, record: JobRecord, extra: dict[str, str] | None = None) -> str | None:
    """Publish a job's video."""
    run = memory_run(storage, I2V_PUBLISH_AS=TEMPLATE)
    assert record.video
    return await publish_copy(run, record, record.image, extra, record.video.uri)


def published(bucket: MemoryBucket) -> tuple[bytes, bytes, str]:
    """Return the published video and poster, and the hash in the manifest."""
    video, poster, manifest = (
        bucket.get(S3Uri("b-1", f"published/tom{end}")).body for end in (".mp4", ".jpg", ".json")
    )
    return video, poster, json.loads(manifest)["video"]["sha256"]


def files_of(number: int) -> tuple[bytes, bytes, str]:
    """Return what is published of a job."""
    return b"video %d" % number, b"poster %d" % number, f"sha-{number}"


async def test_the_newest_video_has_the_name() -> None:
    """A newer take replaces video, poster and manifest; an older one, published late, changes nothing."""
    bucket = MemoryBucket()
    one, two = stored_job(bucket, 1), stored_job(bucket, 2)
    storage = MemoryStorage(bucket)
    assert await publish(storage, one, {"sku": "A"}) is None
    assert published(bucket) == files_of(1)
    found = bucket.get(S3Uri("b-1", "published/tom.mp4"))
    assert (found.content_type, found.metadata["sha256"]) == ("video/mp4", "sha-1")
    await publish(storage, two)
    assert published(bucket) == files_of(2)
    await publish(storage, one)
    assert published(bucket) == files_of(2)


async def test_publishing_again_writes_nothing() -> None:
    """A rerun that changes no column reads only."""
    bucket = MemoryBucket()
    record = stored_job(bucket, 1)
    await publish(MemoryStorage(bucket), record, {"sku": "A"})
    written: list[S3Uri] = []
    bucket.on_put = lambda uri, _body: written.append(uri)
    await publish(MemoryStorage(bucket), record, {"sku": "A"})
    assert written == []
    await publish(MemoryStorage(bucket), record, {"sku": "B"})
    assert written == [S3Uri("b-1", "published/tom.json")]


async def test_another_images_name_is_never_taken() -> None:
    """Neither that of another image nor an object that i2v did not publish is replaced."""
    bucket = MemoryBucket()
    first, other = stored_job(bucket, 1), stored_job(bucket, 2, "b/tom.jpg")
    await publish(MemoryStorage(bucket), first)
    assert "the video of another image" in str(await publish(MemoryStorage(bucket), other))
    assert published(bucket) == files_of(1)

    for ending, message in ((".mp4", "i2v did not publish"), (".jpg", "i2v did not publish"), (".json", "no manifest")):
        bucket = MemoryBucket()
        place = S3Uri("b-1", f"published/tom{ending}")
        bucket.put(place, b"{}", "x/y", {}, "")
        problem = await publish(MemoryStorage(bucket), stored_job(bucket, 1))
        assert message in str(problem).replace("not a manifest", "no manifest")
        assert [uri for uri in bucket.objects if uri.key.startswith("published/")] == [place]
        assert bucket.get(place).body == b"{}"


async def test_an_unverified_video_is_not_published_until_it_is_kept() -> None:
    """A person decides first."""
    bucket = MemoryBucket()
    record = stored_job(bucket, 1)
    attempt = record.attempts[0]
    assert attempt.end
    assert attempt.end.video
    video = attempt.end.video.model_copy(update={"unverified": "truncated"})
    attempt = attempt.model_copy(update={"end": attempt.end.model_copy(update={"video": video})})
    assert await publish(MemoryStorage(bucket), record.with_attempt(attempt)) is None
    assert not [uri for uri in bucket.objects if uri.key.startswith("published/")]
    await publish(MemoryStorage(bucket), record.with_attempt(attempt.model_copy(update={"kept": True})))
    assert published(bucket) == files_of(1)


@pytest.mark.parametrize("faults", [0.0, 0.2])
async def test_processes_that_publish_at_once_agree(faults: float) -> None:
    """In any order, with S3 errors and lost answers, the newest video has the name, once all have published again."""
    for seed in range(50):
        chance, bucket = random.Random(seed), MemoryBucket()  # noqa: S311 - reproducible
        records = [stored_job(bucket, number) for number in (1, 2, 3)]
        storage = ShuffledStorage(bucket, chance, faults)
        chance.shuffle(records)
        ends = await asyncio.gather(*(publish(storage, record) for record in records), return_exceptions=True)
        assert faults or ends == [None] * 3
        storage.faults = 0.0
        for record, end in zip(records, ends, strict=True):
            if isinstance(end, BaseException):
                assert isinstance(end, StorageError), end
                await publish(storage, record)
        assert published(bucket) == files_of(3), seed


async def test_two_images_that_publish_at_once_do_not_mix() -> None:
    """One gets the name with all three files, and the other reports that it lost."""
    for seed in range(50):
        chance, bucket = random.Random(seed), MemoryBucket()  # noqa: S311 - reproducible
        records = [stored_job(bucket, 1), stored_job(bucket, 2, "b/tom.jpg")]
        storage = ShuffledStorage(bucket, chance, 0.0)
        ends = await asyncio.gather(*(publish(storage, record) for record in records))
        [winner] = [number for number, end in enumerate(ends, 1) if end is None]
        assert published(bucket) == files_of(winner), seed


async def test_a_manifest_never_comes_before_its_files() -> None:
    """Whenever a first manifest is visible, the video and the poster are there."""
    bucket = MemoryBucket()
    record = stored_job(bucket, 1)
    seen: list[str] = []
    bucket.on_put = lambda uri, _body: seen.append(uri.key)
    await publish(MemoryStorage(bucket), record)
    assert seen == ["published/tom.mp4", "published/tom.jpg", "published/tom.json"]
