"""One GET over a connection of its own, its answer read in a thread: `Exchange`.

There a body costs C and the kernel alone, while the event loop does something else; a client of the loop takes several
times the CPU for a video. What the answer says is h11's to read, and it forgives nothing. Where it may lead is the
caller's to check.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from asyncio import Future
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any, NamedTuple, Self, TypeVar

import h11

AT_ONCE_BYTES = 1 << 18
HEAD_BYTES = 1 << 16
T = TypeVar("T")


class Target(NamedTuple):
    """What is asked for: the name that the certificate must bear, the `Host` header, and path with query."""

    host: str
    netloc: str
    path: str


class NoHttp(Exception):
    """The answer is not what HTTP allows, or it ends before its end."""


class Head(NamedTuple):
    """How an answer begins: its status and its headers, names in lower case, values of one name joined."""

    status: int
    headers: Mapping[str, str]


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
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)

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
        self._sock.close()
        self._handle.close()

    async def run(self, threads: Executor, work: Callable[[], T]) -> T:
        """Do in a thread what blocks. Whoever cancels it hangs up, which ends the thread too."""
        done = asyncio.get_running_loop().run_in_executor(threads, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            done.add_done_callback(_forget)
            with contextlib.suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)
            await asyncio.wait({done})
            raise

    def ask(self, headers: Mapping[str, str], silence_seconds: float) -> Head:
        """Send the request and read the answer's head; blocks.

        Args:
            headers: besides `Host`.
            silence_seconds: so long it may be silent, here and while its body comes.

        Raises:
            OSError: the connection broke, is silent, or its certificate is not good.
            NoHttp: this is no answer.
        """
        self._sock.settimeout(silence_seconds)
        if self._tls:
            self._sock = self._tls.wrap_socket(self._sock, server_hostname=self._target.host)
        own = {"Host": self._target.netloc, "Connection": "close", **headers}
        with _told():
            request = h11.Request(method="GET", target=self._target.path, headers=list(own.items()))
            self._sock.sendall((self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
            while isinstance(event := self._event(), h11.InformationalResponse):
                pass
        self._head = _head(event)
        return self._head

    def body(self) -> Iterator[memoryview]:
        """The body as it comes, whole or not at all; each view holds only until the next one; blocks.

        Raises:
            OSError: the connection broke or is silent.
            NoHttp: a part of the body is missing.
        """
        declared = self._head.headers.get("content-length")
        if declared is None or "transfer-encoding" in self._head.headers:
            yield from self._framed()
        else:
            yield from self._plain(int(declared))

    def _plain(self, left: int) -> Iterator[memoryview]:
        """So many bytes, past h11, which would copy each of them three times."""
        begun = self._http.trailing_data[0][:left]
        yield memoryview(begun)
        left -= len(begun)
        buffer = memoryview(bytearray(min(AT_ONCE_BYTES, left)))
        while left:
            got = self._fill(buffer[: min(len(buffer), left)])
            yield buffer[:got]
            left -= got

    def _fill(self, buffer: memoryview) -> int:
        got = 0
        while got < len(buffer):
            more = self._sock.recv_into(buffer[got:])
            if not more:
                raise NoHttp("it was cut short")
            got += more
        return got

    def _framed(self) -> Iterator[memoryview]:
        with _told():
            while isinstance(event := self._event(), h11.Data):
                yield memoryview(event.data)

    def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self._sock.recv(AT_ONCE_BYTES))
        return event


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """In words of our own: h11's may quote what the server sent, which may quote what it was asked."""
    try:
        yield
    except h11.ProtocolError:
        raise NoHttp("its answer is not what HTTP allows, or was cut short") from None


def _head(event: Any) -> Head:
    if not isinstance(event, h11.Response):
        raise NoHttp("it was answered with nothing")
    headers: dict[str, str] = {}
    for name, value in event.headers:
        before = f"{headers[name.decode()]}, " if name.decode() in headers else ""
        headers[name.decode()] = before + value.decode("latin-1")
    return Head(event.status_code, headers)


def _forget(done: Future[Any]) -> None:
    """What a thread raised that nobody waits for; asyncio would print it."""
    if not done.cancelled():
        done.exception()
