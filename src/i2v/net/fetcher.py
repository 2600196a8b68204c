"""Fetching what others name by URL, an https image or a result video: `Fetcher`.

It connects only where `i2v.net.address_policy` allows, to exactly the address that was checked, also at each
redirect.
The provider's API is not fetched here but asked in `i2v.apixo.client`.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import httpx
from urllib3 import BaseHTTPResponse

from i2v.errors import FetchError
from i2v.net import http_get
from i2v.net.address_policy import AddressPolicy, Resolver, bare_url, look_up
from i2v.net.http_get import MalformedResponse, Target
from i2v.net.limiter import AdaptiveLimiter
from i2v.settings import Settings

__all__ = ["FetchedBody", "FetchedFile", "Fetcher", "bare_url"]

MOST_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""The longest silence; the time in all is the caller's."""
_Begin = Callable[[], Callable[[bytes], object]]
"""Called once the body is to be taken; gives what takes each piece of it."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPIRED = frozenset({403, 404, 410})
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "compress", "deflate", "br", "zstd"})


class FetchedBody(NamedTuple):
    """A body in memory, and the type that its server claims."""

    body: bytes
    content_type: str | None


class FetchedFile(NamedTuple):
    """A body on disk: size in bytes, hash in hex, and the type that its server claims."""

    size: int
    sha256: str
    content_type: str | None


class Fetcher:
    """Fetches public https URLs: `async with Fetcher(settings) as fetcher:`.

    No proxy is taken from the environment, since it would look names up anew; certificates are (`SSL_CERT_FILE`).
    No connection is used twice, no cookie kept.

    Args:
        settings: `private_hosts` may also be fetched.
        connections: how many at once.
        resolve: looks a name up.
    """

    def __init__(self, settings: Settings, *, connections: int = 16, resolve: Resolver = look_up) -> None:
        self._limiter = AdaptiveLimiter(connections)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="fetch")
        self._policy = AddressPolicy(settings.private_hosts, resolve)
        self._tls = httpx.create_ssl_context(trust_env=True)
        self._tls.set_alpn_protocols(["http/1.1"])
        self._headers = {"User-Agent": f"i2v/{version('i2v')}", "Accept": "*/*", "Accept-Encoding": "identity"}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch_bytes(self, url: str, *, limit: int, total_seconds: float = 120) -> FetchedBody:
        """Fetch a URL into memory.

        Args:
            url: https, or of a private host that settings name.
            limit: the most bytes that are taken.
            total_seconds: time in all, after its turn has come.

        Raises:
            FetchError: it is not allowed, not there, too large, or did not come whole.
        """
        body = BytesIO()
        async with self._in_time(url, total_seconds):
            content_type = await self._fetch(url, limit, lambda: body.write)
        return FetchedBody(body.getvalue(), content_type)

    async def fetch_file(self, url: str, path: Path, *, limit: int, total_seconds: float = 600) -> FetchedFile:
        """Stream a URL into a file and hash it on the way; whatever fails, no part of it stays.

        Args:
            url: https, or of a private host that settings name.
            path: where it is put; a file that is there is replaced.
            limit: the most bytes that are taken.
            total_seconds: time in all, after its turn has come.

        Raises:
            FetchError: it is not allowed, not there, too large, or did not come whole.
        """
        with _Sink(path) as sink:
            async with self._in_time(url, total_seconds):
                content_type = await self._fetch(url, limit, sink.open)
        return FetchedFile(sink.size, sink.hash.hexdigest(), content_type)

    @asynccontextmanager
    async def _in_time(self, url: str, seconds: float) -> AsyncIterator[None]:
        async with self._limiter:
            within = asyncio.timeout(seconds)
            try:
                async with within:
                    yield
            except TimeoutError:
                silent = "its server did not answer, or fell silent"
                raise _broken(url, f"not done after {seconds:g} s" if within.expired() else silent) from None
            except httpx.InvalidURL:
                raise FetchError(f"{bare_url(url)} is no URL", "It looks like https://host/path") from None
            except (MalformedResponse, OSError) as error:
                words = " ".join(str(error).split())
                kind = "" if isinstance(error, MalformedResponse) else f"{type(error).__name__}: "
                raise _broken(url, f"{kind}{words}".removesuffix(": ")) from None

    async def _fetch(self, url: str, limit: int, begin: _Begin) -> str | None:
        """Follow redirects, checking each target; pass on the body and return its content type."""
        here = httpx.URL(url)
        for _ in range(MOST_REDIRECTS + 1):
            sock, target = await self._connect(here)
            tls = self._tls if here.scheme == "https" else None

            def read(sock: socket.socket = sock, target: Target = target, tls: ssl.SSLContext | None = tls) -> _End:
                with http_get.get(sock, target, self._headers, tls=tls, silence=SILENCE_SECONDS) as response:
                    return _read(response, url, limit, begin)

            end = await http_get.run_in_thread(self._threads, sock, read)
            if end.location is None:
                return end.content_type
            here = _redirect_target(here, end.location)
        raise _broken(url, f"more than {MOST_REDIRECTS} redirects")

    async def _connect(self, url: httpx.URL) -> tuple[socket.socket, Target]:
        """Connect to an allowed address of the URL's host."""
        name = bare_url(str(url))
        if url.userinfo:
            raise FetchError(f"{name} may not be fetched: it holds a user name", "Leave both out", 0, True)
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        port = url.port or {"https": 443, "http": 80}.get(url.scheme, 0)
        target = Target(host, url.netloc.decode("ascii"), url.raw_path.decode("ascii"))
        failure = OSError("no address")
        for address in await self._policy.addresses(url.scheme, host, port, name=name):
            try:
                return await http_get.connect(address, port, CONNECT_SECONDS), target
            except OSError as error:
                failure = error
        raise failure


