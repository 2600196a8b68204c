"""`HttpServer`: uvicorn, with limits for clients that open connections and send no request.

uvicorn has no time limit for a request's head, and its `limit_concurrency` counts silent connections as requests.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""How long a connection may take for the complete head of a request."""
MAX_CONNECTIONS = 500
MAX_CLIENT_CONNECTIONS = 400
"""Of one address. A reverse proxy is one client."""


class LimitedProtocol(H11Protocol):
    """One connection. Above a limit, the connection that has waited longest for a request makes room for the new one.

    So silent connections, however many, keep no other client out.
    """

    head_seconds = HEAD_SECONDS
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection and apply the limits."""
        super().connection_made(transport)
        self._watch_head()
        everyone = [each for each in self.connections if isinstance(each, LimitedProtocol)]
        same_client = [each for each in everyone if each.address == self.address]
        if len(same_client) > MAX_CLIENT_CONNECTIONS:
            _make_room(same_client)
        elif len(everyone) > MAX_CONNECTIONS:
            _make_room(everyone)

    def handle_events(self) -> None:
        """Handle what has arrived."""
        super().handle_events()
        self._watch_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._stop_timer()

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self.drop)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    @property
    def address(self) -> str:
        """The client's IP address."""
        return self.client[0] if self.client else ""

    @property
    def waits_until(self) -> float:
        """When the wait for a request ends, by the loop's clock; infinite while a request is being handled."""
        return self._head_timer.when() if self._head_timer else float("inf")

    def drop(self) -> None:
        """Close the connection at once."""
        self.connections.discard(self)
        self._stop_timer()
        self.transport.abort()


def _make_room(connections: list[LimitedProtocol]) -> None:
    min(connections, key=lambda each: each.waits_until).drop()


class HttpServer(uvicorn.Server):
    """A server that leaves the signals to its caller: pending work is finished before connections are closed."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=LimitedProtocol,
                ws="none",
                access_log=False,
                log_config=None,
                log_level="warning",
                lifespan="off",
                timeout_graceful_shutdown=2,
                server_header=False,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
