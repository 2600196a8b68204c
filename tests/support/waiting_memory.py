"""Memory per video while it renders: `python -m tests.support.waiting_memory FEW MANY` prints JSON.

Three runs in one process submit one image, then FEW and then MANY others; none finishes before the measurement. The
result is the bytes of Python objects for each of the MANY beyond FEW, so the memory of a run itself is not included.
`waiting_memory_prefect` measures flow runs instead of the library alone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import uuid4

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.poll import PollResult
from i2v.pipeline.run import open_run
from i2v.settings import read_settings


class WaitingRun:
    """A run whose images all wait for their videos. `all_waiting` is set once they do."""

    def __init__(self, items: Sequence[InputItem], steps: Steps) -> None:
        self._items = items
        self._steps = steps
        self._left = len(items)
        self.all_waiting = asyncio.Event()
        self.run: RunContext | None = None
        self.task = asyncio.create_task(self._execute())

    async def _execute(self) -> None:
        async with open_run(read_settings(), str(uuid4())) as self.run:
            await generate(
                self.run, self._items, RequestOptions(prompt="it moves"), replace(self._steps, poll=self._poll)
            )

    async def _poll(self, run: RunContext, held: VersionedRecord) -> PollResult:
        self._left -= 1
        if not self._left:
            self.all_waiting.set()
        return await self._steps.poll(run, held)

    async def end(self) -> None:
        """Stop the run."""
        if self.run:
            self.run.brake.interrupt()
        await self.task


StartRun = Callable[[Sequence[InputItem]], WaitingRun]


def start_run(items: Sequence[InputItem]) -> WaitingRun:
    """Start a run of the library alone."""
    return WaitingRun(items, Steps())


async def flush_nothing() -> None:
    """Wait for nothing, since only Prefect sends events."""


async def measure(few: int, many: int, start: StartRun, flush: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """Start the three runs one after the other; count what is allocated once the first one waits."""
    settings = read_settings()
    async with open_run(settings, "listing", dry_run=True) as finder:
        items = await find_items(str(settings.images), finder.storage, settings)
    runs, held, begin = [], [], 0
    for number in (1, few, many):
        runs.append(start(items[begin : begin + number]))
        begin += number
        await runs[-1].all_waiting.wait()
        await flush()
        gc.collect()
        tracemalloc.start()
        held.append(tracemalloc.get_traced_memory()[0])
    for run in runs:
        await run.end()
    one, two, three = held
    return {"bytes_each": ((three - two) - (two - one)) / (many - few)}


def main(start: StartRun, flush: Callable[[], Awaitable[None]]) -> None:
    """Print the result."""
    few, many = map(int, sys.argv[1:])
    sys.stdout.write(json.dumps(asyncio.run(measure(few, many, start, flush))))


if __name__ == "__main__":
    main(start_run, flush_nothing)
