"""Turns: code that stops before each operation on S3 until a test says how it ends, in a loop where no sleep lasts.

`SteppedStorage` and `VirtualTimeLoop` know nothing of jobs; the world of the model is in `simulated_world.py`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, MutableSet
from contextlib import suppress
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from i2v.errors import Conflict, I2vError, StorageError
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryBucket, MemoryStorage

T = TypeVar("T")
PROCESS_TASKS: ContextVar[MutableSet[asyncio.Task[Any]]] = ContextVar("owned", default=WeakSet())  # noqa: B039 - nobody's
"""The tasks of the process that runs: they all end when it is killed."""


class S3Fault(StrEnum):
    """How one operation on S3 goes wrong."""

    FAILS = "fails"
    """Not done, and an error."""
    LOST = "lost"
    """Done, and an error all the same."""
    REPEATED = "repeated"
    """Done, then repeated by boto3, which gets 412 for its own."""
    BUSY = "busy"
    """409: another write was under way; not done."""
    SLOW = "slow"
    """Done, and the answer comes later."""
    LATE = "late"
    """An error, and it is done later, when nobody counts on it."""


class _Jump(selectors.SelectSelector):
    """Waits for nothing: the time jumps to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("all wait for each other for ever")
        self.now += max(timeout, 0.0)
        return []


def _owned_task(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **more)
    PROCESS_TASKS.get().add(task)
    return task


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which every sleep is over at once, in the right order."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.set_task_factory(_owned_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jump.now


class SteppedProcess(Protocol):
    """Whoever takes turns: a process of the model."""

    late: list[Callable[[], Any]]
    """Where writes go that are done when nobody counts on them any more."""

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> Any:
        """Wait for the turn to do this there, and learn how it ends: `None` for well, else a `S3Fault`."""


class SteppedStorage(MemoryStorage):
    """A process's own way to the bucket, on which every operation waits for its turn and may fail."""

    def __init__(self, bucket: MemoryBucket, process: SteppedProcess) -> None:
        super().__init__(bucket)
        self._process = process

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Wait, then do it as the model says."""
        match await self._process.wait_for_turn(operation, uri):
            case None:
                return action()
            case S3Fault.LATE if "put" in operation:
                self._process.late.append(action)
            case S3Fault.SLOW:
                answer = _outcome(action)
                await self._process.wait_for_turn("answer")
                return answer()
            case S3Fault.REPEATED if operation == "put if":
                action()
                raise Conflict("PutObject (PreconditionFailed)")
            case S3Fault.BUSY if operation == "put if":
                raise Conflict("PutObject (ConditionalRequestConflict)")
            case S3Fault.LOST:
                with suppress(I2vError):
                    action()
        raise StorageError(f"S3 failed at {uri}", "Try again")


def _outcome(action: Callable[[], T]) -> Callable[[], T]:
    try:
        value = action()
    except I2vError as error:
        lost = error

        def fail() -> T:
            raise lost

        return fail
    return lambda: value
