"""`Batcher`: collect items from many callers and pass them on in batches. Generic: it knows nothing of Prefect.

`add` returns only after the call for the item's batch has succeeded. A failed call is retried with the same batch until
it succeeds or the batcher is closed.
"""

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
MAX_DELAY_SECONDS = 10.0
MAX_CALLS = 4
"""Batches in progress at the same time."""
T = TypeVar("T")


class BatcherClosed(I2vError):
    """The batcher was closed before the item was passed on; the sender must send it again."""


@dataclass(eq=False, slots=True)
class _Pending(Generic[T]):
    key: str
    item: T
    done: asyncio.Future[None]
    waiters: int = 0


@dataclass(eq=False)
class Batcher(Generic[T]):
    """Collect items into batches. It belongs to one event loop, and `run` must be running."""

    call: Callable[[list[T]], Awaitable[object]]
    """Receives a batch of distinct items in order of arrival; called again if it raises."""
    identity: Callable[[T], str]
    """Items with the same identity are duplicates; the second waits for the first."""
    max_size: int = 100
    quiet_seconds: float = 0.3
    """A batch is complete once no item has arrived for this long."""
    max_wait_seconds: float = 2.0
    """A batch waits for more items at most this long."""
    capacity: int = 2000
    """Pending items at which `is_full` is true. `add` does not enforce it; callers check first."""
    on_duplicate: Callable[[], object] = lambda: None
    _pending: dict[str, _Pending[T]] = field(default_factory=dict)
    """Every item that is not passed on yet."""
    _queued: dict[str, _Pending[T]] = field(default_factory=dict)
    """Those that are in no batch yet."""
    _calls: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _closing: bool = False

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def items(self) -> list[T]:
        """Every item that is not passed on yet."""
        return [each.item for each in self._pending.values()]

    @property
    def is_full(self) -> bool:
        """Whether callers should stop adding items."""
        return len(self._pending) >= self.capacity

    async def wait_for_room(self) -> None:
        """Wait until it is not full."""
        await self._wait_until(lambda: not self.is_full)

    async def add(self, items: Sequence[T]) -> None:
        """Add items and wait until all are passed on; raise `BatcherClosed` if it is closed first.

        A cancelled caller withdraws the items that are in no batch yet.
        """
        if self._closing:
            raise BatcherClosed("The door is shutting down", "Send it again")
        pending = [self._enqueue(item) for item in items]
        try:
            await self._notify()
            await asyncio.gather(*(asyncio.shield(each.done) for each in pending))
        finally:
            self._release(pending)

    def _enqueue(self, item: T) -> _Pending[T]:
        key = self.identity(item)
        pending = self._pending.get(key)
        if pending is None:
            pending = _Pending(key, item, asyncio.get_running_loop().create_future())
            self._pending[key] = self._queued[key] = pending
        else:
            self.on_duplicate()
        pending.waiters += 1
        return pending

    def _release(self, pending: list[_Pending[T]]) -> None:
        for each in pending:
            each.waiters -= 1
            if not each.waiters and self._queued.get(each.key) is each:
                del self._queued[each.key], self._pending[each.key]

    async def run(self) -> None:
        """Pass batches on until cancelled."""
        try:
            while True:
                await self._wait_until(lambda: bool(self._queued) and len(self._calls) < MAX_CALLS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.max_wait_seconds):
                        await self._wait_for_quiet()
                if batch := [self._queued.pop(key) for key in list(self._queued)[: self.max_size]]:
                    self._calls.add(asyncio.create_task(self._pass_on(batch)))
        finally:
            self._fail_pending()

    async def _wait_for_quiet(self) -> None:
        """Return once the batch is full; raise `TimeoutError` once nothing has arrived for a while."""
        known = 0

        def has_more() -> bool:
            return self._closing or len(self._queued) > known

        while not self._closing and len(self._queued) < self.max_size:
            known = len(self._queued)
            async with asyncio.timeout(self.quiet_seconds):
                await self._wait_until(has_more)

    async def _wait_until(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _pass_on(self, batch: list[_Pending[T]]) -> None:
        items = [each.item for each in batch]
        delay = FIRST_DELAY_SECONDS
        while not await self._try_call(items):
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
            delay = min(MAX_DELAY_SECONDS, delay * 2)
        for each in batch:
            del self._pending[each.key]
            each.done.set_result(None)
        self._calls.discard(asyncio.current_task())
        await self._notify()

    async def _try_call(self, items: list[T]) -> bool:
        try:
            await self.call(items)
        except Exception as error:
            is_unexpected = not isinstance(error, I2vError)
            log.warning("Will retry what is pending (%d): %s", len(self), error, exc_info=is_unexpected)
            return False
        return True

    async def close(self, seconds: float) -> bool:
        """Accept no more items and pass on the pending ones; return whether all were passed on within the time."""
        self._closing = True
        await self._notify()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait_until(lambda: not self._pending)
        is_empty = not self._pending
        self._fail_pending()
        return is_empty

    def _fail_pending(self) -> None:
        self._closing = True
        for call in self._calls:
            call.cancel()
        for each in self._pending.values():
            if not each.done.done():
                each.done.set_exception(BatcherClosed("The door shut down before Prefect had the run", "Send it again"))
        self._pending.clear()
        self._queued.clear()
