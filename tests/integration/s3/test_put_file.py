"""Files are put whole or not at all."""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config

from i2v.errors import Conflict, StorageError
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from sandbox import Sandbox
from tests.support.aws_sessions import made_up_session
from tests.support.raw_server import running, send

MakeFile = Callable[[int], Path]
SMALL, LARGE = 1000, 11_000_000


@pytest.fixture
def storage(aws: None) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage() as opened:
        yield opened


@pytest.fixture
def uri(sandbox: Sandbox) -> S3Uri:
    """The URI at which tests put the video."""
    return S3Uri(sandbox.bucket, "videos/a.jpg/x.mp4")


@pytest.fixture
def film(tmp_path: Path) -> MakeFile:
    """Make a file of this many random bytes."""

    def make(size: int) -> Path:
        path = tmp_path / f"{size}.mp4"
        path.write_bytes(random.Random(size).randbytes(size))  # noqa: S311 - a film, not a secret
        return path

    return make


def digest_of(path: Path) -> bytes:
    """The SHA-256 of a file."""
    return sha256(path.read_bytes()).digest()


async def put(storage: Storage, path: Path, uri: S3Uri, **options: Any) -> None:
    """Put the file as the store step puts a video."""
    metadata = {"sha256": "5", "job": "j"}
    await storage.put_file(
        uri, path, **{"sha256": digest_of(path).hex(), "content_type": "video/mp4", "metadata": metadata} | options
    )


@pytest.mark.parametrize("size", [0, 1, SMALL, LARGE])
async def test_a_file_arrives_whole(storage: Storage, uri: S3Uri, film: MakeFile, size: int) -> None:
    """The object has the file's bytes, content type and metadata, and is not a multipart object."""
    path = film(size)
    await put(storage, path, uri)
    got = await storage.get(uri)
    assert sha256(got.body).digest() == sha256(path.read_bytes()).digest()
    assert (got.content_type, dict(got.metadata)) == ("video/mp4", {"sha256": "5", "job": "j"})
    assert "-" not in got.etag


async def test_s3_stores_the_checksum(storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile) -> None:
    """S3 receives the file's SHA-256 and keeps it with the object."""
    path = film(SMALL)
    await put(storage, path, uri)
    head = sandbox.s3().head_object(Bucket=uri.bucket, Key=uri.key, ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == b64encode(sha256(path.read_bytes()).digest()).decode()


async def test_a_file_with_another_checksum_is_refused(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile
) -> None:
    """S3 stores nothing if the bytes that arrive do not have the SHA-256 that was announced."""
    with pytest.raises(StorageError, match="S3 returned 400"):
        await put(storage, film(SMALL), uri, sha256="0" * 64)
    assert sandbox.keys() == []


async def test_an_existing_object_is_not_overwritten(storage: Storage, uri: S3Uri, film: MakeFile) -> None:
    """A put without an etag raises Conflict if the object exists, and leaves it unchanged."""
    await storage.put(uri, b"there")
    with pytest.raises(Conflict):
        await put(storage, film(LARGE), uri)
    assert (await storage.get(uri)).body == b"there"


async def test_a_known_version_is_replaced(storage: Storage, uri: S3Uri, film: MakeFile) -> None:
    """A put with an etag replaces that version only."""
    old = await storage.put(uri, b"leftover")
    await storage.put(uri, b"newer")
    with pytest.raises(Conflict):
        await put(storage, film(SMALL), uri, if_match=old)
    await put(storage, film(SMALL), uri, if_match=(await storage.head(uri)).etag)
    assert (await storage.head(uri)).size == SMALL


async def test_of_several_writers_one_wins(storage: Storage, uri: S3Uri, film: MakeFile) -> None:
    """Of eight puts of one video at once, one succeeds and seven raise Conflict."""
    path = film(LARGE)
    results = await asyncio.gather(*(put(storage, path, uri) for _ in range(8)), return_exceptions=True)
    assert [type(result) for result in results if result] == [Conflict] * 7
    assert (await storage.head(uri)).size == LARGE


async def test_a_retry_sends_the_file_from_its_start(film: MakeFile) -> None:
    """After a 500, the second attempt has the whole body, the checksum and the condition again."""
    path = film(LARGE)
    async with running(send(500), send(200, ETag='"e"')) as server:
        config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
        session = made_up_session()
        with Storage(session.client("s3", endpoint_url=server.url, config=config)) as storage:
            await put(storage, path, S3Uri("b-1", "v/x.mp4"))
    assert [request.body == path.read_bytes() for request in server.requests] == [True, True]
    checksum = b64encode(sha256(path.read_bytes()).digest()).decode()
    for request in server.requests:
        assert request.header("x-amz-checksum-sha256") == checksum
        assert request.header("if-none-match") == "*"


async def test_a_cancelled_put_leaves_nothing(storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile) -> None:
    """Cancelled before its request is sent, a put leaves no object and no unfinished upload."""
    upload = asyncio.ensure_future(put(storage, film(LARGE), uri))
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert sandbox.keys() == []


async def test_a_missing_file_is_a_storage_error(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, tmp_path: Path
) -> None:
    """Nothing is put if the file does not exist."""
    with pytest.raises(StorageError, match="No such file"):
        await storage.put_file(uri, tmp_path / "none.mp4", sha256="0" * 64, content_type="video/mp4", metadata={})
    assert sandbox.keys() == []
