"""Memory per video while it renders: `python -m tests.support.waiting_memory FEW MANY [--prefect]` prints JSON.

Three runs in one process submit one image, then FEW and then MANY others; none finishes before the measurement. The
result is the bytes of Python objects for each of the MANY beyond FEW, so the memory of a run itself is not included.
`--prefect` measures flow runs instead of the library alone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from prefect import flow
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.poll import PollResult
from i2v.pipeline.run import open_run
from i2v.settings import read_settings
from prefect_support.task_states import as_steps
from tasks.poll import poll
from tasks.store import store
from tasks.submit import submit
from tasks.validate import validate


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


class WaitingFlowRun(WaitingRun):
    """The same run as a Prefect flow."""

    async def _execute(self) -> None:
        execute = super()._execute

        @flow(name="waiting")
        async def waiting() -> None:
            await execute()

        await waiting()


async def flush_events() -> None:
    """Wait until Prefect has sent all events, and drop those that its client keeps until they are confirmed."""
    await asyncio.to_thread(EventsWorker.instance()._queue.join)  # noqa: SLF001 - the public way stops the worker too
    for each in gc.get_objects():
        if isinstance(each, PrefectEventsClient):
            each._unconfirmed_events.clear()  # noqa: SLF001 - up to 700 events, whatever is in flight


async def measure(few: int, many: int, *, with_prefect: bool) -> dict[str, float]:
    """Start the three runs one after the other."""
    settings = read_settings()
    async with open_run(settings, "listing", dry_run=True) as finder:
        items = await find_items(str(settings.images), finder.storage, settings)
    tracemalloc.start()
    runs, held, begin = [], [], 0
    for number in (1, few, many):
        some = items[begin : begin + number]
        runs.append(
            WaitingFlowRun(some, as_steps(validate, submit, poll, store)) if with_prefect else WaitingRun(some, Steps())
        )
        begin += number
        await asyncio.sleep(0)
        await runs[-1].all_waiting.wait()
        if with_prefect:
            await asyncio.sleep(1)
            await flush_events()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    for run in runs:
        await run.end()
    one, two, three = held
    return {"bytes_each": ((three - two) - (two - one)) / (many - few)}


def main() -> None:
    """Print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("few", type=int)
    parser.add_argument("many", type=int)
    parser.add_argument("--prefect", action="store_true")
    given = parser.parse_args()
    result = asyncio.run(measure(given.few, given.many, with_prefect=given.prefect))
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
