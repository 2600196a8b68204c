"""Fetching what others name by URL, an https image or a result video: `Fetcher`.

It connects only where `i2v.addresses` allows, to exactly the address that was checked, and again so at each redirect.
The provider's API is not fetched here but asked in `i2v.apixo.client`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import httpcore
import httpx

from i2v.addresses import Reach, Resolver, bare_url, look_up
from i2v.errors import FetchError
from i2v.gate import Gate
from i2v.http_logs import quiet_http_logs
from i2v.settings import Settings
from i2v.wide_reads import WideReads

__all__ = ["Fetched", "FetchedFile", "Fetcher", "bare_url"]

MOST_REDIRECTS = 5
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""The longest silence; the time in all is the caller's."""
_EXPIRED = frozenset({403, 404, 410})
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "compress", "deflate", "br", "zstd"})


class Fetched(NamedTuple):
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
        quiet_http_logs()
        self._gate = Gate(connections)
        self._http = httpx.AsyncClient(
            transport=_CheckedTransport(Reach(settings.private_hosts, resolve), connections),
            headers={"User-Agent": f"i2v/{version('i2v')}", "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def fetch_bytes(self, url: str, *, limit: int, total_seconds: float = 120) -> Fetched:
        """Fetch a URL into memory.

        Args:
            url: https, or of a private host that settings name.
            limit: the most bytes that are taken.
            total_seconds: time in all, after its turn has come.

        Raises:
            FetchError: it is not allowed, not there, too large, or did not come whole.
        """
        body = bytearray()
        async with self._in_time(url, total_seconds), self._open(url, limit) as response:
            async for chunk in _limited(response, url, limit):
                body += chunk
            content_type = response.headers.get("content-type")
        return Fetched(bytes(body), content_type)

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
            async with self._in_time(url, total_seconds), self._open(url, limit) as response:
                sink.open()
                async for chunk in _limited(response, url, limit):
                    sink.write(chunk)
                content_type = response.headers.get("content-type")
        return FetchedFile(sink.size, sink.hash.hexdigest(), content_type)

    @asynccontextmanager
    async def _in_time(self, url: str, seconds: float) -> AsyncIterator[None]:
        async with self._gate:
            try:
                async with asyncio.timeout(seconds):
                    yield
            except TimeoutError:
                raise _broken(url, f"not done after {seconds:g} s") from None
            except httpx.InvalidURL:
                raise FetchError(f"{bare_url(url)} is no URL", "It looks like https://host/path") from None
            except (httpx.HTTPError, OSError) as error:
                words = " ".join(str(error).split())
                raise _broken(url, f"{type(error).__name__}: {words}" if words else type(error).__name__) from None

    @asynccontextmanager
    async def _open(self, url: str, limit: int) -> AsyncIterator[httpx.Response]:
        """The response at the end of all redirects, each of which is checked like the first address."""
        request = self._http.build_request("GET", url)
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._http.send(request, stream=True)
            try:
                if response.next_request is None:
                    _check_head(response, url, limit)
                    yield response
                    return
                request = response.next_request
            finally:
                await response.aclose()
        raise _broken(url, f"more than {MOST_REDIRECTS} redirects")


class _Sink:
    """A file that is hashed while it is written, and that is gone if it was not finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.hash = hashlib.sha256()
        self.size = 0

    def open(self) -> None:
        self._file = self._path.open("wb")

    def write(self, chunk: bytes) -> None:
        if self._file is None:
            raise ValueError("it is not open")
        self._file.write(chunk)
        self.hash.update(chunk)
        self.size += len(chunk)

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


class _WideTransport(httpx.AsyncHTTPTransport):
    """httpx's own over connections that read much at once; none is kept."""

    def __init__(self, connections: int) -> None:
        context = httpx.create_ssl_context(trust_env=True)
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(  # httpx leaves the network no other way in
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=0,
            network_backend=WideReads(),
        )


class _CheckedTransport(httpx.AsyncBaseTransport):
    """Connects to an address that was checked, under the name that was asked for (Host, SNI, certificate).

    Connections are not kept: the pool knows them by address, and one address can be many names.
    """

    def __init__(self, reach: Reach, connections: int) -> None:
        self._reach = reach
        self._inner = _WideTransport(connections)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.userinfo:
            raise FetchError(
                f"{bare_url(str(url))} may not be fetched: it holds a user name", "Leave user and password out", 0, True
            )
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        port = url.port or {"https": 443, "http": 80}.get(url.scheme, 0)
        failure: httpx.TransportError | None = None
        for address in await self._reach.addresses(url.scheme, host, port, name=bare_url(str(url))):
            try:
                return await self._inner.handle_async_request(_pinned(request, host, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError("no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _pinned(request: httpx.Request, host: str, address: str) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address.partition("%")[0]),
        headers=request.headers,  # with the Host of the name
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


def _check_head(response: httpx.Response, url: str, limit: int) -> None:
    status = response.status_code
    if status != httpx.codes.OK:
        hint = "The link may have expired: ask for a fresh one" if status in _EXPIRED else "Try again later"
        raise FetchError(f"{bare_url(url)} answered {status}", hint, status)
    if _COMPRESSIONS & {word.strip().lower() for word in response.headers.get("content-encoding", "").split(",")}:
        raise _broken(url, "it came compressed, which was not asked for")
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(url, f"{declared} bytes", limit)


async def _limited(response: httpx.Response, url: str, limit: int) -> AsyncIterator[bytes]:
    """The bytes as they come; httpx raises where fewer come than were declared."""
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > limit:
            raise _too_large(url, "more", limit)
        yield chunk
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) != size:
        raise _broken(url, f"{size} of {declared} bytes came")


def _too_large(url: str, size: str, limit: int) -> FetchError:
    return FetchError(f"{bare_url(url)} is too large: {size}, where at most {limit} bytes are taken")


def _broken(url: str, why: str) -> FetchError:
    return FetchError(f"{bare_url(url)} could not be fetched: {why}", "Check the address and the network, try again")
