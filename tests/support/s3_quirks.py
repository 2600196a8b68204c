"""A proxy in front of the sandbox's S3 that behaves as another S3 server does: `QuirkProxy`, one mode per behavior.

| mode | who behaves so |
|---|---|
| `no_conditions` | Backblaze B2: 501 for any condition |
| `only_none_match` | servers with If-None-Match alone: 501 for If-Match |
| `ignores_conditions`, `ignores_if_match` | old MinIO, gateways |
| `quoted`, `quoted_400` | S3Mock, Riak CS; Cloudflare R2, RustFS: If-Match needs quotes |
| `bare`, `ignores_quoted` | DigitalOcean Spaces, Ceph 16: If-Match without quotes |
| `weak` | a proxy that compresses |
| `never_matches`, `always_409`, `never_creates` | servers whose conditions are broken |
| `clock`, `expired`, `slow_down` | S3 with a wrong clock, expired credentials, too many requests |
| `region` | MinIO with MINIO_REGION, Garage: the signature must name eu-central-1 |
| `content_md5` | Dell ECS, old Ceph: multi-object delete needs Content-MD5 |
| `demands_kms` | a bucket whose policy demands encryption with a key |
| `path` | Supabase, gateways: the endpoint has a path |
| `web_page`, `web_page_503`, `not_found` | captive portals, maintenance pages, wrong paths |
| `no_etag`, `no_last_modified` | proxies that drop headers; `image_without_etag`, of one image |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.config import Config
from starlette.responses import Response

from tests.support.fault_proxy import FaultProxy, Headers, ProxiedRequest

PATH = "/storage/v1/s3"
REGION = "eu-central-1"
_SCOPE = re.compile(rb"(?:Credential=|X-Amz-Credential=)[^/%]+(?:/|%2F)\d+(?:/|%2F)([a-z0-9-]+)(?:/|%2F)s3")
_PAGE = "<!doctype html><html><body>Sign in to the network</body></html>"


def _error(status: int, code: str, **headers: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>As this server says</Message><Region>{REGION}</Region></Error>"
    return Response(body, status, headers, "application/xml")


_CONDITIONS: dict[str, Callable[[bytes], Response | None]] = {
    "quoted": lambda tag: None if tag.startswith(b'"') else _error(412, "PreconditionFailed"),
    "quoted_400": lambda tag: None if tag.startswith(b'"') else _error(400, "InvalidArgument"),
    "bare": lambda tag: _error(412, "PreconditionFailed") if tag.startswith((b'"', b"W/")) else None,
    "never_matches": lambda _: _error(412, "PreconditionFailed"),
    "always_409": lambda _: _error(409, "ConditionalRequestConflict"),
    "only_none_match": lambda _: _error(501, "NotImplemented"),
}
"""What a mode answers to If-Match."""
_ANSWERS: dict[str, Callable[[], Response]] = {
    "clock": lambda: _error(403, "RequestTimeTooSkewed"),
    "expired": lambda: _error(400, "ExpiredToken"),
    "web_page": lambda: Response(_PAGE, 200, media_type="text/html"),
    "web_page_503": lambda: Response(_PAGE, 503, media_type="text/html"),
    "not_found": lambda: Response("no such route", 404, media_type="text/plain"),
}
"""What a mode answers to everything."""


class QuirkProxy(FaultProxy):
    """A running proxy in front of the server at `upstream` (host:port) with one mode's behavior."""

    def __init__(self, upstream: str, mode: str) -> None:
        super().__init__(upstream)
        self.mode = mode

    @property
    def endpoint(self) -> str:
        """The value of AWS_ENDPOINT_URL."""
        return self.url + (PATH if self.mode == "path" else "")

    async def _forward(self, request: ProxiedRequest, headers: Headers) -> Response | None:
        if answer := _ANSWERS.get(self.mode):
            return answer()
        known = dict(headers)
        if response := self._judge(request, known):
            return response
        if self.mode in {"path", "region"}:
            self._sign_again(request, known)
        response = await super()._forward(request, list(known.items()))
        if response is not None:
            self._change(request, response)
        return response

    def _judge(self, request: ProxiedRequest, headers: dict[bytes, bytes]) -> Response | None:
        """Return the mode's own answer to a request; remove conditions that it ignores."""
        tag, creates = headers.get(b"if-match", b""), b"if-none-match" in headers
        if tag and self.mode in _CONDITIONS:
            return _CONDITIONS[self.mode](tag)
        if self.mode in {"ignores_conditions", "ignores_if_match"} or (self.mode == "ignores_quoted" and b'"' in tag):
            headers.pop(b"if-match", None)
        if self.mode == "ignores_conditions":
            headers.pop(b"if-none-match", None)
        is_wrong_region = self.mode == "region" and _region_of(request, headers) != REGION
        named = {"x-amz-bucket-region": REGION}
        return {
            ("no_conditions", bool(tag) or creates): _error(501, "NotImplemented"),
            ("never_creates", creates): _error(412, "PreconditionFailed"),
            ("slow_down", request.method == "PUT"): _error(503, "SlowDown"),
            ("content_md5", request.method == "POST" and b"content-md5" not in headers): _error(400, "MissingMD5"),
            ("demands_kms", self._is_unencrypted_write(request, headers)): _error(403, "AccessDenied"),
            ("path", not request.target.startswith(PATH)): _error(404, "NoSuchRoute"),
            ("region", is_wrong_region): _error(400, "AuthorizationHeaderMalformed", **named),
        }.get((self.mode, True))

    def _is_unencrypted_write(self, request: ProxiedRequest, headers: dict[bytes, bytes]) -> bool:
        return request.method == "PUT" and headers.get(b"x-amz-server-side-encryption-aws-kms-key-id") != b"our-key"

    def _sign_again(self, request: ProxiedRequest, headers: dict[bytes, bytes]) -> None:
        """Sign for the sandbox what it would not accept: another path, and another region."""
        request.target = request.target.removeprefix(PATH)
        if b"authorization" in headers:
            headers[b"authorization"] = headers[b"authorization"].replace(REGION.encode(), b"us-east-1")
        if "X-Amz-Signature" in request.target:
            parts = urlsplit(request.target)
            _, bucket, key = unquote(parts.path).split("/", 2)
            kind = parse_qs(parts.query).get("response-content-type")
            wanted = {"ResponseContentType": kind[0]} if kind else {}
            session, version_4 = (
                boto3.Session("test", "test", region_name="us-east-1"),
                Config(signature_version="s3v4"),
            )
            client = session.client("s3", endpoint_url=self.url, config=version_4)
            url = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key, **wanted})
            request.target = url.removeprefix(self.url)

    def _change(self, request: ProxiedRequest, response: Response) -> None:
        """Change or drop headers of the sandbox's response."""
        dropped = {"no_etag": b"etag", "no_last_modified": b"last-modified"}.get(self.mode)
        if self.mode == "image_without_etag" and "/images/0.jpg" in request.target:
            dropped = b"etag"
        headers = [(name.lower(), value) for name, value in response.raw_headers if name.lower() != dropped]
        weak = b"W/" if self.mode == "weak" else b""
        response.raw_headers = [(name, weak + value if name == b"etag" else value) for name, value in headers]


def _region_of(request: ProxiedRequest, headers: dict[bytes, bytes]) -> str:
    scope = _SCOPE.search(headers.get(b"authorization", b"") + request.target.encode())
    return scope[1].decode() if scope else ""
