"""One HTTP GET with urllib3 over a socket that is already connected, to the server or to a forward proxy.

`connect` and `run_in_thread` belong to the event loop; `get` and `read_body` block, so call them in a thread. How a
response is read is in `response`. Keep out which addresses are allowed (`address_policy`) and what a status means
(`fetcher`).
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from http.client import HTTPException
from typing import NamedTuple, TypeVar

from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import ssl_wrap_socket

from i2v.net.proxies import Proxy
from i2v.net.response import TolerantResponse, TunnelResponse, declared_length, whole_range

READ_BYTES = 1 << 18
T = TypeVar("T")


class Target(NamedTuple):
    """Where a request goes."""

    scheme: str
    host: str
    """For SNI and the certificate."""
    port: int
    netloc: str
    """The value of `Host`."""
    path: str
    """With the query."""
    proxy: Proxy | None = None


class MalformedResponse(Exception):
    """The response violates HTTP or ends early. The message never quotes the server."""


class ProxyFailed(Exception):
    """The proxy cannot be reached or does not connect to the server."""


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
    sock: socket.socket, target: Target, headers: Mapping[str, str], tls: ssl.SSLContext, silence_seconds: float
) -> Iterator[BaseHTTPResponse]:
    """Send the request over a connected socket, for https with TLS; read the head of the final response.

    `headers` lacks `Host` and `Connection`; `silence_seconds` limits the time without a byte. Raise `OSError` if the
    connection breaks or times out or the certificate is invalid, `MalformedResponse` if the response is not valid HTTP,
    `ProxyFailed` if the proxy refuses.
    """
    all_headers, path = {"Host": target.netloc, "Connection": "close", **headers}, target.path
    if target.proxy and target.scheme == "http":
        all_headers |= target.proxy.headers
        path = f"http://{target.netloc}{path}"
    with contextlib.closing(_Connection(sock, silence_seconds)) as connection:
        with _own_errors():
            connection.prepare(target, tls)
            connection.request("GET", path, headers=all_headers, preload_content=False)
            response = connection.getresponse()
        with contextlib.closing(response):
            yield response


def read_body(response: BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the body, decoded as its Content-Encoding says, in pieces of up to 256 KB.

    Raise `OSError` if the connection breaks or times out, `MalformedResponse` if the body is incomplete.
    """
    expected = {declared_length(response.headers.getlist("content-length")), whole_range(response)} - {None}
    # `read` needs fewer calls, but on a chunk size of -1 it reads everything into memory; `read1` does not
    read = response.read1 if response.chunked else response.read
    while True:
        with _own_errors():
            piece = read(READ_BYTES, decode_content=True)
        if not piece:
            break
        yield piece
    if expected - {response.tell()}:
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


class _Connection(HTTPConnection):
    """A connection over a given socket. A pool logs the whole URL and hides the socket until the handshake is over."""

    response_class = TolerantResponse
    sock: socket.socket

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        super().__init__("", port=0, timeout=timeout)
        sock.settimeout(timeout)
        self.sock = sock

    def prepare(self, target: Target, tls: ssl.SSLContext) -> None:
        """Open the proxy's tunnel and verify the certificate for the host, where the target needs it."""
        if target.proxy and target.proxy.scheme == "https":
            self._start_tls(target.proxy.host, tls)
        if target.scheme == "https":
            if target.proxy:
                self._open_tunnel(target, target.proxy)
            self._start_tls(target.host, tls)

    def _open_tunnel(self, target: Target, proxy: Proxy) -> None:
        name = f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"
        self.response_class = TunnelResponse
        self.request("CONNECT", name, headers={"Host": name, **proxy.headers}, preload_content=False)
        with contextlib.closing(self.getresponse()) as response:
            if response.status not in range(200, 300):
                raise ProxyFailed(f"the proxy {proxy} does not connect to the host: it returned {response.status}")
        self.response_class = TolerantResponse

    def _start_tls(self, host: str, context: ssl.SSLContext) -> None:
        tls_in_tls = isinstance(self.sock, ssl.SSLSocket)
        self.sock = ssl_wrap_socket(  # type: ignore[assignment]  # urllib3's TLS within TLS behaves like a socket
            self.sock, ssl_context=context, server_hostname=host, tls_in_tls=tls_in_tls
        )
