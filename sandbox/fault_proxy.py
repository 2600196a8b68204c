"""A reverse proxy on a real socket between i2v and a server, which injects faults: `FaultProxy` and `FaultRule`.

Requests and responses pass unchanged unless a rule applies: it can kill or suspend a process, fail the request as S3
does, drop its connection, delay it or never answer, before it is forwarded or after the server has handled it.
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
from typing import Literal, Self

import h11

from sandbox.http_messages import Message, receive, send
from sandbox.server import BACKLOG, Server, listen

TIMEOUT_SECONDS = 10
POLL_SECONDS = 0.005
Action = Literal["kill", "stop", "fail", "drop", "delay", "hold"]
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass
class FaultRule:
    """What to do to a request: `FaultRule("fail", "PUT", r"/jobs/days/", status=503, code="SlowDown")`.

    `target` is a pattern for path and query, `body` one for the request's body. With `before`, the server does not see
    the request (a delayed one it sees later); with `after`, the server has handled it. `hits` counts how often the rule
    was applied.
    """

    action: Action
    method: str = ""
    """Empty for any."""
    target: str = ""
    body: str = ""
    when: Literal["before", "after"] = "before"
    skip: int = 0
    """How many matching requests to leave alone first."""
    times: int | None = 1
    """How often to apply it; None is always."""
    pid: int = 0
    """The process to kill or suspend (SIGSTOP). Until it is set, such a rule never applies."""
    status: int = 500
    code: str = "InternalError"
    """S3's error code."""
    seconds: float = 0.0
    matched: int = 0
    hits: int = 0

    def applies_to(self, request: ProxiedRequest) -> bool:
        """Whether to apply it to this request; counts it."""
        if (self.action in SIGNALS and not self.pid) or (self.times is not None and self.hits >= self.times):
            return False
        if not self.matches(request):
            return False
        self.matched += 1
        self.hits += self.matched > self.skip
        return self.matched > self.skip

    def matches(self, request: ProxiedRequest) -> bool:
        """Whether method, target and body match."""
        return (
            self.method in {"", request.method}
            and re.search(self.target, request.target) is not None
            and re.search(self.body.encode(), request.body) is not None
        )


@dataclass
class ProxiedRequest:
    """One request. `status` is the server's or a rule's, 0 without a response."""

    method: str
    target: str
    body: bytes = field(default=b"", repr=False)
    status: int = 0
    forwarded: bool = False
    answered: bool = False
    at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.method} {self.target.partition('?')[0]} {self.status or 'no response'}"


