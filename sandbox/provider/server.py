"""`Provider` runs the emulator on a real socket, and lets the demo, tests and benchmarks control it."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from starlette.types import ASGIApp

from sandbox.provider.emulator import Emulator
from sandbox.provider.fault_middleware import FaultMiddleware
from sandbox.provider.faults import Fault, ScriptedFault
from sandbox.provider.options import ProviderOptions
from sandbox.provider.request_log import RequestLog
from sandbox.provider.routes import API, make_app
from sandbox.provider.tasks import Task
from sandbox.server import TIMEOUT_SECONDS, ThreadServer, wait_until

T = TypeVar("T")


class Provider(ThreadServer):
    """A running emulator: `with Provider() as provider:`. Every method is safe to call from any thread.

    `options` apply at start and after each reset.
    """

    wait = staticmethod(wait_until)

    def __init__(self, options: ProviderOptions, *, port: int = 0) -> None:
        super().__init__(port)
        self._initial_options = options

    @asynccontextmanager
    async def open_app(self) -> AsyncIterator[ASGIApp]:
        """Create an emulator, and stop it with its tasks."""
        with tempfile.TemporaryDirectory(prefix="i2v-videos-") as folder:
            self._emulator = Emulator(self._initial_options, self.url, Path(folder))
            yield FaultMiddleware(make_app(self._emulator), self._emulator)
            await self._emulator.close()

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
