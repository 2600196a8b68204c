"""Files into S3: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

from i2v.errors import Conflict, StorageError
from i2v.s3 import uploads
from i2v.s3.direct import Answer
from i2v.s3.storage import Storage
from i2v.s3.uploads import PART_BYTES, abort_uploads, put_file
from i2v.s3_uri import S3Uri
from sandbox import Sandbox
from tests.support.raw_server import running, send

MakeFile = Callable[[int], Path]
SMALL, EDGE, LARGE = 1000, 8 << 20, 2 * PART_BYTES + 1000


@pytest.fixture
def storage(aws: None) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _parts_begin_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test need not send half a gigabyte."""
    monkeypatch.setattr(uploads, "ONE_PUT_BYTES", EDGE)


@pytest.fixture
def uri(sandbox: Sandbox) -> S3Uri:
    """Where the video is to lie."""
    return S3Uri(sandbox.bucket, "videos/a.jpg/x.mp4")


@pytest.fixture
def film(tmp_path: Path) -> MakeFile:
    """A file of so many bytes, no two parts of which are alike."""

    def make(size: int) -> Path:
        path = tmp_path / f"{size}.mp4"
        path.write_bytes(random.Random(size).randbytes(size))  # noqa: S311 - a film, not a secret
        return path

    return make


def measured(path: Path) -> tuple[int, str]:
    """Bytes, and their sha256 in hex."""
    body = path.read_bytes()
    return len(body), sha256(body).hexdigest()


async def put(storage: Storage, path: Path, uri: S3Uri, **options: Any) -> None:
    """Put it as a video is put."""
    what: dict[str, Any] = {"content_type": "video/mp4", "metadata": {"sha256": "5", "job": "j"}}
    size, digest = measured(path)
    await put_file(storage, path, uri, size=size, sha256=digest, **what, **options)


def left_open(sandbox: Sandbox) -> list[str]:
    """The keys of uploads that have not ended."""
    return [one["Key"] for one in sandbox.s3().list_multipart_uploads(Bucket=sandbox.bucket).get("Uploads", [])]


def on_part(storage: Storage, number: int, act: Callable[[], None]) -> None:
    """Let this happen just before a part is sent."""
    assert storage.direct
    ask = storage.direct.ask

    def before(method: str, uri: S3Uri, headers: Mapping[str, str], **how: Any) -> Answer | None:
        if (how.get("query") or {}).get("partNumber") == str(number):
            act()
        return ask(method, uri, headers, **how)

    setattr(storage.direct, "ask", before)  # noqa: B010 - else mypy takes it for a mistake


