"""Which object a notification refers to: some servers do not URL-encode keys, so the bucket decides."""

import asyncio
from typing import Any

import pytest

from doors import image_intake
from doors.image_intake import find_image, name_of_run
from doors.s3_notifications import NewImage
from i2v.errors import StorageError
from i2v.s3.objects import S3Object
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryBucket, MemoryStorage

IMAGE = NewImage("photos", "images/a b.jpg", "e", "s", raw_key="images/a+b.jpg")


class CountingStorage(MemoryStorage):
    """A storage that counts requests, and fails while `error` is set."""

    requests = 0
    error: StorageError | None = None

    async def head(self, uri: S3Uri) -> S3Object:
        """Count the request."""
        self.requests += 1
        if self.error:
            raise self.error
        return await super().head(uri)


@pytest.fixture
def new_storage() -> Any:
    """Return a storage that holds these keys."""

    def made(*keys: str) -> CountingStorage:
        bucket = MemoryBucket()
        for key in keys:
            bucket.put(S3Uri("photos", key), b"x", "image/jpeg", {}, "")
        return CountingStorage(bucket)

    return made


@pytest.mark.parametrize(
    ("keys", "found", "requests"),
    [
        (["images/a b.jpg"], "images/a b.jpg", 1),
        (["images/a+b.jpg"], "images/a+b.jpg", 2),
        (["images/a b.jpg", "images/a+b.jpg"], "images/a b.jpg", 1),
        ([], "images/a b.jpg", 2),
    ],
)
async def test_the_key_as_sent_is_meant_if_only_that_one_exists(
    new_storage: Any, keys: list[str], found: str, requests: int
) -> None:
    """The decoded key is meant, unless the bucket has only the key as it was sent."""
    storage = new_storage(*keys)
    assert (await find_image(storage, IMAGE)).key == found
    assert storage.requests == requests


async def test_an_unambiguous_key_takes_no_request(new_storage: Any) -> None:
    """S3 is not asked about a key that has one reading."""
    storage = new_storage()
    assert (await find_image(storage, IMAGE._replace(raw_key=None))).key == IMAGE.key
    assert storage.requests == 0


async def test_the_decoded_key_is_meant_if_s3_does_not_say(new_storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of S3, a missing permission or no answer in time holds no notification up."""
    storage = new_storage("images/a+b.jpg")
    storage.error = StorageError("403")
    assert (await find_image(storage, IMAGE)).key == IMAGE.key

    async def hang(_uri: S3Uri) -> S3Object:
        await asyncio.sleep(60)
        raise AssertionError

    storage.head = hang
    monkeypatch.setattr(image_intake, "KEY_CHECK_SECONDS", 0.01)
    assert (await find_image(storage, IMAGE)).key == IMAGE.key


@pytest.mark.parametrize(
    ("parameters", "request_words"),
    [
        ({}, "standard 6 s"),
        ({"mode": "pro"}, "pro 6 s"),
        ({"duration": 10}, "standard 10 s"),
        ({"mode": "x"}, "standard 6 s"),
    ],
)
def test_a_run_is_named_when_it_is_started(parameters: dict[str, Any], request_words: str) -> None:
    """By its images and the deployment's parameters, with the time: what the UI shows, so that logs say the same."""
    uris = [S3Uri("photos", f"images/cats/{name}.jpg") for name in ("tom", "ann")]
    name, _, time = name_of_run(uris, parameters).rpartition(" · ")
    assert name == f"2 images · images/cats/ · {request_words}"
    assert time.endswith(" UTC")
