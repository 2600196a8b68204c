"""`StepMeter` attributes the CPU of the event loop and of threads to the step that uses it.

The step is a context variable, so tasks and threads that a step starts count as its own. `loop` is the time between.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from threading import Lock
from types import coroutine
from typing import Any

from i2v.pipeline.generate import Steps

STEP: ContextVar[str] = ContextVar("step", default="the run")


class StepMeter:
    """CPU seconds by step, in the event loop and in threads."""

    def __init__(self) -> None:
        self.loop: defaultdict[str, float] = defaultdict(float)
        self.threads: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()
        self._now, self._since = "loop", 0.0

    def install(self) -> None:
        """Meter every task and default thread of the running loop."""
        loop = asyncio.get_running_loop()
        self._since = time.thread_time()
        loop.set_task_factory(self._make_task)
        loop.set_default_executor(MeteredThreads(self, 16))

    def switch(self, step: str) -> None:
        """Add the CPU since the last switch to the previous step, and start another one."""
        now = time.thread_time()
        self.loop[self._now] += now - self._since
        self._now, self._since = step, now

    def add(self, step: str, seconds: float) -> None:
        """Add a thread's CPU to a step."""
        with self._lock:
            self.threads[step] += seconds

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(self._metered(work), loop=loop, **options)

    @coroutine
    def _metered(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        send: Callable[[], Any] = lambda: work.send(None)  # noqa: E731 - replaced below
        while True:
            self.switch(STEP.get())
            try:
                awaited = send()
            except StopIteration as end:
                return end.value
            finally:
                self.switch("loop")
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - forwards cancellation too
                send = lambda error=error: work.throw(error)  # type: ignore[misc]  # noqa: E731 - as above
            else:
                send = lambda: work.send(None)  # noqa: E731 - as above

    def steps(self, steps: Steps) -> Steps:
        """Return the same steps, metered."""
        return Steps(*(self._step(name, getattr(steps, name)) for name in ("validate", "submit", "poll", "store")))

    def _step(self, name: str, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def metered(*args: Any) -> Any:
            before = STEP.set(name)
            self.switch(name)
            try:
                return await step(*args)
            finally:
                STEP.reset(before)
                self.switch(STEP.get())

        return metered


class MeteredThreads(ThreadPoolExecutor):
    """Threads whose CPU counts for the step that submits the work."""

    def __init__(self, meter: StepMeter, threads: int) -> None:
        super().__init__(threads)
        self._meter = meter

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Run work for the current step."""
        step = STEP.get()

        def metered() -> Any:
            begun = time.thread_time()
            try:
                return work(*args, **options)
            finally:
                self._meter.add(step, time.thread_time() - begun)

        return super().submit(metered)
