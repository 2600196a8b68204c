"""What is asked of S3 most goes past boto3: signed alike, asked once, and handed to boto3 where it is not well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from i2v.errors import Conflict, NoBucket, NotFound, StorageError
from i2v.s3.direct import Direct
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri

CREDENTIALS = Credentials("AKIDEXAMPLE", "secret", "a token")


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A server that keeps what comes and gives these answers, then 200: a status, and a code of S3's."""

    answers: list[tuple[int, str]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """It runs, and boto3's environment names it."""
    kept = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, code = kept.answers.pop(0) if kept.answers else (200, "")
            text = f"<Error><Code>{code}</Code></Error>".encode() if code and self.command != "HEAD" else b""
            self.send_response(status)
            for name, value in (("ETag", '"e"'), ("Last-Modified", "Thu, 26 Nov 2026 10:00:00 GMT")):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_HEAD = do_PUT = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        kept.url = f"http://127.0.0.1:{listening.server_port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", kept.url)
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        yield kept
        listening.shutdown()


@pytest.fixture
def storage(server: Server) -> Iterator[Storage]:
    """A storage with temporary credentials."""
    keys = CREDENTIALS.get_frozen_credentials()
    session = boto3.Session(keys.access_key, keys.secret_key, keys.token, region_name="eu-central-1")
    with Storage(session=session) as opened:
        yield opened


def signature_of(seen: Seen, server: Server) -> str:
    """What the signature of a request must be, from what came over the wire alone."""
    signed = re.search(r"SignedHeaders=([^,]+)", seen.headers["authorization"])
    assert signed
    headers = {name: seen.headers[name] for name in signed[1].split(";")}
    request = AWSRequest(method=seen.method, url=server.url + seen.path, headers=headers, data=seen.body)
    request.context["timestamp"] = seen.headers["x-amz-date"]
    signer = S3SigV4Auth(CREDENTIALS, "s3", "eu-central-1")
    told: str = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return told


@pytest.mark.parametrize("key", ["jobs/a.json", "a b+c%20&?#.jpg", "../up//é\n.jpg", "~tilde-_.!*'()"])
async def test_what_is_signed_is_what_is_sent(storage: Storage, server: Server, key: str) -> None:
    """The sandbox's S3 believes any signature; by the wire's own bytes each is right, and signs body and condition."""
    uri, body = S3Uri("b-1", key), b"film"
    await storage.put(uri, body, content_type="video/mp4", metadata={"job": "a  b"}, if_match="0" * 32)
    await storage.get(uri)
    await storage.head(uri)
    await storage.delete(uri)
    assert [seen.method for seen in server.seen] == ["PUT", "GET", "HEAD", "DELETE"]
    for seen in server.seen:
        assert seen.headers["authorization"].endswith(f"Signature={signature_of(seen, server)}"), seen
        assert seen.headers["x-amz-content-sha256"] == sha256(seen.body).hexdigest()
    signed = server.seen[0].headers["authorization"]
    assert all(
        name in signed for name in ("if-match", "x-amz-checksum-sha256", "x-amz-meta-job", "x-amz-security-token")
    )


@pytest.mark.parametrize(
    ("status", "code", "asked", "error"),
    [
        (200, "", 1, None),
        (500, "InternalError", 2, None),
        (503, "SlowDown", 2, None),
        (412, "PreconditionFailed", 1, Conflict),
        (409, "ConditionalRequestConflict", 1, Conflict),
        (403, "AccessDenied", 1, StorageError),
    ],
)
async def test_what_is_not_well_is_asked_again_by_boto3(
    storage: Storage, server: Server, status: int, code: str, asked: int, error: type[Exception] | None
) -> None:
    """A lost race and a refusal are final at once; what may pass is boto3's, which goes on as ever."""
    server.answers = [(status, code)]
    if error is None:
        await storage.put(S3Uri("b-1", "a"), b"1", create=True)
    else:
        with pytest.raises(error, match=code):
            await storage.put(S3Uri("b-1", "a"), b"1", create=True)
    assert len(server.seen) == asked
    assert {seen.headers["if-none-match"] for seen in server.seen} == {"*"}


@pytest.mark.parametrize("key", ["jobs/open/", "a b+c%20&?#/", "", "~tilde-_.!*'()é/"])
async def test_what_is_signed_of_a_listing_is_what_is_sent(storage: Storage, server: Server, key: str) -> None:
    """Whatever the prefix: what asks for a listing is signed as boto3 would sign it, and asks the same."""
    assert [entry async for entry in storage.list(S3Uri("b-1", key), start_after=key + "\n", deep=False)] == []
    own, by_boto3 = server.seen  # an empty answer is no page, so boto3 asks again
    assert own.headers["authorization"].endswith(f"Signature={signature_of(own, server)}")
    asked = [sorted(parse_qsl(urlsplit(seen.path).query, keep_blank_values=True)) for seen in (own, by_boto3)]
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    ("status", "code", "asked", "error"),
    [
        (503, "SlowDown", 2, None),
        (403, "AccessDenied", 1, "refuses ListObjectsV2 of s3://b-1/p/"),
        (404, "NoSuchBucket", 2, "bucket of s3://b-1/p/ does not exist"),
    ],
)
async def test_a_listing_that_is_not_well_is_told_in_the_same_words(
    storage: Storage, server: Server, status: int, code: str, asked: int, error: str | None
) -> None:
    """What may pass is asked again by boto3, a refusal is final at once, and a missing bucket is boto3's to say."""
    server.answers = [(status, code)] * (2 if code == "NoSuchBucket" else 1)
    with pytest.raises(StorageError, match=error) if error else nullcontext():
        assert [entry async for entry in storage.list(S3Uri("b-1", "p/"))] == []
    assert len(server.seen) == asked


async def test_what_is_not_there_is_told_apart(storage: Storage, server: Server) -> None:
    """No object is not found after one request; that the bucket itself is missing is boto3's to say."""
    server.answers = [(404, "NoSuchKey"), (404, ""), (404, "NoSuchBucket"), (404, "NoSuchBucket")]
    with pytest.raises(NotFound):
        await storage.get(S3Uri("b-1", "a"))
    with pytest.raises(NotFound):
        await storage.head(S3Uri("b-1", "a"))
    assert len(server.seen) == 2
    with pytest.raises(NoBucket):
        await storage.get(S3Uri("b-1", "a"))


async def test_a_bucket_of_another_region_is_left_to_boto3(storage: Storage, server: Server) -> None:
    """Whoever is sent away once does not try each time."""
    server.answers = [(400, "AuthorizationHeaderMalformed")]
    for _ in range(3):
        await storage.put(S3Uri("b-1", "a"), b"1")
    assert len(server.seen) == 4


def test_what_is_signed_in_another_way_is_left_to_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directory buckets and outposts have sessions and names of their own."""
    session = boto3.Session("k", "s", region_name="eu-central-1")
    client = session.client("s3")
    url = "https://x.amazonaws.com/k?X-Amz-Credential=k/20261126/eu-central-1/s3express/aws4_request"
    monkeypatch.setattr(client, "generate_presigned_url", lambda *_, **__: url)
    assert Direct(client, session).ask("GET", S3Uri("b-1", "a"), {}) is None
