"""Many items, one call: `Batcher` collects what comes from anywhere and hands it on in batches. It knows no Prefect.

Who adds an item waits until the call for its batch has succeeded, and only then may say so to the outside. A call that
fails is tried again, with the same batch, until it succeeds or the gatherer is closed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from i2v.errors import I2vError

log = logging.getLogger(__name__)
FIRST_DELAY_SECONDS = 0.5
MOST_DELAY_SECONDS = 10.0
T = TypeVar("T")


class BatcherClosed(I2vError):
    """The gatherer was closed before the item was handed on: whoever sent it must send it again."""


@dataclass(eq=False, slots=True)
class _Held(Generic[T]):
    item: T
    done: asyncio.Future[None]
    waiters: int = 0


@dataclass(eq=False)
class Batcher(Generic[T]):
    """Collects items into batches. Belongs to one event loop; `run` must be under way.

    Attributes:
        create: called once a batch, with distinct items in the order in which they came; called again if it raises.
        identity: what makes two items the same; the second waits for the first.
        most: items in a batch.
        seconds: how long a batch that is not full waits for more.
        ceiling: with so many items in hand it is full. It still takes more: asking first is the caller's part.
        at_once: how many batches may be under way.
        on_duplicate: called for each item that was in hand already.
    """

    create: Callable[[list[T]], Awaitable[object]]
    identity: Callable[[T], str]
    most: int = 100
    seconds: float = 2.0
    ceiling: int = 2000
    at_once: int = 4
    on_duplicate: Callable[[], object] = lambda: None
    _held: dict[str, _Held[T]] = field(default_factory=dict)
    _waiting: dict[str, _Held[T]] = field(default_factory=dict)
    _calls: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _closing: bool = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Whether no more should be brought."""
        return len(self._held) >= self.ceiling

    async def room(self) -> None:
        """Wait until it is not full."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.is_full)

    async def add(self, items: Sequence[T]) -> None:
        """Hand items on; returns when all were. Who is cancelled takes back what is in no batch yet.

        Raises:
            Closed: it was closed first.
        """
        if self._closing:
            raise BatcherClosed("The door is closing", "Send it again")
        held = [(self.identity(item), self._hold(item)) for item in items]
        if not held:
            return
        try:
            await self._tell()
            await asyncio.wait({each.done for _, each in held})
        finally:
            self._let_go(held)
        errors = [error for _, each in held if (error := each.done.exception())]
        if errors:
            raise errors[0]

    def _hold(self, item: T) -> _Held[T]:
        key = self.identity(item)
        held = self._held.get(key)
        if held is None:
            held = _Held(item, asyncio.get_running_loop().create_future())
            self._held[key] = self._waiting[key] = held
        else:
            self.on_duplicate()
        held.waiters += 1
        return held

    def _let_go(self, held: list[tuple[str, _Held[T]]]) -> None:
        for key, each in held:
            each.waiters -= 1
            if not each.waiters and self._waiting.get(key) is each:
                del self._waiting[key], self._held[key]

    async def run(self) -> None:
        """Hand batches on until it is cancelled."""
        try:
            while True:
                await self._until(lambda: bool(self._waiting) and len(self._calls) < self.at_once)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.seconds):
                        await self._until(lambda: self._closing or len(self._waiting) >= self.most)
                if batch := self._cut():
                    self._start(batch)
        finally:
            self._fail_rest()

    async def _until(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _cut(self) -> dict[str, _Held[T]]:
        keys = list(self._waiting)[: self.most]
        return {key: self._waiting.pop(key) for key in keys}

    def _start(self, batch: dict[str, _Held[T]]) -> None:
        call = asyncio.create_task(self._hand_on(batch))
        self._calls.add(call)

    async def _hand_on(self, batch: dict[str, _Held[T]]) -> None:
        items = [each.item for each in batch.values()]
        delay = FIRST_DELAY_SECONDS
        while not await self._tried(items):
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
            delay = min(MOST_DELAY_SECONDS, delay * 2)
        for key, each in batch.items():
            del self._held[key]
            each.done.set_result(None)
        self._calls.discard(asyncio.current_task())
        await self._tell()

    async def _tried(self, items: list[T]) -> bool:
        try:
            await self.create(items)
        except I2vError as error:
            log.warning("%d waiting, will try again: %s", len(self), error)
            return False
        except Exception:  # what is in hand is kept whatever is wrong
            log.exception("%d waiting, will try again", len(self))
            return False
        return True

    async def close(self, seconds: float) -> bool:
        """Take nothing more and hand on what is in hand; whether all of it was, within so many seconds."""
        self._closing = True
        await self._tell()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._until(lambda: not self._held)
        is_empty = not self._held
        self._fail_rest()
        return is_empty

    def _fail_rest(self) -> None:
        self._closing = True
        for call in self._calls:
            call.cancel()
        for each in self._held.values():
            if not each.done.done():
                each.done.set_exception(BatcherClosed("The door closed before Prefect had it", "Send it again"))
        self._held.clear()
        self._waiting.clear()