def _redirect_target(here: httpx.URL, location: str) -> httpx.URL:
    try:
        return here.join(location)
    except httpx.InvalidURL:
        raise _broken(str(here), "it redirects to an invalid URL") from None


class _End(NamedTuple):
    """How a response ended: its redirect location, or the content type of its body."""

    location: str | None
    content_type: str | None


def _read(response: BaseHTTPResponse, url: str, limit: int, begin: _Begin) -> _End:
    if response.status in _REDIRECTS and (location := response.headers.get("location")):
        return _End(location, None)
    _check_head(response, url, limit)
    size, write = 0, begin()
    for piece in http_get.read_body(response):
        size += len(piece)
        if size > limit:
            raise _too_large(url, "more", limit)
        write(piece)
    return _End(None, response.headers.get("content-type"))


def _check_head(response: BaseHTTPResponse, url: str, limit: int) -> None:
    if response.status != httpx.codes.OK:
        hint = "The link may have expired: ask for a fresh one" if response.status in _EXPIRED else "Try again later"
        raise FetchError(f"{bare_url(url)} answered {response.status}", hint, response.status)
    if _COMPRESSIONS & {word.strip().lower() for word in response.headers.get("content-encoding", "").split(",")}:
        raise _broken(url, "it came compressed, which was not asked for")
    declared = http_get.declared_length(response.headers.getlist("content-length")) or 0
    if declared > limit:
        raise _too_large(url, f"{declared} bytes", limit)


class _Sink:
    """A file that is hashed while it is written, and that is gone if it was not finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.hash = hashlib.sha256()
        self.size = 0

    def open(self) -> Callable[[bytes], None]:
        """Make it, and give what takes each piece."""
        file = self._file = self._path.open("wb")

        def write(piece: bytes) -> None:
            file.write(piece)
            self.hash.update(piece)
            self.size += len(piece)

        return write

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        try:
            self._file.close()  # which writes the rest
        except OSError as full:
            self._path.unlink(missing_ok=True)
            raise FetchError(f"{self._path} could not be written: {full.strerror}", "Make room on the disk") from None
        if error is not None:
            self._path.unlink(missing_ok=True)


def _too_large(url: str, size: str, limit: int) -> FetchError:
    return FetchError(f"{bare_url(url)} is too large: {size}, where at most {limit} bytes are taken")


def _broken(url: str, why: str) -> FetchError:
    return FetchError(f"{bare_url(url)} could not be fetched: {why}", "Check the address and the network, try again")