class FaultProxy(Server):
    """A running proxy in front of a server. Every method is safe to call from any thread.

    Args:
        upstream: host:port of the server.
        rewrite_address: replace the server's address with the proxy's in response bodies, so that links lead here.
    """

    def __init__(self, upstream: str, *, rewrite_address: bool = False) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._rewrite_address = rewrite_address
        self._rules: list[FaultRule] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._in_progress = 0
        self._random, self._delay_seconds = random.Random(0), 0.0  # noqa: S311 - repeatable chance
        self._ready = threading.Event()
        self.log: list[ProxiedRequest] = []
        """Every request since the last `reset`, in order."""

    def start(self) -> Self:
        """Listen on a free port."""
        listener = listen("127.0.0.1", 0)
        self.host, self.port = listener.getsockname()[:2]
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(listener)), name="fault-proxy", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(TIMEOUT_SECONDS):
            raise TimeoutError("the fault proxy did not start")
        return self

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(TIMEOUT_SECONDS)

    def add(self, rule: FaultRule) -> FaultRule:
        """Add a rule. If several apply, they run in order until one ends the request."""
        self._rules.append(rule)
        return rule

    def reset(self) -> None:
        """Remove all rules, the random delay and the log."""
        self._delay_seconds = 0.0
        self._rules.clear()
        self.log.clear()

    def set_random_delay(self, seconds: float, seed: int) -> None:
        """Delay each request by up to that long, so that each seed gives concurrent requests another order."""
        self._random, self._delay_seconds = random.Random(seed), seconds  # noqa: S311 - repeatable chance

    def wait_idle(self, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until no request is in progress, not even one of a dead process. Raise `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while self._in_progress:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._in_progress} requests are still in progress")
            time.sleep(POLL_SECONDS)

    async def _run(self, listener: socket.socket) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve_connection, sock=listener, backlog=BACKLOG)
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: asyncio calls this in a task
        self._connections.add(task)
        connection = h11.Connection(h11.SERVER)
        try:
            with suppress(OSError, h11.RemoteProtocolError, asyncio.CancelledError):
                while await self._serve_request(connection, reader, writer):
                    connection.start_next_cycle()
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _serve_request(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; return whether another may follow on this connection."""
        message = await receive(connection, reader, writer)
        if message is None or not isinstance(message.head, h11.Request):
            return False
        with self._counted():
            request = ProxiedRequest(message.head.method.decode(), message.head.target.decode(), message.body)
            self.log.append(request)
            response = await self._respond(request, message, reader)
        if response is None:
            return False
        send(connection, writer, response)
        await writer.drain()
        request.answered = True
        return connection.our_state is connection.their_state is h11.DONE

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1

    async def _respond(self, request: ProxiedRequest, message: Message, client: asyncio.StreamReader) -> Message | None:
        """Return the response, or None to drop the connection."""
        rules = [rule for rule in self._rules if rule.applies_to(request)]
        await asyncio.sleep(self._random.uniform(0, self._delay_seconds))
        for rule in rules:
            if rule.when == "before" and await _apply(rule, client):
                return _error_response(rule, request)
        response = await self._forward(request, message)
        for rule in rules:
            if rule.when == "after" and await _apply(rule, client):
                return _error_response(rule, request)
        return response

    async def _forward(self, request: ProxiedRequest, message: Message) -> Message | None:
        """Send the request to the server over a new connection and return its response."""
        request.forwarded = True
        reader, writer = await asyncio.open_connection(*self._upstream)
        connection = h11.Connection(h11.CLIENT)
        try:
            send(connection, writer, message)
            response = await receive(connection, reader, writer)
        finally:
            writer.close()
        if response is None or not isinstance(response.head, h11.Response):
            return None
        request.status = response.head.status_code
        return self._with_own_address(response) if self._rewrite_address else response

    def _with_own_address(self, response: Message) -> Message:
        theirs, ours = f"{self._upstream[0]}:{self._upstream[1]}", self.address
        if len(theirs) != len(ours):
            raise ValueError(f"{theirs} and {ours} differ in length, so Content-Length would be wrong")
        return response._replace(body=response.body.replace(theirs.encode(), ours.encode()))


async def _apply(rule: FaultRule, client: asyncio.StreamReader) -> bool:
    """Apply a rule; return whether it ends the request."""
    if rule.action == "delay":
        await asyncio.sleep(rule.seconds)
    if rule.action in SIGNALS:
        with suppress(ProcessLookupError):
            os.kill(rule.pid, SIGNALS[rule.action])
    while rule.action == "hold" and not client.at_eof():  # noqa: ASYNC110 - a reader has no event for its end
        await asyncio.sleep(POLL_SECONDS)
    return rule.action not in {"delay", "stop"}


def _error_response(rule: FaultRule, request: ProxiedRequest) -> Message | None:
    """Return S3's error response; None where the connection is dropped or the client is dead."""
    if rule.action != "fail":
        return None
    request.status = rule.status
    text = f"<Error><Code>{rule.code}</Code><Message>injected by the fault proxy</Message></Error>".encode()
    body = b"" if request.method == "HEAD" else b'<?xml version="1.0" encoding="UTF-8"?>\n' + text
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    return Message(h11.Response(status_code=rule.status, headers=headers, reason=b"Injected"), body)
