"""Faults of a bucket in memory: before every S3 operation something decides how it ends, such as `ScriptedFaults`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from i2v.errors import Conflict, I2vError, StorageError
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryBucket, MemoryStorage

T = TypeVar("T")


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


class SteppedProcess(Protocol):
    """What decides about each operation, as soon as it likes."""

    late: list[Callable[[], Any]]
    """Writes that are applied later, after their process has given them up."""

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> Any:
        """Wait before an operation, and return its fault or `None`."""


class SteppedStorage(MemoryStorage):
    """A storage whose operations wait and fail as a `SteppedProcess` decides."""

    def __init__(self, bucket: MemoryBucket, process: SteppedProcess) -> None:
        super().__init__(bucket)
        self._process = process

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Wait, then do the operation or fail as decided."""
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
