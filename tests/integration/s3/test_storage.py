"""Objects, conditional writes, listings and clocks in S3, and the errors of failed requests."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64decode
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from i2v.errors import Conflict, NoBucket, NotFound, StorageError
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from sandbox import Sandbox
from sandbox.server import TIMEOUT_SECONDS
from tests.support.aws_sessions import made_up_session
from tests.support.ceph_server import CephServer
from tests.support.memory_storage import MemoryStorage
from tests.support.raw_server import running, send

ONLY_ONCE = Config(
    retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=2, read_timeout=2
)
Place = Callable[[str], S3Uri]


@pytest.fixture
def storage(aws: None) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage() as opened:
        yield opened


@pytest.fixture
def at(sandbox: Sandbox) -> Place:
    """Make a URI in the sandbox's bucket."""
    return lambda key: S3Uri(sandbox.bucket, key)


def single_attempt(url: str) -> Storage:
    """A storage at this endpoint without retries."""
    return Storage(made_up_session().client("s3", endpoint_url=url, config=ONLY_ONCE))


async def keys(storage: Storage, prefix: S3Uri, **options: Any) -> list[str]:
    """The keys of a listing."""
    return [entry.uri.key async for entry in storage.list(prefix, **options)]


@pytest.fixture(params=["sandbox", "memory", "ceph"])
def either(request: pytest.FixtureRequest, storage: Storage, sandbox: Sandbox) -> Iterator[Storage]:
    """The sandbox's S3; the one in memory, which stands in for it in tests with thousands of steps; and Ceph's."""
    if request.param != "ceph":
        yield storage if request.param == "sandbox" else MemoryStorage()
        return
    server: CephServer = request.getfixturevalue("ceph_server")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    with Storage() as opened:
        opened.client.create_bucket(Bucket=sandbox.bucket)
        yield opened


async def test_a_put_object_is_read_back(either: Storage, at: Place) -> None:
    """Bytes, type and metadata come back, with an etag of the content and an age by the server's clock."""
    etag = await either.put(at("a/b.json"), b"{}", content_type="application/json", metadata={"job": "1"})
    got = await either.get(at("a/b.json"))
    assert (got.body, got.size, got.content_type, dict(got.metadata)) == (b"{}", 2, "application/json", {"job": "1"})
    assert (got.etag, got.version_id) == (etag, None)
    assert 0 <= got.age_seconds < 5
    head = await either.head(at("a/b.json"))
    assert (head.etag, head.size, head.content_type, dict(head.metadata)) == (
        etag,
        2,
        "application/json",
        {"job": "1"},
    )


async def test_an_etag_depends_on_the_content(either: Storage, at: Place) -> None:
    """Equal bytes have equal etags, so a record changed conditionally must change its bytes."""
    etags = [await either.put(at("a"), body) for body in (b"1", b"2", b"1")]
    assert etags[0] == etags[2] != etags[1]


async def test_a_create_wins_once(either: Storage, at: Place) -> None:
    """`create` never overwrites an object."""
    await either.put(at("a"), b"first", create=True)
    with pytest.raises(Conflict):
        await either.put(at("a"), b"second", create=True)
    assert (await either.get(at("a"))).body == b"first"


async def test_a_change_needs_the_current_etag(either: Storage, at: Place) -> None:
    """`if_match` replaces that version only, and not a deleted object."""
    first = await either.put(at("a"), b"first")
    await either.put(at("a"), b"second", if_match=first)
    for wrong in (first, "0" * 32):
        with pytest.raises(Conflict):
            await either.put(at("a"), b"third", if_match=wrong)
    assert (await either.get(at("a"))).body == b"second"
    await either.delete(at("a"))
    with pytest.raises(NotFound):
        await either.put(at("a"), b"third", if_match=first)


async def test_a_missing_object_is_not_found(either: Storage, at: Place) -> None:
    """Reading and copying a missing object raise NotFound, and deleting it does not."""
    for ask in (either.get, either.head):
        with pytest.raises(NotFound, match=r"s3://.*/nope does not exist"):
            await ask(at("nope"))
    await either.delete(at("nope"))
    with pytest.raises(NotFound):
        await either.copy(at("nope"), at("there"))


async def test_a_copy_keeps_type_and_metadata(either: Storage, at: Place) -> None:
    """A copy has the body, content type and metadata of its source."""
    await either.put(at("a"), b"film", content_type="video/mp4", metadata={"sha256": "5"})
    await either.copy(at("a"), at("b"))
    copied = await either.get(at("b"))
    assert (copied.body, copied.content_type, dict(copied.metadata)) == (b"film", "video/mp4", {"sha256": "5"})


