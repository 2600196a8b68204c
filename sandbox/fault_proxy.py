"""A reverse proxy on a real socket between i2v and a server of the sandbox: `FaultProxy`, and the `FaultRule` it takes.

Every request passes as it came, and its answer as it is, unless a toll is due: a process is killed or stopped, the
request is refused as S3 does, its connection is dropped, or it has to wait or is held for good, before it is passed on
or after it was done. A request is read whole before anything happens to it. What the servers themselves get wrong stays
with them.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

import h11

from sandbox.provider.server import listen

START_SECONDS = 10
READ_BYTES = 1 << 16
LOOK_SECONDS = 0.005
BACKLOG = 2048
Action = Literal["kill", "stop", "fail", "drop", "delay", "hold"]


SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass
class FaultRule:
    """What is done to a request: `FaultRule("fail", "PUT", r"/jobs/days/", status=503, code="SlowDown")`.

    `target` is searched for in path and query, `body` in what is sent. `before` means that the server never sees the
    request (a delayed one it sees later), `after` that it has done what was asked. `hits` counts how often the toll was
    taken.
    """

    action: Action
    method: str = ""
    """Empty for any."""
    target: str = ""
    body: str = ""
    when: Literal["before", "after"] = "before"
    skip: int = 0
    """How many that match pass in peace first."""
    times: int | None = 1
    """How often; None is always."""
    pid: int = 0
    """Who is killed, or stopped (SIGSTOP); at 0 nobody is, and the toll waits."""
    status: int = 500
    code: str = "InternalError"
    """S3's name of a failure."""
    seconds: float = 0.0
    seen: int = 0
    hits: int = 0

    def is_due(self, passage: ProxiedRequest) -> bool:
        """Whether it is this one's turn."""
        if (self.action in SIGNALS and not self.pid) or (self.times is not None and self.hits >= self.times):
            return False
        if not self.matches(passage):
            return False
        self.seen += 1
        self.hits += self.seen > self.skip
        return self.seen > self.skip

    def matches(self, passage: ProxiedRequest) -> bool:
        """Whether its conditions hold."""
        return (
            self.method in {"", passage.method}
            and re.search(self.target, passage.target) is not None
            and re.search(self.body.encode(), passage.body) is not None
        )


@dataclass
class ProxiedRequest:
    """One request that came. `status` is the server's, or a toll's, 0 while there is none."""

    method: str
    target: str
    body: bytes = field(default=b"", repr=False)
    status: int = 0
    forwarded: bool = False
    answered: bool = False
    at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.method} {self.target.partition('?')[0]} {self.status or 'lost'}"


class Message(NamedTuple):
    """A request's or an answer's head and its whole body."""

    head: h11.Request | h11.Response
    body: bytes


