"""One GET over a connection of its own, its answer read in a thread: `Exchange`.

There a body costs C and the kernel alone, while the event loop does something else; a client of the loop takes several
times the CPU for a video. Where it may lead is the caller's to check.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import NamedTuple, Self, TypeVar

AT_ONCE_BYTES = 1 << 18
T = TypeVar("T")


class Target(NamedTuple):
    """What is asked for: the name that the certificate must bear, the `Host` header, and path with query."""

    host: str
    netloc: str
    path: str


class Exchange:
    """Connect, ask, read: `with await Exchange.connect(…) as exchange`.

    Args:
        sock: connected.
        target: what is asked for.
        tls: how to encrypt; None for plain HTTP.
    """

    def __init__(self, sock: socket.socket, target: Target, tls: ssl.SSLContext | None) -> None:
        self._sock, self._target, self._tls = sock, target, tls
        self._handle = sock.dup()  # the same connection, to hang up while the thread reads
        self._answer: http.client.HTTPResponse | None = None

    @classmethod
    async def connect(
        cls, address: str, port: int, target: Target, *, tls: ssl.SSLContext | None, seconds: float
    ) -> Self:
        """Connect to an IP address.

        Raises:
            OSError: nobody answers there, or not in time.
        """
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return cls(sock, target, tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer:
            self._answer.close()
        self._sock.close()
        self._handle.close()

    async def run(self, threads: Executor, work: Callable[[], T]) -> T:
        """Do in a thread what blocks. Whoever cancels it hangs up, which ends the thread too."""
        done = asyncio.get_running_loop().run_in_executor(threads, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)
            await asyncio.wait({done})
            done.exception()  # which nobody wants, and asyncio would complain of
            raise

    def ask(self, headers: Mapping[str, str], silence_seconds: float) -> http.client.HTTPResponse:
        """Send the request and read the answer's head; blocks.

        Args:
            headers: besides `Host`.
            silence_seconds: so long it may be silent, here and while its body comes.

        Raises:
            OSError: the connection broke, is silent, or its certificate is not good.
            http.client.HTTPException: this is no HTTP.
        """
        self._sock.settimeout(silence_seconds)
        if self._tls:
            self._sock = self._tls.wrap_socket(self._sock, server_hostname=self._target.host)
        connection = http.client.HTTPConnection(self._target.host)
        connection.sock = self._sock
        connection.putrequest("GET", self._target.path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": self._target.netloc, "Connection": "close", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        self._answer = connection.getresponse()
        return self._answer


def chunks(answer: http.client.HTTPResponse) -> Iterator[memoryview]:
    """The body as it comes; each view holds only until the next one.

    Raises:
        OSError: the connection broke or is silent.
        http.client.HTTPException: a part of the body is missing.
    """
    buffer = memoryview(bytearray(AT_ONCE_BYTES))
    while got := answer.readinto(buffer):
        yield buffer[:got]