NAMES = ["a", "a b", "a/b", "a/b/c", "a0", "b", "ä", "\u2028", "😀"]


async def test_a_listing_is_in_the_order_of_bytes(either: Storage, at: Place) -> None:
    """Keys under a prefix come in byte order; `recursive=False` stops at the next slash."""
    for name in reversed(NAMES):
        await either.put(at(f"p/{name}"), b"")
    await either.put(at("q"), b"")
    assert await keys(either, at("p/")) == [f"p/{name}" for name in sorted(NAMES, key=str.encode)]
    assert await keys(either, at("p/"), recursive=False) == [
        f"p/{name}" for name in sorted(NAMES, key=str.encode) if "/" not in name
    ]
    assert await keys(either, at("p/"), start_after="p/a0") == ["p/b", "p/ä", "p/\u2028", "p/😀"]
    assert await keys(either, at("p/a"), recursive=False) == ["p/a", "p/a b", "p/a0"]
    assert await keys(either, at("nothing/")) == []


async def test_a_listing_of_a_thousand_and_more_is_whole(storage: Storage, at: Place, sandbox: Sandbox) -> None:
    """All pages are read, and no key comes twice."""
    client = sandbox.s3()
    for number in range(1005):
        client.put_object(Bucket=sandbox.bucket, Key=f"p/{number:04}", Body=b"")
        if number < 5:
            client.put_object(Bucket=sandbox.bucket, Key=f"p/{number:04}/below", Body=b"")
    expected = [f"p/{number:04}" for number in range(1005)]
    assert await keys(storage, at("p/"), recursive=False) == expected
    assert await keys(storage, at("p/")) == sorted(expected + [f"p/{number:04}/below" for number in range(5)])


ODD_KEYS = ["../up", "a/../b", "./a", "a//b", "a b+c%20&?#.jpg", "é.jpg", "e\u0301.jpg", "two\nlines", "x" * 1024]


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: key[:12])
async def test_any_key_is_an_object_of_its_own(storage: Storage, at: Place, key: str) -> None:
    """A key is neither decoded nor normalized."""
    await storage.put(at(key), key.encode())
    assert (await storage.get(at(key))).body == key.encode()
    assert await keys(storage, at("")) == [key]


async def test_a_large_object_is_read_up_to_its_limit(storage: Storage, at: Place) -> None:
    """At most `limit + 1` bytes are read, and `size` is the size of the object."""
    await storage.put(at("a"), bytes(100))
    assert [len((await storage.get(at("a"), limit=limit)).body) for limit in (10, 99, 100, 200)] == [11, 100, 100, 100]
    assert (await storage.get(at("a"), limit=10)).size == 100


async def test_a_put_carries_its_checksum(storage: Storage, at: Place, sandbox: Sandbox) -> None:
    """S3 verifies and stores the SHA-256 of the body."""
    await storage.put(at("a"), b"film")
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key="a", ChecksumMode="ENABLED")
    assert b64decode(head["ChecksumSHA256"]) == sha256(b"film").digest()


@pytest.mark.parametrize("condition", ["create", "if_match"])
async def test_of_sixteen_writers_one_wins(storage: Storage, at: Place, condition: str) -> None:
    """Of 16 concurrent writes, one succeeds and 15 raise Conflict."""
    etag = await storage.put(at("a"), b"before") if condition == "if_match" else None
    racers = [storage.put(at("a"), f"{n}".encode(), create=etag is None, if_match=etag) for n in range(16)]
    ended = await asyncio.gather(*racers, return_exceptions=True)
    assert sum(isinstance(end, Conflict) for end in ended) == 15
    winner = next(number for number, end in enumerate(ended) if not isinstance(end, BaseException))
    assert (await storage.get(at("a"))).body == f"{winner}".encode()


async def test_409_is_a_lost_race_too() -> None:
    """Real S3 returns 409 ConditionalRequestConflict during another write, which no local server does."""
    client = made_up_session().client("s3")
    with Storage(client) as storage, Stubber(client) as stubber:
        stubber.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
        with pytest.raises(Conflict, match=r"409 ConditionalRequestConflict .* another writer was first"):
            await storage.put(S3Uri("b-1", "a"), b"", create=True)


