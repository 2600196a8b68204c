"""Starts and stops the emulator: one thread with its own loop and a real socket. `Provider` is its handle."""

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

T = TypeVar("T")
START_SECONDS = 10
BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: it cannot be had; names the address.
    """
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).split(" (while")[0]
        raise OSError(f"{host}:{port} cannot be listened on: {reason}") from None


class Provider:
    """A running emulator. Every method may be called from any thread; `with Provider() as provider:` runs it.

    Args:
        dials: how it behaves from the start and after each reset.
        host: where it listens; `port` 0 takes a free one.
        port: the port.
        folder: where films are kept; a temporary one by default.
    """

    def __init__(
        self,
        dials: ProviderOptions | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        folder: Path | None = None,
    ) -> None:
        self._first = dials or ProviderOptions()
        self._place = (host, port)
        self._folder = folder
        self._stack = ExitStack()
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> Self:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        listener = listen(*self._place)
        folder = self._folder or Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="i2v-films-")))
        folder.mkdir(parents=True, exist_ok=True)
        self.host, self.port = listener.getsockname()[:2]
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, folder)), name="sandbox-provider", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError("the provider emulator did not start")
        return self

    async def _serve(self, listener: socket.socket, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._world = Emulator(self._first, self.url, folder)
        app = FaultMiddleware(make_app(self._world), self._world)
        config = uvicorn.Config(
            app,
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
        await self._world.close()

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._hang_up)
        self._thread.join(START_SECONDS)
        self._stack.close()

    def _hang_up(self) -> None:
        self._server.should_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

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
        """The server's root, where result files lie too."""
        return f"http://{self.address}"

    @property
    def base_url(self) -> str:
        """What `APIXO_BASE_URL` is to be."""
        return f"{self.url}{API}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    def _call(self, work: Callable[[], T]) -> T:
        async def called() -> T:
            return work()

        return self._run(called())

    def reset(self) -> None:
        """Forget tasks, journal, bills, faults and changed dials; made films stay."""
        self._run(self._world.reset())

    def set_options(self, **changes: Any) -> ProviderOptions:
        """Turn dials: `settings(balance_usd=0, render_seconds=5)`.

        Raises:
            ValueError: no such dial, or not such a value.
        """
        return self._call(lambda: self._world.turn(changes))

    def add_fault(self, **what: Any) -> ScriptedFault:
        """Script a fault: `fault(on="submit", kind="lost_answer", times=1)`. `.hits` of the answer counts its strikes.

        Raises:
            ValueError: no such fault; says which there are.
        """
        fault = Fault(**what)
        return self._call(lambda: self._world.faults.add(fault))

    def clear_faults(self) -> None:
        """From now on nothing goes wrong."""
        self._call(self._world.faults.scripts.clear)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Meanwhile nobody listens: new connections are refused. Open ones stay."""
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
        """How it behaves now."""
        return self._world.options

    @property
    def request_log(self) -> RequestLog:
        """Every request since the last reset."""
        return self._world.request_log

    @property
    def tasks(self) -> dict[str, Task]:
        """All tasks by their id."""
        return dict(self._world.tasks)

    @property
    def balance_usd(self) -> Decimal:
        """What is on the account."""
        return self._world.bank.balance_usd

    @property
    def billed_usd(self) -> Decimal:
        """What was billed since the last reset."""
        return self._world.bank.billed_usd

    @property
    def videos_rendered(self) -> int:
        """Videos that were really rendered since the start."""
        return self._world.studio.made

    def billed(self) -> Counter[tuple[str | None, str, str, int]]:
        """How often each (image sha256, prompt, mode, seconds) was billed. Waits until all images are fetched."""
        self.wait(lambda: all(task.fetched for task in self.tasks.values()))
        orders = [(task.image_sha256, task.request) for task in self.tasks.values()]
        return Counter((sha256, order.prompt, order.mode, order.seconds) for sha256, order in orders)

    def status_requests(self) -> Counter[str | None]:
        """How many status requests each task got."""
        return Counter(entry.task_id for entry in self.request_log.find("status"))

    def wait(self, until: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it does not.
        """
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError("the emulator did not come to what was waited for")
            time.sleep(0.005)
