"""What the sandbox's servers share: `Server`, `ThreadServer` for ASGI apps, `listen`, `wait_until`."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Self

import uvicorn
from starlette.types import ASGIApp

from sandbox.raw_connection import RawHttpProtocol

BACKLOG = 2048
TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.005
PAUSE_PER_CHECK = 3
"""How many times as long as a check takes the next one waits: polling must not take the CPU from what is awaited."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""`verify=NO_TLS` for clients of servers on loopback: else each loads all root certificates, for 20 ms of CPU."""


class Server:
    """A server on loopback: `with Server() as server:`. A subclass implements `start` and `stop`."""

    host: ClassVar[str] = "127.0.0.1"

    def __init__(self, port: int = 0) -> None:
        self.port = port

    def start(self) -> Self:
        """Start the server and wait until it answers. Port 0 becomes a free port."""
        raise NotImplementedError

    def stop(self) -> object:
        """Stop the server."""
        raise NotImplementedError

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
        """The root URL."""
        return f"http://{self.address}"


class ThreadServer(Server):
    """An ASGI app on uvicorn, in a thread with its own event loop. A subclass implements `open_app`."""

    DEFAULT_HEADERS: ClassVar[bool] = True
    """Whether uvicorn adds Date and Server to responses."""

    def open_app(self) -> AbstractAsyncContextManager[ASGIApp]:
        """Return a context manager that creates the app on the event loop and closes it."""
        raise NotImplementedError

    def start(self) -> Self:
        """Listen. Raise `OSError` if the port is taken."""
        listener = listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)), daemon=True)
        self._thread.start()
        if not self._ready.wait(TIMEOUT_SECONDS):
            raise TimeoutError(f"{type(self).__name__} did not start")
        return self

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.open_app() as app:
            config = uvicorn.Config(
                app,
                http=RawHttpProtocol,
                interface="asgi3",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                backlog=BACKLOG,
                log_level="critical",
                date_header=self.DEFAULT_HEADERS,
                server_header=self.DEFAULT_HEADERS,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=75,
            )
            self._server = uvicorn.Server(config)
            self._loop.call_soon(self._ready.set)
            await self._server.serve([listener])

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._abort_connections)
        self._thread.join(TIMEOUT_SECONDS)

    def _abort_connections(self) -> None:
        self._server.should_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


def wait_until(condition: Callable[[], object], seconds: float = TIMEOUT_SECONDS) -> None:
    """Wait until a condition holds. Raise `TimeoutError` if it does not."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        if (now := time.monotonic()) > deadline:
            raise TimeoutError(f"the condition did not hold within {seconds:g} s")
        time.sleep(max(POLL_SECONDS, PAUSE_PER_CHECK * (now - began)))


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one. Raise `OSError` with the address if that fails."""
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).split(" (while")[0]
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from None
