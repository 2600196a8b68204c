"""One request to the model of S3, from its sending to its answer, with what goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from i2v.errors import Conflict, I2vError, StorageError
from i2v.s3_uri import S3Uri

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World

WRITES = frozenset({"put", "put if", "delete", "copy"})


class S3Request:
    """One request, from its sending to its answer."""

    __slots__ = ("action", "answer", "fault", "kind", "process", "uri", "world")

    def __init__(
        self,
        world: World,
        process: Process,
        kind: str,
        uri: S3Uri,
        action: Callable[[], Any],
        answer: asyncio.Future[Any],
    ) -> None:
        self.world, self.process, self.kind, self.uri = world, process, kind, uri
        self.action, self.answer = action, answer
        self.fault = world.weather.s3_fault(kind)

    def send(self) -> None:
        """Let it arrive later."""
        weather = self.world.weather
        arrives = weather.s3_delay()
        if self.fault:
            self.world.tell(self.process.name, f"S3 {self.fault}: {self.kind} {_short(self.uri.key)}")
        if self.fault in {"slow", "slow answer"}:
            slow = weather.slow_seconds()
            if self.fault == "slow":
                arrives += slow
            self.world.loop.call_later(arrives, self._arrive, slow if self.fault == "slow answer" else 0.0)
        elif self.fault == "late":
            later = arrives + weather.late_seconds()
            self.world.late_writes += 1
            self.world.loop.call_later(later, self._land_late)
            self.world.loop.call_later(arrives, self._fail)
        elif self.fault in {"fails", "busy"}:
            self.world.loop.call_later(arrives, self._fail)
        else:
            self.world.loop.call_later(arrives, self._arrive, 0.0)

    def _arrive(self, slow: float) -> None:
        value, error = self._act()
        if self.fault == "lost":
            error = _failure(self.uri)
        elif self.fault == "repeated" and error is None:
            error = Conflict(f"PutObject of {self.uri}: 412 for our own write")
        self.process.has_done(self.kind, self.uri.key)
        self.world.loop.call_later(self.world.weather.s3_delay() + slow, self._deliver, value, error)

    def _act(self) -> tuple[Any, I2vError | None]:
        try:
            value = self.action()
        except I2vError as error:
            return None, error
        if self.kind in WRITES:
            self.world.tell(
                self.process.name, f"{self.kind} {_short(self.uri.key)}{self.world.described(self.uri.key)}"
            )
        return value, None

    def _land_late(self) -> None:
        self.world.late_writes -= 1
        _, error = self._act()
        self.world.tell("S3", f"late {self.kind} {_short(self.uri.key)}: {error.message if error else 'done'}")

    def _fail(self) -> None:
        if self.fault == "busy":
            self._deliver(None, Conflict(f"PutObject of {self.uri}: 409"))
        else:
            self._deliver(None, _failure(self.uri))

    def _deliver(self, value: Any, error: Exception | None) -> None:
        if self.answer.done():
            return
        if error:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(value)


def _failure(uri: S3Uri) -> StorageError:
    return StorageError(f"The S3 request for {uri} failed", "Try again")


def _short(key: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name[:12]}…" if len(name) > 24 and "open" not in folder else key[:70]
