"""What a video costs in memory while it renders: `python -m benchmarks.waiting_memory FEW MANY`, by the environment.

Three runs in one process submit one image of the bucket, then FEW and then MANY others, all of which render until it
has measured. Prints one JSON object: bytes that Python holds for each of the MANY beyond FEW, so that what a run takes
for itself is not in it. The library alone, and with `--prefect` as flow runs whose steps are Prefect's tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
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


class Crowd:
    """A run whose images all wait. `await full` until they do, `run.brake.interrupt()` lets them go."""

    def __init__(self, items: Sequence[InputItem], steps: Steps) -> None:
        self._items = items
        self._steps = steps
        self._left = len(items)
        self.full = asyncio.Event()
        self.run: RunContext | None = None
        self.life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        async with open_run(read_settings(), str(uuid4())) as self.run:
            await generate(
                self.run, self._items, RequestOptions(prompt="it moves"), replace(self._steps, poll=self._poll)
            )

    async def _poll(self, run: RunContext, held: VersionedRecord) -> PollResult:
        self._left -= 1
        if not self._left:
            self.full.set()
        return await self._steps.poll(run, held)

    async def end(self) -> None:
        """Stop waiting."""
        if self.run:
            self.run.brake.interrupt()
        await self.life


class FlowCrowd(Crowd):
    """The same as a flow run of Prefect's."""

    async def _live(self) -> None:
        live = super()._live

        @flow(name="crowd")
        async def crowd() -> None:
            await live()

        await crowd()


async def told() -> None:
    """Until Prefect has sent all events; those that its client keeps, in case they come not through, are no video's."""
    await asyncio.to_thread(EventsWorker.instance()._queue.join)  # noqa: SLF001 - Prefect's own way ends the worker too
    for each in gc.get_objects():
        if isinstance(each, PrefectEventsClient):
            each._unconfirmed_events.clear()  # noqa: SLF001 - up to 700 events, whatever is in flight


async def measure(few: int, many: int, *, with_prefect: bool) -> dict[str, float]:
    """All three, one after the other."""
    settings = read_settings()
    async with open_run(settings, "finds", dry_run=True) as finder:
        items = await find_items(str(settings.images), finder.storage, settings)
    tracemalloc.start()
    crowds, held, begin = [], [], 0
    for number in (1, few, many):
        some = items[begin : begin + number]
        crowds.append(
            FlowCrowd(some, as_steps(validate, submit, poll, store)) if with_prefect else Crowd(some, Steps())
        )
        begin += number
        await asyncio.sleep(0)
        await crowds[-1].full.wait()
        if with_prefect:
            await asyncio.sleep(1)
            await told()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    for crowd in crowds:
        await crowd.end()
    one, two, three = held
    return {"bytes_each": ((three - two) - (two - one)) / (many - few)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("few", type=int)
    parser.add_argument("many", type=int)
    parser.add_argument("--prefect", action="store_true")
    asked = parser.parse_args()
    print(json.dumps(asyncio.run(measure(asked.few, asked.many, with_prefect=asked.prefect))))


if __name__ == "__main__":
    main()
