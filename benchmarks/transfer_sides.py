"""The two sides of `benchmarks.transfer`: `python -m benchmarks.transfer_sides bare|i2v` prints a JSON object.

Each stores one video first, so that all code is loaded before memory is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Sequence
from uuid import uuid4

from benchmarks.floor import Floor
from benchmarks.processes import peak_mb, reset_peak, resident_mb
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


async def store_bare() -> dict[str, float]:
    """Store videos as the floor does."""
    floor = Floor()
    urls = [await floor.poll(await floor.submit(key)) for key in await asyncio.to_thread(floor.keys)]
    await floor.store(urls[0], "videos/first.mp4")
    result = await timed([floor.store(url, f"videos/{number}.mp4") for number, url in enumerate(urls[1:])])
    await floor.http.aclose()
    return result


async def store_with_i2v() -> dict[str, float]:
    """Store videos with the library's store step."""
    settings = read_settings()
    async with open_run(settings, str(uuid4())) as run:
        await run.ledger.prepare()
        items = await find_items(str(settings.images), run.storage, settings)
        orders = [await prepare(run, item, RequestOptions(prompt="it moves"), Steps()) for item in items]
        records = [await submit(run, order) for order in orders if isinstance(order, Order)]
        work = [await _polled(run, record) for record in records]
        await work[0]
        return await timed(work[1:])


async def _polled(run: RunContext, record: VersionedRecord) -> Awaitable[VersionedRecord]:
    """Return the store step of a job whose video is ready."""
    record, status, _ = await poll(run, record)
    if status is None:
        raise RuntimeError("a video is not ready")
    return store(run, record, status)


async def timed(work: Sequence[Awaitable[object]]) -> dict[str, float]:
    """Run all concurrently; return seconds, CPU seconds and the additional memory."""
    before = resident_mb()
    reset_peak()
    begun, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*work)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "more_mb": peak_mb() - before}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(store_bare() if sys.argv[1] == "bare" else store_with_i2v())))
