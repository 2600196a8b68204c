"""Many items, one call: batches, duplicates, retries, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from doors.batcher import Batcher, BatcherClosed
from i2v.errors import StorageError

MAKE = Callable[..., AbstractAsyncContextManager[tuple[Batcher[str], list[list[str]]]]]


@pytest.fixture
def gathering() -> MAKE:
    """A gatherer at work, and the batches that it handed on; `fails` tells how many calls raise first."""

    @asynccontextmanager
    async def made(fails: int = 0, **options: Any) -> AsyncIterator[tuple[Batcher[str], list[list[str]]]]:
        batches: list[list[str]] = []
        left = [StorageError("down")] * fails

        async def create(items: list[str]) -> None:
            if left:
                raise left.pop()
            batches.append(items)

        gatherer = Batcher(create, identity=str, **{"seconds": 0.05, **options})
        running = asyncio.create_task(gatherer.run())
        try:
            yield gatherer, batches
        finally:
            running.cancel()
            await asyncio.wait({running})

    return made


async def test_what_comes_together_is_one_call(gathering: MAKE) -> None:
    """Items of many senders that come within the time are handed on in one call, each once."""
    duplicates: list[int] = []
    async with gathering(on_duplicate=lambda: duplicates.append(1)) as (gatherer, batches):
        await asyncio.gather(gatherer.add(["a", "b"]), gatherer.add(["b"]), gatherer.add(["c", "c"]), gatherer.add([]))
        assert batches == [["a", "b", "c"]]
        assert len(duplicates) == 2
        assert len(gatherer) == 0


async def test_a_full_batch_does_not_wait(gathering: MAKE) -> None:
    """As many as make a batch go at once, and no batch has more."""
    async with gathering(most=3, seconds=60) as (gatherer, batches):
        async with asyncio.timeout(5):
            await gatherer.add([str(number) for number in range(9)])
        assert [len(batch) for batch in batches] == [3, 3, 3]


async def test_a_sender_is_answered_only_after_the_call(gathering: MAKE) -> None:
    """While the call fails nobody is told that it went well, and the same batch is tried again."""
    async with gathering(fails=1) as (gatherer, batches):
        adding = asyncio.create_task(gatherer.add(["a", "b"]))
        await asyncio.sleep(0.2)
        assert not adding.done()
        late = asyncio.create_task(gatherer.add(["a"]))
        await asyncio.gather(adding, late)
        assert batches == [["a", "b"]]


async def test_who_gives_up_takes_back_what_is_in_no_batch(gathering: MAKE) -> None:
    """A cancelled sender's items leave the hand, unless another waits for them too."""
    async with gathering(seconds=0.3) as (gatherer, batches):
        gone = asyncio.create_task(gatherer.add(["a", "b"]))
        stays = asyncio.create_task(gatherer.add(["b"]))
        await asyncio.sleep(0.05)
        gone.cancel()
        await stays
        assert batches == [["b"]]
        assert len(gatherer) == 0


async def test_a_ceiling_says_stop(gathering: MAKE) -> None:
    """With as many in hand as allowed it is full, until some are handed on."""
    async with gathering(ceiling=2, seconds=0.2) as (gatherer, _):
        adding = asyncio.create_task(gatherer.add(["a", "b"]))
        await asyncio.sleep(0.05)
        assert gatherer.is_full
        async with asyncio.timeout(5):
            await gatherer.room()
        assert adding.done() or not gatherer.is_full
        await adding


async def test_closing_hands_on_what_is_in_hand(gathering: MAKE) -> None:
    """At the end nothing waits for more, and nothing new is taken."""
    async with gathering(seconds=60) as (gatherer, batches):
        adding = asyncio.create_task(gatherer.add(["a"]))
        await asyncio.sleep(0.01)
        assert await gatherer.close(5)
        await adding
        assert batches == [["a"]]
        with pytest.raises(BatcherClosed):
            await gatherer.add(["b"])


async def test_closing_in_vain_tells_each_sender(gathering: MAKE) -> None:
    """What could not be handed on in time is told as such to who sent it."""
    async with gathering(fails=100) as (gatherer, batches):
        adding = [asyncio.create_task(gatherer.add([name, "both"])) for name in "ab"]
        await asyncio.sleep(0.1)
        assert not await gatherer.close(0.1)
        assert [type(answer) for answer in await asyncio.gather(*adding, return_exceptions=True)] == [
            BatcherClosed,
            BatcherClosed,
        ]
        assert batches == []
