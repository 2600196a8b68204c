"""One HTTP GET with urllib3 over a socket that is already connected.

`connect` and `run_in_thread` belong to the event loop; `get` and `read_body` block, so call them in a thread. Keep out
which addresses are allowed (`address_policy`) and what a status means (`fetcher`).
"""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from http.client import HTTPException, HTTPResponse
from typing import NamedTuple, TypeVar

from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util.response import assert_header_parsing

READ_BYTES = 1 << 18
INFORMATIONAL = range(102, 200)
T = TypeVar("T")


class Target(NamedTuple):
    """The name for SNI and the certificate, the value of `Host`, and the path with its query."""

    host: str
    netloc: str
    path: str


class MalformedResponse(Exception):
    """The response violates HTTP or ends early. The message never quotes the server."""


async def connect(address: str, port: int, seconds: float) -> socket.socket:
    """Connect to an IP address. Raise `OSError` if the connection fails or times out."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def run_in_thread(threads: Executor, sock: socket.socket, work: Callable[[], T]) -> T:
    """Run `work`, which reads from `sock`; then close it. Cancelling shuts the socket down and waits for the thread."""
    with sock, sock.dup() as handle:  # `work` can give the descriptor to a TLS socket; the duplicate stays usable
        done = asyncio.get_running_loop().run_in_executor(threads, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            _hang_up(handle)
            while not done.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({done})
            raise


def _hang_up(sock: socket.socket) -> None:
    """Shut the socket down and discard what it has received, which a thread could take seconds to parse."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
        sock.setblocking(False)
        while sock.recv(READ_BYTES):
            pass


@contextlib.contextmanager
def get(
    sock: socket.socket,
    target: Target,
    headers: Mapping[str, str],
    *,
    tls: ssl.SSLContext | None,
    silence_seconds: float,
) -> Iterator[BaseHTTPResponse]:
    """Send the request over a connected socket, with TLS unless `tls` is `None`; read the head of the final response.

    `headers` lacks `Host` and `Connection`; `silence_seconds` limits the time without a byte. Raise `OSError` if the
    connection breaks or times out or the certificate is invalid, `MalformedResponse` if the response is not valid HTTP.
    """
    all_headers = {"Host": target.netloc, "Connection": "close", **headers}
    with contextlib.closing(_Connection(sock, target.host, tls, silence_seconds)) as connection:
        with _own_errors():
            connection.request("GET", target.path, headers=all_headers, preload_content=False, decode_content=False)
            response = connection.getresponse()
        with contextlib.closing(response):
            yield response


def declared_length(values: Iterable[str]) -> int | None:
    """Return the length that the Content-Length headers declare, None without one; reject different values."""
    lengths = {length.strip() for value in values for length in value.split(",")}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not re.fullmatch(r"[0-9]{1,18}", length):
        raise MalformedResponse("the Content-Length is invalid")
    return int(length)


def read_body(response: BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the body in pieces of up to 256 KB.

    Raise `OSError` if the connection breaks or times out, `MalformedResponse` if the body is incomplete.
    """
    expected = declared_length(response.headers.getlist("content-length"))
    received = 0
    # `read` needs fewer calls, but on a chunk size of -1 it reads everything into memory; `read1` does not
    read = response.read1 if response.chunked else response.read
    while True:
        with _own_errors():
            piece = read(READ_BYTES)
        if not piece:
            break
        received += len(piece)
        yield piece
    if expected not in {None, received}:
        raise MalformedResponse("the body does not have the declared length")


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Replace the messages of urllib3 and `http.client`: they can quote the server, which can quote the URL."""
    try:
        yield
    except OSError:
        raise  # first, because a certificate error is a ValueError too
    except ReadTimeoutError:
        raise TimeoutError from None
    except (HTTPError, HTTPException, ValueError) as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise MalformedResponse("the response is malformed or incomplete") from None


class _Response(HTTPResponse):
    """Reject what `http.client` tolerates in a head, before urllib3 logs it together with the URL."""

    def begin(self) -> None:
        """Read the head; skip every informational response, where `http.client` skips only 100."""
        super().begin()
        while self.status in INFORMATIONAL:
            self.headers = None  # type: ignore[assignment]  # makes `begin` read again
            super().begin()
        assert_header_parsing(self.headers)
        declared_length(self.headers.get_all("content-length", []))
        coding = ",".join(self.headers.get_all("transfer-encoding", [])).strip().lower()
        if coding == "chunked":  # `http.client` does not strip it
            self.chunked, self.chunk_left, self.length = True, None, None
        elif coding:
            raise HTTPException("unsupported transfer coding")


class _Connection(HTTPConnection):
    """A connection over a given socket. A pool logs the whole URL and hides the socket until the handshake is over."""

    response_class = _Response

    def __init__(self, sock: socket.socket, host: str, tls: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__(host, port=0, timeout=timeout)  # with a port, the host can be an IPv6 address
        self._connected, self._tls = sock, tls

    def connect(self) -> None:
        """Use the given socket; with TLS, verify the certificate for the host."""
        self._connected.settimeout(self.timeout)
        if self._tls:
            self.sock = self._tls.wrap_socket(self._connected, server_hostname=self.host)
        else:
            self.sock = self._connected
