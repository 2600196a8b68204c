"""What S3 receives: conditions and checksums with each attempt, and how often a request is sent."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from hashlib import sha256

import pytest

from i2v.errors import Conflict, NoBucket, NotFound, StorageError
from i2v.s3.client import ATTEMPTS
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from tests.support.aws_sessions import made_up_session
from tests.support.raw_server import RawServer, Responder, running, send

URI = S3Uri("b-1", "a")
STORED = send(200, ETag='"e"', Last_Modified="Thu, 26 Nov 2026 10:00:00 GMT")
SESSION_TOKEN = "a token"
Serve = Callable[..., AbstractAsyncContextManager[tuple[RawServer, Storage]]]


def failure(status: int, code: str = "") -> Responder:
    """Answer with an S3 error."""
    body = f"<Error><Code>{code}</Code><Message>Because</Message></Error>".encode() if code else b""
    return send(status, body, Content_Type="application/xml")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A storage, with temporary credentials, at a server that gives these answers."""

    @asynccontextmanager
    async def opened(*responders: Responder) -> AsyncIterator[tuple[RawServer, Storage]]:
        async with running(*responders) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            with Storage(session=made_up_session(token=SESSION_TOKEN)) as storage:
                yield server, storage

    return opened


@pytest.mark.parametrize(
    ("status", "code", "attempts", "error"),
    [
        (500, "InternalError", 2, None),
        (503, "SlowDown", 2, None),
        (412, "PreconditionFailed", 1, Conflict),
        (409, "ConditionalRequestConflict", 1, Conflict),
        (403, "AccessDenied", 1, StorageError),
    ],
)
async def test_each_attempt_carries_its_condition_and_checksum(
    serve: Serve, status: int, code: str, attempts: int, error: type[Exception] | None
) -> None:
    """A retry after a server error sends the same condition and checksum; a lost race or a denial is final."""
    async with serve(failure(status, code), STORED) as (server, storage):
        with pytest.raises(error, match=code) if error else nullcontext():
            await storage.put(URI, b"1", create=True)
    puts = [request for request in server.requests if request.head.startswith("PUT ")]
    assert len(puts) == attempts
    for request in puts:
        assert request.header("if-none-match") == "*"
        assert request.header("x-amz-checksum-sha256") == b64encode(sha256(b"1").digest()).decode()


async def test_a_body_is_sent_without_waiting(serve: Serve) -> None:
    """A put does not wait for 100 Continue, which some servers never send."""
    async with serve(STORED) as (server, storage):
        await storage.put(URI, b"1")
    assert server.requests[0].header("expect") == ""


async def test_condition_checksum_and_metadata_are_signed(serve: Serve) -> None:
    """The signature of a put covers its condition, checksum, metadata and session token."""
    async with serve(STORED) as (server, storage):
        await storage.put(URI, b"1", metadata={"job": "j"}, if_match="e0")
    request = server.requests[0]
    assert request.header("if-match") == '"e0"'
    signed = request.header("authorization").partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"if-match", "x-amz-checksum-sha256", "x-amz-meta-job", "x-amz-security-token"} <= set(signed)


async def test_a_failing_server_is_named_with_status_and_attempts(serve: Serve) -> None:
    """The error says what S3 returned, for which operation and object, and after how many attempts."""
    sentence = f"503 SlowDown for GetObject of s3://b-1/a after {ATTEMPTS} attempts: S3 limits the request rate"
    async with serve(failure(503, "SlowDown")) as (server, storage):
        with pytest.raises(StorageError, match=sentence + r" \(Because\)"):
            await storage.get(URI)
    assert len(server.requests) == ATTEMPTS


async def test_a_missing_object_is_not_a_missing_bucket(serve: Serve) -> None:
    """NotFound and NoBucket are raised after one request each."""
    answers = failure(404, "NoSuchKey"), failure(404), failure(404, "NoSuchBucket")
    async with serve(*answers) as (server, storage):
        with pytest.raises(NotFound):
            await storage.get(URI)
        with pytest.raises(NotFound):
            await storage.head(URI)
        with pytest.raises(NoBucket):
            await storage.get(URI)
    assert len(server.requests) == 3


def content(body: bytes, **options: object) -> Responder:
    """Answer with an object."""
    headers = {"ETag": '"e"', "Last_Modified": "Thu, 26 Nov 2026 10:00:00 GMT"}
    return send(200, body, **options, **headers)  # type: ignore[arg-type]  # the options of `send`


@pytest.mark.parametrize("limit", [None, 5, 9, 10, 20])
async def test_a_body_that_breaks_off_is_read_again(serve: Serve, limit: int | None) -> None:
    """Half a body is never returned, with or without a limit: it is read once more, then raised."""
    cut, whole = content(b"half", declared=10, close=True), content(b"0123456789")
    async with serve(cut, whole) as (server, storage):
        assert (await storage.get(URI, limit=limit)).body == b"0123456789"[: None if limit is None else limit + 1]
    assert len(server.requests) == 2
    async with serve(cut) as (server, storage):
        with pytest.raises(StorageError, match="The S3 request for s3://b-1/a failed"):
            await storage.get(URI, limit=limit)
    assert len(server.requests) == 2


@pytest.mark.parametrize(("limit", "connections"), [(None, 1), (3, 1), (4, 1), (2, 2)])
async def test_a_connection_is_reused_unless_a_rest_is_unread(
    serve: Serve, limit: int | None, connections: int
) -> None:
    """A body that was read to its end gives its connection back; a larger one is not downloaded, so it is closed."""
    async with serve(content(b"1234")) as (server, storage):
        for _ in range(2):
            await storage.get(URI, limit=limit)
    assert server.connections == connections


async def test_objects_without_a_body_reuse_their_connection(serve: Serve) -> None:
    """Empty objects and HEADs give their connection back."""
    async with serve(content(b"")) as (server, storage):
        await storage.get(URI)
        await storage.head(URI)
        await storage.get(URI, limit=5)
    assert server.connections == 1