class FaultProxy:
    """A running gate before the server at `upstream`. Every method may be called from any thread.

    Args:
        upstream: host:port of the server.
        rewrite_address: replace the server's address with the proxy's in response bodies.
    """

    def __init__(self, upstream: str, *, rewrite_address: bool = False) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._rewrite_address = rewrite_address
        self._tolls: list[FaultRule] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._dice, self._delay_seconds = random.Random(0), 0.0  # noqa: S311 - chance that can be repeated
        self._ready = threading.Event()
        self.log: list[ProxiedRequest] = []
        """Every request since the last `open`, in order."""

    def start(self) -> Self:
        """Listen on a free port.

        Raises:
            TimeoutError: it did not start.
        """
        listener = listen("127.0.0.1", 0)
        self.host, self.port = listener.getsockname()[:2]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listener)), name="tollgate", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError("the tollgate did not start")
        return self

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(START_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where to go instead of the server."""
        return f"http://{self.address}"

    def add(self, toll: FaultRule) -> FaultRule:
        """Take this toll from now on. Of several that are due one after the other is taken, as long as one may."""
        self._tolls.append(toll)
        return toll

    def reset(self) -> None:
        """Forget all tolls and the log: from now on everything passes."""
        self._delay_seconds = 0.0
        self._tolls.clear()
        self.log.clear()

    def set_random_delay(self, seconds: float, seed: int) -> None:
        """Let each request wait for up to so long, so that those of one time come in another order with each seed."""
        self._dice, self._delay_seconds = random.Random(seed), seconds  # noqa: S311 - chance that can be repeated

    def wait_idle(self, seconds: float = START_SECONDS) -> None:
        """Wait until no request is under way, also of a process that is gone.

        Raises:
            TimeoutError: one still is.
        """
        deadline = time.monotonic() + seconds
        while self._busy:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._busy} requests are still under way")
            time.sleep(LOOK_SECONDS)

    async def _run(self, listener: socket.socket) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=listener, backlog=BACKLOG)
        self._ready.set()
        await self._end.wait()
        server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: asyncio calls this in a task
        self._connections.add(task)
        connection = h11.Connection(h11.SERVER)
        try:
            with suppress(OSError, h11.RemoteProtocolError, asyncio.CancelledError):
                while await self._serve(connection, reader, writer):
                    connection.start_next_cycle()
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _serve(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Let one request through; whether another may follow on this connection."""
        request = await _receive(connection, reader, writer)
        if request is None or not isinstance(request.head, h11.Request):
            return False
        with self._under_way():
            passage = ProxiedRequest(request.head.method.decode(), request.head.target.decode(), request.body)
            self.log.append(passage)
            answer = await self._pass(passage, request, reader)
        if answer is None:
            return False
        _send(connection, writer, answer)
        await writer.drain()
        passage.answered = True
        return connection.our_state is connection.their_state is h11.DONE

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def _pass(self, passage: ProxiedRequest, request: Message, asker: asyncio.StreamReader) -> Message | None:
        """The answer, or none where the connection is to be dropped."""
        due = [toll for toll in self._tolls if toll.is_due(passage)]
        await asyncio.sleep(self._dice.uniform(0, self._delay_seconds))
        for toll in due:
            if toll.when == "before" and await _take(toll, asker):
                return _refusal(toll, passage)
        answer = await self._ask(passage, request)
        for toll in due:
            if toll.when == "after" and await _take(toll, asker):
                return _refusal(toll, passage)
        return answer

    async def _ask(self, passage: ProxiedRequest, request: Message) -> Message | None:
        """Have the server do what is asked, over a connection of its own."""
        passage.forwarded = True
        reader, writer = await asyncio.open_connection(*self._upstream)
        connection = h11.Connection(h11.CLIENT)
        try:
            _send(connection, writer, request)
            answer = await _receive(connection, reader, writer)
        finally:
            writer.close()
        if answer is None or not isinstance(answer.head, h11.Response):
            return None
        passage.status = answer.head.status_code
        return self._rewrite_addressed(answer) if self._rewrite_address else answer

    def _rewrite_addressed(self, answer: Message) -> Message:
        theirs, ours = f"{self._upstream[0]}:{self._upstream[1]}", self.address
        if len(theirs) != len(ours):
            raise ValueError(f"{theirs} and {ours} are not equally long")
        return answer._replace(body=answer.body.replace(theirs.encode(), ours.encode()))


async def _take(toll: FaultRule, asker: asyncio.StreamReader) -> bool:
    """Do what the toll says; whether the request ends with it."""
    if toll.action == "delay":
        await asyncio.sleep(toll.seconds)
    if toll.action in SIGNALS:
        with suppress(ProcessLookupError):
            os.kill(toll.pid, SIGNALS[toll.action])
    while toll.action == "hold" and not asker.at_eof():  # noqa: ASYNC110 - a reader tells its end to nobody
        await asyncio.sleep(LOOK_SECONDS)
    return toll.action not in {"delay", "stop"}


def _refusal(toll: FaultRule, passage: ProxiedRequest) -> Message | None:
    """What S3 says when it fails; nothing where the connection is dropped or nobody is left to listen."""
    if toll.action != "fail":
        return None
    passage.status = toll.status
    text = f"<Error><Code>{toll.code}</Code><Message>a toll was taken</Message></Error>".encode()
    body = b"" if passage.method == "HEAD" else b'<?xml version="1.0" encoding="UTF-8"?>\n' + text
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    return Message(h11.Response(status_code=toll.status, headers=headers, reason=b"Toll"), body)


async def _receive(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Message | None:
    """A whole message, or none where the other side has left; who waits for a 100 before the body gets it."""
    head: h11.Request | h11.Response | None = None
    body = bytearray()
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                connection.receive_data(await reader.read(READ_BYTES))
            case h11.Request() | h11.Response() as head:
                pass
            case h11.Data(data=data):
                body += data
            case h11.EndOfMessage() if head is not None:
                return Message(head, bytes(body))
            case h11.ConnectionClosed() | h11.PAUSED:
                return None


def _send(connection: h11.Connection, writer: asyncio.StreamWriter, message: Message) -> None:
    """Write a message with its headers as they were spelled."""
    head = message.head
    headers = head.headers.raw_items()
    if isinstance(head, h11.Request):
        again: h11.Event = h11.Request(method=head.method, target=head.target, headers=headers)
    else:
        again = h11.Response(status_code=head.status_code, headers=headers, reason=head.reason)
    events = (again, h11.Data(data=message.body), h11.EndOfMessage()) if message.body else (again, h11.EndOfMessage())
    for event in events:
        writer.write(connection.send(event) or b"")