async def test_a_409_of_a_listing_is_not_a_conflict() -> None:
    """A 409 is a lost race for writes of objects only."""
    client = made_up_session().client("s3")
    with Storage(client) as storage, Stubber(client) as stubber:
        stubber.add_client_error("list_objects_v2", "OperationAborted", http_status_code=409)
        with pytest.raises(StorageError) as caught:
            await keys(storage, S3Uri("b-1", ""))
    assert not isinstance(caught.value, Conflict)


async def test_a_missing_bucket_is_named(storage: Storage) -> None:
    """NoBucket is raised instead of NotFound, and names the setting."""
    nowhere = S3Uri("no-such-bucket-here", "a")
    for ask in (storage.get(nowhere), storage.put(nowhere, b""), keys(storage, nowhere)):
        with pytest.raises(NoBucket, match=r"bucket of s3://no-such-bucket-here/a does not exist.*I2V_BUCKET"):
            await ask


def xml(code: str) -> bytes:
    """An S3 error document."""
    return f"<Error><Code>{code}</Code><Message>Access Denied or so</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, xml("InternalError")), (503, xml("SlowDown")), (502, b"<html>Bad gateway</html>"), (500, b""), (400, b"{")],
)
async def test_a_failing_server_is_a_storage_error(status: int, body: bytes) -> None:
    """The error has the status and the object, whatever the body is."""
    async with running(send(status, body)) as server:
        with (
            single_attempt(server.url) as storage,
            pytest.raises(StorageError, match=rf"{status}.* of s3://b-1/a") as caught,
        ):
            await storage.get(S3Uri("b-1", "a"))
    assert type(caught.value) is StorageError


@pytest.mark.parametrize(
    "play",
    [send(200, b"", ETag='"e"', Last_Modified="never"), send(200, b"half", declared=10, close=True), send(200, b"")],
    ids=["no date", "cut short", "no headers"],
)
async def test_an_invalid_response_is_a_storage_error(play: Any) -> None:
    """A 200 without S3's headers, or with half a body, is not an object."""
    async with running(play) as server:
        with single_attempt(server.url) as storage, pytest.raises(StorageError, match="s3://b-1/a"):
            await storage.get(S3Uri("b-1", "a"))


async def test_an_unreachable_endpoint_is_named() -> None:
    """The error names the endpoint and its variables."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = rf"Cannot connect to S3 at http://127.0.0.1:{port} .*AWS_ENDPOINT_URL"
    with single_attempt(f"http://127.0.0.1:{port}") as storage, pytest.raises(StorageError, match=message):
        await storage.head(S3Uri("b-1", "a"))


async def test_missing_credentials_are_named(aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Without credentials, requests and presigning fail with a hint."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with Storage() as storage:
        for ask in (storage.get(S3Uri("b-1", "a")), storage.presign(S3Uri("b-1", "a"), seconds=1)):
            with pytest.raises(StorageError, match=r"No AWS credentials found for s3://b-1/a.*AWS_ACCESS_KEY_ID"):
                await ask


async def test_a_presigned_url_needs_no_credentials(storage: Storage, at: Place, sandbox: Sandbox) -> None:
    """A presigned URL has a lifetime and a signature that the server verifies."""
    await storage.put(at("a b+c%20&?#.jpg"), b"picture")
    url = await storage.presign(at("a b+c%20&?#.jpg"), seconds=60)
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Expires"] == ["60"]
    assert query["X-Amz-Signature"]
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        assert (await client.get(url)).content == b"picture"
        forged = url.replace(query["X-Amz-Signature"][0], "0" * 64)
        assert (await client.get(forged)).status_code == 403


async def test_a_presigned_url_can_name_a_version(storage: Storage, at: Place) -> None:
    """The version id is in the URL."""
    url = await storage.presign(at("a"), seconds=60, version_id="v1")
    assert parse_qs(urlsplit(url).query)["versionId"] == ["v1"]


async def test_an_age_uses_the_servers_clock() -> None:
    """A server whose clock is ten years off gives the same age."""
    headers: dict[str, Any] = {
        "ETag": '"e"',
        "Date": "Tue, 22 Nov 2016 12:05:00 GMT",
        "Last_Modified": "Tue, 22 Nov 2016 12:00:00 GMT",
    }
    async with running(send(200, b"x", **headers)) as server:
        with single_attempt(server.url) as storage:
            assert (await storage.get(S3Uri("b-1", "a"))).age_seconds == 300
