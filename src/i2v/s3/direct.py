"""GET, HEAD, PUT, DELETE and lists without boto3's machinery, twice their CPU: `Direct`, behind `i2v.s3.storage`.

Each is tried once: signed and sent by botocore, over the boto3 client's own connections. What is not plainly answered
is `None`, and boto3 asks again, with its retries, redirects and words. Where a bucket lies is also boto3's to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from io import FileIO
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from i2v.s3_uri import S3Uri

NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The sha256 of no bytes."""
PIECE_BYTES = 1 << 16
OPERATIONS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
LIST = "ListObjectsV2"
_PLAIN = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED})
"""Answers that boto3 does not ask again for either."""
_MOVED = frozenset({HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.BAD_REQUEST})
"""Answers of a region that is not the bucket's."""
_CODE = re.compile(rb"<Code>(\w+)</Code>")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of success. Names of headers are in lower case."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a bucket's objects lie, and for which region requests are signed."""

    url: str
    region: str


class _Signer(S3SigV4Auth):
    """Signs the body's hash that is known already, instead of making it again."""

    def payload(self, request: Any) -> str:
        """The sha256 in hex."""
        digest: str = request.context["sha256"]
        return digest


class SentFile(FileIO):
    """A file that is sent while it is read, in pieces that keep both sides busy and that a slow line takes in time."""

    def read(self, size: int | None = -1, /) -> bytes:
        """The next piece: a client's own are 16 KB."""
        return super().read(-1 if size is None or size < 0 else max(size, PIECE_BYTES)) or b""


class Direct:
    """Requests over a boto3 client's connections, from any thread."""

    def __init__(self, client: Any, session: boto3.Session) -> None:
        self._client = client
        self._session = session
        self._places: dict[str, _Place | None] = {}

    def ask(
        self,
        method: str,
        uri: S3Uri,
        headers: Mapping[str, str],
        *,
        body: bytes | SentFile = b"",
        sha256: str = NOTHING,
        limit: int | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """One request; `None` where boto3 must ask. Of an answer larger than `limit` bytes only the first `limit + 1`.

        A GET with a `query` asks for a list of the bucket's objects, and its address has no key; a PUT with one is a
        part of an upload.

        Raises:
            ClientError: the object is not there, the condition did not hold, or it is forbidden.
        """
        try:
            request = self._signed(method, uri, headers, body, sha256, query or {})
            if request is None:
                return None
            response, content = self._send(request, limit)
        except (BotoCoreError, HTTPError, ValueError):
            return None
        status = response.status_code
        if status in _PLAIN:
            _raise_plain(LIST if query and method == "GET" else OPERATIONS[method], status, content)
        elif status in _MOVED:
            self._places[uri.bucket] = None
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return None
        return Answer({name.lower(): value for name, value in response.headers.items()}, content)

    def _send(self, request: AWSPreparedRequest, limit: int | None) -> tuple[Any, bytes]:
        request.stream_output = limit is not None
        response = self._client._endpoint.http_session.send(request)  # noqa: SLF001 - its proxies, certificates and pool
        if limit is None:
            return response, response.content
        content: bytes = response.raw.read(limit + 1)
        if len(content) < min(limit + 1, int(response.headers.get("Content-Length", 0))):
            raise ValueError("it was cut short")
        if len(content) > limit:
            response.raw.close()  # what is left of it is not wanted, and the connection of no use
        return response, content

    def _signed(
        self,
        method: str,
        uri: S3Uri,
        headers: Mapping[str, str],
        body: bytes | SentFile,
        sha256: str,
        query: Mapping[str, str],
    ) -> AWSPreparedRequest | None:
        place, credentials = self._place(uri.bucket), self._session.get_credentials()
        if place is None or credentials is None or not all(value.isascii() for value in headers.values()):
            return None
        url = place.url + quote(uri.key, safe="/~") + ("?" if query else "") + urlencode(query, quote_via=quote)
        request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
        request.context["sha256"] = sha256
        _Signer(credentials.get_frozen_credentials(), "s3", place.region).add_auth(request)
        prepared: AWSPreparedRequest = request.prepare()
        return prepared

    def _place(self, bucket: str) -> _Place | None:
        if bucket not in self._places:
            url = self._client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
            self._places[bucket] = _read_place(url)
        return self._places[bucket]


def _read_place(url: str) -> _Place | None:
    """By a presigned address of the object `k`; none for what is signed in another way than S3's usual one."""
    parts = urlsplit(url)
    scope = parse_qs(parts.query).get("X-Amz-Credential", [""])[0].split("/")[-3:]
    if not parts.path.endswith("/k") or len(scope) != 3 or scope[1:] != ["s3", "aws4_request"]:  # noqa: PLR2004
        return None
    return _Place(f"{parts.scheme}://{parts.netloc}{parts.path[:-1]}", scope[0])


def _raise_plain(operation: str, status: int, body: bytes) -> None:
    """In boto3's words. A GET that found neither object nor a reason is left to boto3."""
    found = _CODE.search(body)
    code = found[1].decode() if found else str(status)
    if status == HTTPStatus.NOT_FOUND and operation != "HeadObject" and code != "NoSuchKey":
        return
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    raise ClientError(response, operation)
