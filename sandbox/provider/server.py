"""`Provider` runs the emulator on a real socket, in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypeVar

import uvicorn

from sandbox.provider.emulator import Emulator
from sandbox.provider.fault_middleware import FaultMiddleware
from sandbox.provider.faults import Fault, ScriptedFault
from sandbox.provider.options import ProviderOptions
from sandbox.provider.raw_connection import RawHttpProtocol
from sandbox.provider.request_log import RequestLog
from sandbox.provider.routes import API, make_app
from sandbox.provider.tasks import Task
from sandbox.server import BACKLOG, Server, listen

T = TypeVar("T")
TIMEOUT_SECONDS = 10


class Provider(Server):
    """A running emulator: `with Provider() as provider:`. Every method is safe to call from any thread.

    Args:
        options: how it behaves at start and after each reset.
        host: the address to listen on.
        port: the port to listen on; 0 picks a free one.
        folder: where rendered videos are cached; a temporary folder by default.
    """

    def __init__(
        self,
        options: ProviderOptions | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        folder: Path | None = None,
    ) -> None:
        self._initial_options = options or ProviderOptions()
        self.host, self.port = host, port
        self._folder = folder
        self._stack = ExitStack()
        self._ready = threading.Event()

    def start(self) -> Self:
        """Listen. Raise `OSError` if the port is taken."""
        listener = listen(self.host, self.port)
        folder = self._folder or Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="i2v-videos-")))
        folder.mkdir(parents=True, exist_ok=True)
        self.host, self.port = listener.getsockname()[:2]
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, folder)), name="sandbox-provider", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(TIMEOUT_SECONDS):
            raise TimeoutError("the provider emulator did not start")
        return self

    async def _serve(self, listener: socket.socket, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._emulator = Emulator(self._initial_options, self.url, folder)
        config = uvicorn.Config(
            FaultMiddleware(make_app(self._emulator), self._emulator),
            http=RawHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            backlog=BACKLOG,
            log_level="critical",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=75,
        )
        self._server = uvicorn.Server(config)
        self._loop.call_soon(self._ready.set)
        await self._server.serve([listener])
        await self._emulator.close()

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._abort_connections)
        self._thread.join(TIMEOUT_SECONDS)
        self._stack.close()

    def _abort_connections(self) -> None:
        self._server.should_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    @property
    def base_url(self) -> str:
        """The value of `APIXO_BASE_URL`."""
        return f"{self.url}{API}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_SECONDS)

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._run(call())

    def reset(self) -> None:
        """Clear tasks, request log, bills, faults and changed options; keep rendered videos."""
        self._run(self._emulator.reset())

    def set_options(self, **changes: Any) -> ProviderOptions:
        """Change options: `set_options(balance_usd=0, render_seconds=5)`. Raise `ValueError` for an invalid one."""
        return self._call(lambda: self._emulator.set_options(changes))

    def add_fault(self, **fields: Any) -> ScriptedFault:
        """Script a fault: `add_fault(on="submit", kind="lost_answer")`. `.hits` of the result counts how often it hit.

        Raise `ValueError` with the known kinds for an unknown one.
        """
        fault = Fault(**fields)
        return self._call(lambda: self._emulator.faults.add(fault))

    def clear_faults(self) -> None:
        """Remove all scripted faults."""
        self._call(self._emulator.faults.scripted.clear)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Refuse new connections within the block. Open ones stay."""
        self._call(self._stop_listening)
        try:
            yield
        finally:
            self._run(self._listen_again())

    def _stop_listening(self) -> None:
        for server in self._server.servers:
            server.close()

    async def _listen_again(self) -> None:
        def protocol() -> RawHttpProtocol:
            return RawHttpProtocol(self._server.config, self._server.server_state, {})

        self._server.servers = [await self._loop.create_server(protocol, self.host, self.port, backlog=BACKLOG)]

    @property
    def options(self) -> ProviderOptions:
        """The current options."""
        return self._emulator.options

    @property
    def request_log(self) -> RequestLog:
        """Every request since the last reset."""
        return self._emulator.request_log

    @property
    def tasks(self) -> dict[str, Task]:
        """All tasks by id."""
        return dict(self._emulator.tasks)

    @property
    def balance_usd(self) -> Decimal:
        """The account's balance."""
        return self._emulator.account.balance_usd

    @property
    def billed_usd(self) -> Decimal:
        """What was billed since the last reset."""
        return self._emulator.account.billed_usd

    @property
    def videos_rendered(self) -> int:
        """How many videos were rendered since the start, without those from the cache."""
        return self._emulator.renderer.rendered

    def billed(self) -> Counter[tuple[str | None, str, str, int]]:
        """Count the bills by (image sha256, prompt, mode, seconds). Wait until all images are fetched."""
        self.wait(lambda: all(task.fetched for task in self.tasks.values()))
        return Counter(
            (task.image_sha256, task.request.prompt, task.request.mode, task.request.seconds)
            for task in self.tasks.values()
        )

    def status_requests(self) -> Counter[str | None]:
        """Count the status requests of each task."""
        return Counter(entry.task_id for entry in self.request_log.find("status"))

    def wait(self, until: Callable[[], bool], seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until a condition holds. Raise `TimeoutError` if it does not."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the condition did not hold within {seconds:g} s")
            time.sleep(0.005)
