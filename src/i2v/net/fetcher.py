"""Downloads from URLs that other people chose, an https image or a result video: `Fetcher`.

It connects only to addresses that `i2v.net.address_policy` has checked, and checks every redirect. Requests to the
provider's API belong in `i2v.apixo.client`.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Self

import httpx
from urllib3 import BaseHTTPResponse

from i2v.errors import FetchError
from i2v.net import http_get
from i2v.net.address_policy import AddressPolicy, Resolver, Trust, display_url, resolve_host
from i2v.net.file_sink import FileSink
from i2v.net.http_get import MalformedResponse, ProxyFailed, Target
from i2v.net.limiter import AdaptiveLimiter
from i2v.net.proxies import PROXY_HINT, Proxies, Proxy
from i2v.net.response import declared_length, location, whole_range
from i2v.net.tls import tls_context, tls_problem
from i2v.settings import Settings

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""The longest time without a byte from the server. The caller sets the total time."""
_OpenSink = Callable[[], Callable[[bytes], object]]
"""Called when the body starts; returns the function that takes each piece."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPIRED = frozenset({403, 404, 410})
_PORTS = {"https": 443, "http": 80}


class FetchedBody(NamedTuple):
    """A body in memory, and its Content-Type header."""

    body: bytes
    content_type: str | None


class FetchedFile(NamedTuple):
    """A file on disk: its size in bytes, its SHA-256 in hex, and its Content-Type header."""

    size: int
    sha256: str
    content_type: str | None


class FirstByte(NamedTuple):
    """The head of the response to a request for the first byte: `size` is the whole object's, if the server says it."""

    status: int
    location: str | None
    content_type: str | None
    size: int | None
    code: str
    """The code of an error in S3's XML, or empty."""


class Fetcher:
    """Fetch public https URLs: `async with Fetcher(settings) as fetcher:`.

    Proxies and certificates are those of the environment (docs/network.md). Each request has its own connection, and
    no cookies are kept. The settings' `private_hosts` are allowed too. `connections` is the maximum number of
    concurrent requests.

    Raise `UsageError` if a proxy or the certificates of the environment cannot be used.
    """

    def __init__(self, settings: Settings, *, connections: int = 16, resolve: Resolver = resolve_host) -> None:
        self._limiter = AdaptiveLimiter(connections)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="fetch")
        self._policy = AddressPolicy(settings.private_hosts, resolve)
        self._proxies = Proxies()
        self._tls = tls_context()
        self._headers = {"User-Agent": f"i2v/{version('i2v')}", "Accept": "*/*", "Accept-Encoding": "identity"}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch_bytes(self, url: str, *, limit: int, total_seconds: float = 120) -> FetchedBody:
        """Fetch a URL of at most `limit` bytes into memory. `total_seconds` does not count the wait for a connection.

        Raise `FetchError` if the URL is not allowed, or the response is an error, too large, too slow or incomplete.
        """
        body = BytesIO()
        async with self._request(url, total_seconds):
            content_type = await self._fetch(url, limit, lambda: body.write)
        return FetchedBody(body.getvalue(), content_type)

    async def fetch_file(self, url: str, path: Path, *, limit: int, total_seconds: float = 600) -> FetchedFile:
        """Like `fetch_bytes`, but stream into a file, replacing an existing one, and hash it.

        After an error or a cancel no partial file is left.
        """
        with FileSink(path) as sink:
            async with self._request(url, total_seconds):
                content_type = await self._fetch(url, limit, sink.open)
        return FetchedFile(sink.size, sink.hash.hexdigest(), content_type)

    async def fetch_first_byte(self, url: str, *, total_seconds: float = 20) -> FirstByte:
        """Request one byte of a URL, without following redirects. Raise `FetchError` if there is no response."""
        headers = {**self._headers, "Range": "bytes=0-0"}
        async with self._request(url, total_seconds):
            sock, target = await self._connect(httpx.URL(url))

            def read() -> FirstByte:
                with http_get.get(sock, target, headers, self._tls, SILENCE_SECONDS) as response:
                    return _first_byte(response)

            return await http_get.run_in_thread(self._threads, sock, read)

    @asynccontextmanager
    async def _request(self, url: str, seconds: float) -> AsyncIterator[None]:
        """Wait for a free connection, enforce the total time, and turn every error into a `FetchError`."""
        async with self._limiter:
            try:
                async with asyncio.timeout(seconds) as deadline:
                    yield
            except TimeoutError:
                silent = "the server did not respond or stopped sending"
                raise _failed(url, f"not finished after {seconds:g} s" if deadline.expired() else silent) from None
            except httpx.InvalidURL:
                raise FetchError(f"{display_url(url)} is not a valid URL", "Use https://host/path") from None
            except (MalformedResponse, ProxyFailed, OSError) as error:
                raise _describe(url, error) from None

    async def _fetch(self, url: str, limit: int, open_sink: _OpenSink) -> str | None:
        """Follow redirects, checking each target; pass on the body and return its content type."""
        here = httpx.URL(url)
        for redirects in range(MAX_REDIRECTS + 1):
            sock, target = await self._connect(here, redirected=redirects > 0)

            def read(sock: socket.socket = sock, target: Target = target) -> _End:
                with http_get.get(sock, target, self._headers, self._tls, SILENCE_SECONDS) as response:
                    return _read(response, url, limit, open_sink)

            end = await http_get.run_in_thread(self._threads, sock, read)
            if end.location is None:
                return end.content_type
            try:
                here = here.join(end.location)
            except httpx.InvalidURL:
                raise _failed(str(here), "it redirects to an invalid URL") from None
        raise _failed(url, f"more than {MAX_REDIRECTS} redirects")

    async def _connect(self, url: httpx.URL, *, redirected: bool = False) -> tuple[socket.socket, Target]:
        """Connect to the first allowed address of the URL's host that accepts, or to the proxy for that host."""
        name = display_url(str(url))
        if url.userinfo:
            raise FetchError(f"{name} is not allowed: it contains a user name", "Remove the user name", 0, True)
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        port = url.port or _PORTS.get(url.scheme, 0)
        proxy = self._proxies.find(url.scheme, host, port)
        target = Target(url.scheme, host, port, url.netloc.decode("ascii"), url.raw_path.decode("ascii"), proxy)
        trust = Trust(proxied=proxy is not None, redirected=redirected)
        addresses = await self._policy.addresses(url.scheme, host, port, name=name, trust=trust)
        return await (_connect_to_proxy(proxy) if proxy else _connect_to(addresses, port)), target


