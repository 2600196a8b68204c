"""The batcher: batches, duplicates, retries and closing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from typing import Any

import pytest

from doors.batcher import Batcher, BatcherClosed
from i2v.errors import StorageError
from tests.simulator.virtual_time import SimulatedLoop

NEW_BATCHER = Callable[..., AbstractAsyncContextManager[tuple[Batcher[str], list[list[str]]]]]


@pytest.fixture
def new_batcher() -> NEW_BATCHER:
    """Run a batcher and return it with the batches it passed on; the first `fails` calls raise."""

    @asynccontextmanager
    async def made(fails: int = 0, **options: Any) -> AsyncIterator[tuple[Batcher[str], list[list[str]]]]:
        batches: list[list[str]] = []
        errors = [StorageError("down")] * fails

        async def call(items: list[str]) -> None:
            if errors:
                raise errors.pop()
            batches.append(items)

        batcher = Batcher(call, identity=str, **{"quiet_seconds": 0.05, "max_wait_seconds": 60, **options})
        running = asyncio.create_task(batcher.run())
        try:
            yield batcher, batches
        finally:
            running.cancel()
            await asyncio.wait({running})

    return made


async def test_items_that_arrive_together_become_one_call(new_batcher: NEW_BATCHER) -> None:
    """Items from several callers that arrive within the wait are passed on in one call, each once."""
    duplicates: list[int] = []
    async with new_batcher(on_duplicate=lambda: duplicates.append(1)) as (batcher, batches):
        await asyncio.gather(batcher.add(["a", "b"]), batcher.add(["b"]), batcher.add(["c", "c"]), batcher.add([]))
        assert batches == [["a", "b", "c"]]
        assert len(duplicates) == 2
        assert len(batcher) == 0


def gather(arrivals: Sequence[float]) -> list[tuple[float, int]]:
    """Add an item at each of these times to a batcher in virtual time; return when it passed on how many."""
    batches: list[tuple[float, int]] = []

    async def pass_on(items: list[float]) -> None:
        batches.append((round(asyncio.get_running_loop().time(), 2), len(items)))

    async def play() -> None:
        batcher: Batcher[float] = Batcher(pass_on, identity=str)
        running = asyncio.create_task(batcher.run())

        async def arrive(number: int, at: float) -> None:
            await asyncio.sleep(at)
            await batcher.add([number])

        await asyncio.gather(*(arrive(number, at) for number, at in enumerate(arrivals)))
        running.cancel()
        await asyncio.wait({running})

    with closing(SimulatedLoop(most_events=100_000)) as loop:
        loop.run_until_complete(play())
    return batches


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ([0], [(0.3, 1)]),
        ([0, 0.2, 0.4, 0.6], [(0.9, 4)]),
        ([0, 0.4], [(0.3, 1), (0.7, 1)]),
        ([tenth / 10 for tenth in range(25)], [(2.0, 20), (2.7, 5)]),
        ([0] * 100, [(0.0, 100)]),
        ([0] * 250, [(0.0, 100), (0.0, 100), (0.3, 50)]),
    ],
    ids=["one image", "each arrival extends the wait", "two images apart", "never quiet", "a full batch", "a burst"],
)
def test_images_are_gathered_until_it_is_quiet(arrivals: Sequence[float], expected: list[tuple[float, int]]) -> None:
    """A batch ends after 0.3 s without a new image, after 2 s, or with 100 images, whichever comes first."""
    assert gather(arrivals) == expected


async def test_a_full_batch_does_not_wait(new_batcher: NEW_BATCHER) -> None:
    """A full batch is passed on at once, and no batch exceeds the maximum size."""
    async with new_batcher(max_size=3, quiet_seconds=60) as (batcher, batches):
        async with asyncio.timeout(60):
            await batcher.add([str(number) for number in range(9)])
        assert [len(batch) for batch in batches] == [3, 3, 3]


async def test_add_returns_only_after_the_call_succeeds(new_batcher: NEW_BATCHER) -> None:
    """While the call fails `add` does not return, and the same batch is retried."""
    async with new_batcher(fails=1) as (batcher, batches):
        adding = asyncio.create_task(batcher.add(["a", "b"]))
        await asyncio.sleep(0.2)
        assert not adding.done()
        late = asyncio.create_task(batcher.add(["a"]))
        await asyncio.gather(adding, late)
        assert batches == [["a", "b"]]


async def test_a_cancelled_caller_withdraws_items_that_are_in_no_batch(new_batcher: NEW_BATCHER) -> None:
    """A cancelled caller's items are withdrawn unless another caller waits for them too."""
    async with new_batcher(quiet_seconds=0.3) as (batcher, batches):
        cancelled = asyncio.create_task(batcher.add(["a", "b"]))
        waiting = asyncio.create_task(batcher.add(["b"]))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await waiting
        assert batches == [["b"]]
        assert len(batcher) == 0


async def test_a_batcher_at_capacity_is_full(new_batcher: NEW_BATCHER) -> None:
    """It is full while the number of pending items is at the capacity, until some are passed on."""
    async with new_batcher(capacity=2, quiet_seconds=0.2) as (batcher, _):
        adding = asyncio.create_task(batcher.add(["a", "b"]))
        await asyncio.sleep(0.05)
        assert batcher.is_full
        async with asyncio.timeout(60):
            await batcher.wait_for_room()
        assert adding.done() or not batcher.is_full
        await adding


async def test_closing_passes_on_pending_items(new_batcher: NEW_BATCHER) -> None:
    """Closing passes pending items on at once and rejects new ones."""
    async with new_batcher(quiet_seconds=60) as (batcher, batches):
        adding = asyncio.create_task(batcher.add(["a"]))
        await asyncio.sleep(0.01)
        assert await batcher.close(5)
        await adding
        assert batches == [["a"]]
        with pytest.raises(BatcherClosed):
            await batcher.add(["b"])


async def test_closing_reports_items_that_could_not_be_passed_on(new_batcher: NEW_BATCHER) -> None:
    """Each caller whose items are not passed on in time gets `BatcherClosed`."""
    async with new_batcher(fails=100) as (batcher, batches):
        adding = [asyncio.create_task(batcher.add([name, "both"])) for name in "ab"]
        await asyncio.sleep(0.1)
        assert not await batcher.close(0.1)
        assert [type(result) for result in await asyncio.gather(*adding, return_exceptions=True)] == [
            BatcherClosed,
            BatcherClosed,
        ]
        assert batches == []
