"""What a video costs in memory while it renders: `python -m benchmarks.waiting_memory FEW MANY`, by the environment.

Three runs in one process submit one image of the bucket, then FEW and then MANY others, all of which render until it
has measured. Prints one JSON object: bytes that Python holds for each of the MANY beyond FEW, so that what a run takes
for itself is not in it. The library alone, without Prefect.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import Sequence
from uuid import uuid4

from i2v.animate import Steps, animate
from i2v.apixo.models import TaskStatus
from i2v.ledger import Held
from i2v.poll import poll
from i2v.prompts import Asked
from i2v.runs import Run, open_run
from i2v.settings import read_settings
from i2v.sources import Item, find_items


class Crowd:
    """A run whose images all wait. `await full` until they do, `run.interrupt()` lets them go."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._left = len(items)
        self.full = asyncio.Event()
        self.run: Run | None = None
        self.life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        async with open_run(read_settings(), str(uuid4())) as self.run:
            await animate(self.run, self._items, Asked(prompt="it moves"), Steps(poll=self._poll))

    async def _poll(self, run: Run, held: Held) -> tuple[Held, TaskStatus | None]:
        self._left -= 1
        if not self._left:
            self.full.set()
        return await poll(run, held)

    async def end(self) -> None:
        """Stop waiting."""
        if self.run:
            self.run.interrupt()
        await self.life


async def measure(few: int, many: int) -> dict[str, float]:
    """All three, one after the other."""
    settings = read_settings()
    async with open_run(settings, "finds", dry_run=True) as finder:
        items = await find_items(str(settings.images), finder.storage, settings)
    tracemalloc.start()
    crowds, held, begin = [], [], 0
    for number in (1, few, many):
        crowds.append(Crowd(items[begin : begin + number]))
        begin += number
        await asyncio.sleep(0)
        await crowds[-1].full.wait()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    for crowd in crowds:
        await crowd.end()
    one, two, three = held
    return {"bytes_each": ((three - two) - (two - one)) / (many - few)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(*map(int, sys.argv[1:])))))
