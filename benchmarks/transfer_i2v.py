"""One side of `benchmarks.transfer`: what is ready at the provider, by the library's store step, without Prefect.

Its memory is that of a process in which one video was stored before, so that all code is loaded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from uuid import uuid4

from benchmarks.transfer_bare import timed
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, prepare
from i2v.pipeline.order import Order
from i2v.pipeline.poll import poll
from i2v.pipeline.run import open_run
from i2v.pipeline.store import store
from i2v.pipeline.submit import submit
from i2v.settings import read_settings


async def ours() -> dict[str, float]:
    """Submit all, wait until all are ready, and time the rest."""
    settings = read_settings()
    async with open_run(settings, str(uuid4())) as run:
        await run.ledger.prepare()
        items = await find_items(str(settings.images), run.storage, settings)
        orders = [await prepare(run, item, RequestOptions(prompt="it moves"), Steps()) for item in items]
        held = [await submit(run, order) for order in orders if isinstance(order, Order)]
        work = [await stored(run, each) for each in held]
        await work[0]
        return await timed(work[1:])


async def stored(run: RunContext, held: VersionedRecord) -> Awaitable[VersionedRecord]:
    """The rest of a job's way, once its video is ready."""
    held, status, _ = await poll(run, held)
    if status is None:
        raise RuntimeError("a video is not ready")
    return store(run, held, status)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ours())))
