"""Deterministic interleaving: pause before every S3 operation until a test decides how it ends, in virtual time.

Nothing here knows about jobs; `simulated_world.py` does.
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
PROCESS_TASKS: ContextVar[MutableSet[asyncio.Task[Any]]] = ContextVar("owned", default=WeakSet())  # noqa: B039 - for tasks of no process
"""The asyncio tasks of the current process, which all end when it is killed."""


class S3Fault(StrEnum):
    """How one S3 operation fails."""

    FAILS = "fails"
    """Not done; raises an error."""
    LOST = "lost"
    """Done, but raises an error."""
    REPEATED = "repeated"
    """Done, then retried by boto3, which gets 412 for its own write."""
    BUSY = "busy"
    """Not done; 409, since another write is in progress."""
    SLOW = "slow"
    """Done; the response arrives later."""
    LATE = "late"
    """Raises an error, and is done later."""


class _Jump(selectors.SelectSelector):
    """A selector that does not wait: time jumps to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: every task is waiting")
        self.now += max(timeout, 0.0)
        return []


def _owned_task(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **more)
    PROCESS_TASKS.get().add(task)
    return task


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeps return at once, in the right order."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.set_task_factory(_owned_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jump.now


class SteppedProcess(Protocol):
    """A process that pauses before every operation."""

    late: list[Callable[[], Any]]
    """Writes that are applied later, after their process has given them up."""

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> Any:
        """Pause before an operation and return its fault, or `None`."""


class SteppedStorage(MemoryStorage):
    """One process's storage: every operation pauses first and may fail."""

    def __init__(self, bucket: MemoryBucket, process: SteppedProcess) -> None:
        super().__init__(bucket)
        self._process = process

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Pause, then do the operation or fail as the test decided."""
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
