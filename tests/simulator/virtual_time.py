"""An event loop whose clock jumps to the next timer, and processes whose callbacks can be held back.

Each callback belongs to the process in its context. The callbacks of a frozen process wait until it continues, as after
SIGSTOP; timers meanwhile expire. Nothing here knows about i2v.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from itertools import count
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_EPSILON = 1e-7


class Owner(Protocol):
    """A process: it owns tasks, and can be frozen."""

    frozen: bool
    backlog: list[asyncio.Handle]
    tasks: list[asyncio.Task[Any]]


OWNER: ContextVar[Any] = ContextVar("owner", default=None)
"""The process that the current code belongs to."""


class TooLong(Exception):
    """The story does not come to an end."""


class _Jump(selectors.SelectSelector):
    """A selector that does not wait: time jumps to the next timer."""

    def __init__(self, most_events: int) -> None:
        super().__init__()
        self.now = 0.0
        self.deadline = float("inf")
        self.events_left = most_events

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.events_left -= 1
        if timeout is None:
            raise TooLong("every task waits, and no timer is set")
        if timeout > 0:
            self.now += timeout + _EPSILON
        if self.now > self.deadline:
            raise TooLong(f"not finished after {self.deadline / 3600:.0f} h")
        if self.events_left < 0:
            raise TooLong("too many events")
        return []


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is its number, so that sets of tasks have the same order in every process."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, T], **more: Any) -> None:
        self.number = number
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. Threads are simulated too: their work is done at once."""

    def __init__(self, most_events: int) -> None:
        self.clock = _Jump(most_events)
        super().__init__(self.clock)
        self._numbers = count()
        self.set_task_factory(self._new_task)  # type: ignore[arg-type] # it makes a subclass

    def time(self) -> float:
        """Return the seconds since the start."""
        return self.clock.now

    def _new_task(
        self, _loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **more: Any
    ) -> SimulatedTask[T]:
        task = SimulatedTask(next(self._numbers), coro, loop=self, **more)
        if owner := OWNER.get():
            owner.tasks.append(task)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back in this iteration, or once the process continues that the callback belongs to."""
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is None or not owner.frozen:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        owner.backlog.append(handle)
        return handle

    def thaw(self, owner: Owner) -> None:
        """Let a frozen process continue."""
        owner.frozen = False
        backlog, owner.backlog = owner.backlog, []
        for handle in backlog:
            super().call_soon(_run_unless_cancelled, handle)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Do the work at once."""
        del executor
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - the caller that awaits the work gets it
            done.set_exception(error)
        return done


def _run_unless_cancelled(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._run()  # noqa: SLF001 - as the loop itself does
