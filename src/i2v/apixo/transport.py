"""The transport of the provider's client: connections, time limits and bounded bodies. Requests are in `client`."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from i2v.net.proxies import Proxy
from i2v.net.response import unpack
from i2v.net.tls import tls_context

CONNECT_SECONDS = 15.0
IDLE_SECONDS = 1.0
"""A connection that was idle longer is not reused, since the server may be closing it."""
BODY_LIMIT_BYTES = 1 << 20
REFUSAL_BODY_SECONDS = 5.0
"""How long to wait for the body of a 429, which is a refusal without it too."""
SENDING = "http11.send_request_headers.started"
"""The event of httpcore right before the first byte of a request."""
NOT_CONNECTED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
"""What httpx raises before it has sent anything."""


class Transport(httpx.AsyncBaseTransport):
    """Each POST opens its own connection; GETs share a pool.

    A server may close a kept-alive connection just as it is reused, and then it is unknown whether it read the request:
    2 of 1,000 submits became unknown that way. A handshake costs less.

    Through a proxy, https uses a tunnel, in which the proxy cannot repeat a request. There the limiter alone bounds
    the connections, because httpcore keeps a tunnel in its pool whose TLS handshake failed.
    """

    def __init__(self, connections: int, proxy: Proxy | None = None) -> None:
        context = tls_context()
        self._reads, self._posts = (
            httpx.AsyncHTTPTransport(
                verify=context,
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=None if proxy else connections,
                    max_keepalive_connections=kept,
                    keepalive_expiry=IDLE_SECONDS,
                ),
                proxy=_proxy(proxy, context) if proxy else None,
            )
            for kept in (connections, 0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the connections of its method."""
        transport = self._posts if request.method == "POST" else self._reads
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._posts.aclose()
        await self._reads.aclose()


def _proxy(proxy: Proxy, context: ssl.SSLContext) -> httpx.Proxy:
    tls = context if proxy.scheme == "https" else None
    return httpx.Proxy(f"{proxy.scheme}://{proxy}", headers=proxy.headers, ssl_context=tls)


class SendHook:
    """Calls `before_send` when the connection is ready and the request's first byte is about to be sent.

    It is a `trace` extension of a request: what it raises ends the request. `error` keeps that, since the connection
    may raise another error while it closes. The CONNECT that opens a proxy's tunnel is not the request.
    """

    def __init__(self, before_send: Callable[[], None] | None) -> None:
        self._before_send = before_send
        self.error: Exception | None = None
        self._last_event = ""
        self._sending = False

    @property
    def nothing_sent(self) -> bool:
        """Whether the connection was being prepared, and no byte of the request was sent."""
        return bool(self._last_event) and not self._sending

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Handle one event of the connection."""
        self._last_event = event
        if event != SENDING or info["request"].method == b"CONNECT":
            return
        if self._before_send is not None:
            try:
                self._before_send()
            except Exception as error:
                self.error = error
                raise
        self._sending = True


def timeouts(seconds: float) -> dict[str, float | None]:
    """Return the extension `timeout` of a request that has this much time in total."""
    connect = min(CONNECT_SECONDS, seconds / 4)  # so that a failed connection ends as a connect error
    return httpx.Timeout(seconds, connect=connect, pool=connect).as_dict()


async def read_body(response: httpx.Response, body: bytearray) -> None:
    """Append the body of a response to `body`, still encoded, to its end, and close the response.

    That of a 429 may be incomplete.
    """
    try:
        if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
            await _read_limited(response, body)
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(REFUSAL_BODY_SECONDS):
                await _read_limited(response, body)
    finally:
        await response.aclose()


def decoded_body(response: httpx.Response, body: bytearray) -> bytes:
    """Return the body, decoded as its Content-Encoding says and cut at the limit."""
    coding = response.headers.get("content-encoding", "")
    return unpack(bytes(body), coding, BODY_LIMIT_BYTES) if coding else bytes(body)


async def _read_limited(response: httpx.Response, body: bytearray) -> None:
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise ValueError(f"the body is larger than {BODY_LIMIT_BYTES} bytes")
