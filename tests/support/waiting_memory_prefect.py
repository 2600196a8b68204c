"""Memory of a flow run per video while it renders: `python -m tests.support.waiting_memory_prefect FEW MANY`."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

from prefect import flow
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker

from i2v.inputs.sources import InputItem
from prefect_support.task_states import as_steps
from tasks.poll import poll
from tasks.store import store
from tasks.submit import submit
from tasks.validate import validate
from tests.support.waiting_memory import WaitingRun, main


class WaitingFlowRun(WaitingRun):
    """The same run as a Prefect flow."""

    async def _execute(self) -> None:
        execute = super()._execute

        @flow(name="waiting")
        async def waiting() -> None:
            await execute()

        await waiting()


def start_flow_run(items: Sequence[InputItem]) -> WaitingRun:
    """Start a flow run."""
    return WaitingFlowRun(items, as_steps(validate, submit, poll, store))


async def flush_events() -> None:
    """Wait until Prefect has sent all events, and drop those that its client keeps until they are confirmed."""
    await asyncio.sleep(1)
    await asyncio.to_thread(EventsWorker.instance()._queue.join)  # noqa: SLF001 - the public way stops the worker too
    for each in gc.get_objects():
        if isinstance(each, PrefectEventsClient):
            each._unconfirmed_events.clear()  # noqa: SLF001 - up to 700 events, whatever is in flight


if __name__ == "__main__":
    main(start_flow_run, flush_events)