async def _connect_to(addresses: Iterable[str], port: int) -> socket.socket:
    failure = OSError("no address")
    for address in addresses:
        try:
            return await http_get.connect(address, port, CONNECT_SECONDS)
        except OSError as error:
            failure = error
    raise failure


async def _connect_to_proxy(proxy: Proxy) -> socket.socket:
    try:
        return await _connect_to(await resolve_host(proxy.host, proxy.port), proxy.port)
    except OSError as error:
        raise ProxyFailed(f"the proxy {proxy} cannot be reached: {error}") from None


class _End(NamedTuple):
    """The result of one response: where it redirects to, or the content type of its body."""

    location: str | None
    content_type: str | None


def _read(response: BaseHTTPResponse, url: str, limit: int, open_sink: _OpenSink) -> _End:
    if response.status in _REDIRECTS and (target := location(response)):
        return _End(target, None)
    _check_head(response, url, limit)
    size, write = 0, open_sink()
    for piece in http_get.read_body(response):
        size += len(piece)
        if size > limit:
            raise _too_large(url, f"more than {limit} bytes", limit)
        write(piece)
    return _End(None, response.headers.get("content-type"))


def _first_byte(response: BaseHTTPResponse) -> FirstByte:
    headers = response.headers
    total = re.fullmatch(r"bytes 0-0/(\d{1,18})", headers.get("content-range", ""))
    size = int(total[1]) if total else None
    if response.status == httpx.codes.OK:
        size = declared_length(headers.getlist("content-length"))
    failed = response.status >= httpx.codes.BAD_REQUEST
    code = re.search(rb"<Code>(\w{1,64})</Code>", next(http_get.read_body(response), b"")) if failed else None
    target = location(response) if response.status in _REDIRECTS else None
    return FirstByte(response.status, target, headers.get("content-type"), size, code[1].decode() if code else "")


def _check_head(response: BaseHTTPResponse, url: str, limit: int) -> None:
    status = response.status
    if status not in {200, 203} and whole_range(response) is None:
        hint = "The link may have expired; request a new one" if status in _EXPIRED else "Try again later"
        if status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
            hint = PROXY_HINT
        raise FetchError(f"{display_url(url)} returned {status}", hint, status)
    declared = declared_length(response.headers.getlist("content-length")) or 0
    if declared > limit:
        raise _too_large(url, f"{declared} bytes", limit)


def _too_large(url: str, size: str, limit: int) -> FetchError:
    return FetchError(f"{display_url(url)} is too large: {size}; the limit is {limit} bytes", "Use a smaller file")


def _describe(url: str, error: Exception) -> FetchError:
    if problem := tls_problem(error):
        return FetchError(f"{display_url(url)} could not be fetched: {problem[0]}", problem[1])
    reason = " ".join(str(error).split())
    if isinstance(error, ProxyFailed):
        return FetchError(f"{display_url(url)} could not be fetched: {reason}", PROXY_HINT)
    kind = "" if isinstance(error, MalformedResponse) else f"{type(error).__name__}: "
    return _failed(url, f"{kind}{reason}".removesuffix(": "))


def _failed(url: str, reason: str) -> FetchError:
    message = f"{display_url(url)} could not be fetched: {reason}"
    return FetchError(message, "Check the URL and the network, then try again")
