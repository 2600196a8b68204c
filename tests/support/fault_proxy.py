"""A reverse proxy on a real socket between i2v and a server, which injects faults: `FaultProxy` and `FaultRule`.

Requests and responses pass unchanged unless a rule applies: it can kill or suspend a process, fail the request as S3
does, drop its connection, delay it or never answer, before it is forwarded or after the server has handled it.
"""

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BytesIO
from typing import Literal

import aiohttp
from multidict import CIMultiDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from sandbox.raw_connection import RawConnection
from sandbox.server import TIMEOUT_SECONDS, ThreadServer, wait_until

KEEP_SECONDS = 2
"""Less than the five seconds after which a Prefect server closes an idle connection."""
NOT_FORWARDED = {b"expect", b"transfer-encoding"}
"""The proxy has answered `Expect: 100-continue` and read the whole body."""
MAX_BYTES_BODY = 1 << 20
"""aiohttp wants a larger body as a file."""
NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that aiohttp would add."""
Headers = list[tuple[bytes, bytes]]
Action = Literal["kill", "stop", "fail", "drop", "delay", "hold"]
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


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


class FaultProxy(ThreadServer):
    """A running proxy in front of the server at `upstream` (host:port). Every method is safe to call from any thread.

    With `rewrite_address`, response bodies name the proxy's address instead of the server's, so that links lead here.
    """

    DEFAULT_HEADERS = False

    def __init__(self, upstream: str, *, rewrite_address: bool = False) -> None:
        super().__init__()
        self._upstream = upstream
        self._rewrite_address = rewrite_address
        self._rules: list[FaultRule] = []
        self._in_progress = 0
        self._random, self._delay_seconds = random.Random(0), 0.0  # noqa: S311 - repeatable chance
        self.log: list[ProxiedRequest] = []
        """Every request since the last `reset`, in order."""

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
        wait_until(lambda: not self._in_progress, seconds)

    @asynccontextmanager
    async def open_app(self) -> AsyncIterator[ASGIApp]:
        """Open the connections to the server, which are used again as long as the server surely keeps them."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=NOT_ADDED,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(),
        ) as self._session:
            yield self._serve_request
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    while self._in_progress:  # noqa: ASYNC110 - cancelled by now; each closes its connection
                        await asyncio.sleep(0.01)

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: the ASGI app."""
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        request = ProxiedRequest(scope["method"], target.decode(), await Request(scope, receive).body())
        self.log.append(request)
        connection = RawConnection(scope, receive)
        self._in_progress += 1
        try:
            response = await self._respond(request, scope["headers"], connection)
        finally:
            self._in_progress -= 1
        if response is None:
            await connection.close()
        else:
            await response(scope, receive, send)
            request.answered = True

    async def _respond(self, request: ProxiedRequest, headers: Headers, connection: RawConnection) -> Response | None:
        """Return the response, or None to drop the connection."""
        rules = [rule for rule in self._rules if rule.applies_to(request)]
        await asyncio.sleep(self._random.uniform(0, self._delay_seconds))
        for rule in rules:
            if rule.when == "before" and await _apply(rule, connection):
                return _error_response(rule, request)
        response = await self._forward(request, headers)
        for rule in rules:
            if rule.when == "after" and await _apply(rule, connection):
                return _error_response(rule, request)
        return response

    async def _forward(self, request: ProxiedRequest, headers: Headers) -> Response | None:
        """Return the server's response, or None if it has none."""
        request.forwarded = True
        url = URL(f"http://{self._upstream}{request.target}", encoded=True)
        sent = CIMultiDict((name.decode(), value.decode()) for name, value in headers if name not in NOT_FORWARDED)
        body = BytesIO(request.body) if len(request.body) > MAX_BYTES_BODY else request.body or None
        try:
            async with self._session.request(
                request.method, url, headers=sent, data=body, allow_redirects=False
            ) as received:
                if received.status == HTTPStatus.SWITCHING_PROTOCOLS:
                    return None
                content = await received.read()
        except aiohttp.ClientError:
            return None
        request.status = received.status
        response = Response(content, received.status)
        response.raw_headers = list(received.raw_headers)
        if self._rewrite_address and content:
            response.body = content.replace(self._upstream.encode(), self.address.encode())
            response.headers["content-length"] = str(len(response.body))
        return response


async def _apply(rule: FaultRule, connection: RawConnection) -> bool:
    """Apply a rule; return whether it ends the request."""
    if rule.action == "delay":
        await asyncio.sleep(rule.seconds)
    if rule.action in SIGNALS:
        with suppress(ProcessLookupError):
            os.kill(rule.pid, SIGNALS[rule.action])
    if rule.action == "hold":
        await connection.wait_closed()
    return rule.action not in {"delay", "stop"}


def _error_response(rule: FaultRule, request: ProxiedRequest) -> Response | None:
    """Return S3's error response; None if the connection is dropped or the client is dead."""
    if rule.action != "fail":
        return None
    request.status = rule.status
    text = f"<Error><Code>{rule.code}</Code><Message>{rule.code}</Message></Error>"
    body = "" if request.method == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'
    return Response(body, rule.status, media_type="application/xml")