@pytest.mark.parametrize("size", [0, 1, SMALL, EDGE, EDGE + 1, LARGE])
async def test_a_file_arrives_whole(storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile, size: int) -> None:
    """In one request up to a size, in parts above: bytes, type and metadata, and no upload is left open."""
    path = film(size)
    await put(storage, path, uri)
    got = await storage.get(uri)
    assert sha256(got.body).digest() == sha256(path.read_bytes()).digest()
    assert (got.content_type, dict(got.metadata)) == ("video/mp4", {"sha256": "5", "job": "j"})
    assert ("-" in got.etag) == (size > EDGE)
    assert left_open(sandbox) == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_s3_verifies_what_arrives(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile, size: int
) -> None:
    """Each request carries the sha256 of its body, and S3 keeps that it was right."""
    await put(storage, film(size), uri)
    head = sandbox.s3().head_object(Bucket=uri.bucket, Key=uri.key, ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_nothing_is_overwritten(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile, size: int
) -> None:
    """Where something lies already it stays, and nothing of the new file is left."""
    await storage.put(uri, b"there")
    with pytest.raises(Conflict):
        await put(storage, film(size), uri)
    assert (await storage.get(uri)).body == b"there"
    assert left_open(sandbox) == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_known_version_is_replaced(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile, size: int
) -> None:
    """The leftover of a store that died is replaced as long as it is that very leftover."""
    old = (await storage.put(uri, b"leftover")).etag
    await storage.put(uri, b"newer")
    with pytest.raises(Conflict):
        await put(storage, film(size), uri, if_match=old)
    await put(storage, film(size), uri, if_match=(await storage.head(uri)).etag)
    assert (await storage.head(uri)).size == size
    assert left_open(sandbox) == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_of_several_writers_one_wins(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile, size: int
) -> None:
    """Eight stores of one video at once: one is published, seven are Conflicts, nothing is left open."""
    path = film(size)
    ended = await asyncio.gather(*(put(storage, path, uri) for _ in range(8)), return_exceptions=True)
    assert [type(end) for end in ended if end] == [Conflict] * 7
    assert (await storage.head(uri)).size == size
    assert left_open(sandbox) == []


@pytest.mark.parametrize("part", [1, 2, 3])
async def test_a_failure_on_the_way_leaves_nothing(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile, part: int
) -> None:
    """A part that cannot be sent: no object is visible, and no upload is left open."""

    def fail() -> None:
        raise ReadTimeoutError(endpoint_url="http://s3.example")

    on_part(storage, part, fail)
    with pytest.raises(StorageError, match="Read timeout"):
        await put(storage, film(LARGE), uri)
    assert sandbox.keys() == []
    assert left_open(sandbox) == []


async def test_a_cancelled_upload_leaves_nothing(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile
) -> None:
    """Cancel in the UI, or Ctrl-C, in the middle of a part."""
    loop = asyncio.get_running_loop()
    upload = asyncio.ensure_future(put(storage, film(LARGE), uri))

    def cancel() -> None:
        loop.call_soon_threadsafe(upload.cancel)
        time.sleep(0.05)

    on_part(storage, 2, cancel)
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert sandbox.keys() == []
    assert left_open(sandbox) == []


async def test_a_file_that_is_gone_leaves_nothing(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, tmp_path: Path
) -> None:
    """Neither an object nor an upload is left for it."""
    for size in (SMALL, LARGE):
        with pytest.raises(StorageError, match="No such file"):
            await put_file(
                storage, tmp_path / "none.mp4", uri, size=size, sha256="0" * 64, content_type="video/mp4", metadata={}
            )
    assert sandbox.keys() == []
    assert left_open(sandbox) == []


def listed(*lines: tuple[str, str, str]) -> bytes:
    """S3's list of uploads: key, id and when they began."""
    entries = "".join(
        f"<Upload><Key>{key}</Key><UploadId>{number}</UploadId><Initiated>{begun}</Initiated></Upload>"
        for key, number, begun in lines
    )
    return f"<ListMultipartUploadsResult>{entries}</ListMultipartUploadsResult>".encode()


async def test_what_a_dead_process_left_is_cleared_away() -> None:
    """An old upload to this very key is aborted; another key's, and one that may still live, are left alone.

    The sandbox's uploads are all of this minute, so a raw server tells of older ones.
    """
    old, young = "2020-01-01T00:00:00.000Z", "2199-01-01T00:00:00.000Z"
    listing = listed(("v/x.mp4", "dead", old), ("v/x.mp4.more", "another", old), ("v/x.mp4", "living", young))
    async with running(send(200, listing, Content_Type="application/xml"), send(204)) as server:
        client = boto3.Session("k", "s", region_name="us-east-1").client("s3", endpoint_url=server.url)
        with Storage(client) as storage:
            await abort_uploads(storage, S3Uri("b-1", "v/x.mp4"))
    assert [one.head.split(" ")[0] for one in server.requests] == ["GET", "DELETE"]
    assert "uploadId=dead" in server.requests[1].target


async def test_a_living_upload_is_left_alone(storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile) -> None:
    """Two processes store one video: the second begins while the first is under way, and takes nothing from it."""
    other = sandbox.s3().create_multipart_upload(Bucket=uri.bucket, Key=uri.key)["UploadId"]
    await put(storage, film(LARGE), uri)
    assert left_open(sandbox) == [uri.key]
    sandbox.s3().abort_multipart_upload(Bucket=uri.bucket, Key=uri.key, UploadId=other)


async def test_an_upload_that_cannot_be_aborted_tells_why_it_was(
    storage: Storage, sandbox: Sandbox, uri: S3Uri, film: MakeFile
) -> None:
    """A Conflict stays a Conflict although S3 no longer knows the upload: its first answer was lost."""

    def forget(params: dict[str, Any], **_: object) -> None:
        sandbox.s3().abort_multipart_upload(
            Bucket=uri.bucket, Key=uri.key, UploadId=params["url"].partition("uploadId=")[2].partition("&")[0]
        )

    await storage.put(uri, b"there")
    storage.client.meta.events.register("before-call.s3.AbortMultipartUpload", forget)
    with pytest.raises(Conflict):
        await put(storage, film(LARGE), uri)
