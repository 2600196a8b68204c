"""From the provider into the bucket: i2v's store step against plain httpx and one PUT, with its memory by video size.

The videos are ready before the clock starts. Emulator and S3 run on the same machine and use its cores. `python -m
benchmarks.transfer bare|i2v` is the child; it stores one video first, so that all code is loaded.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any
from uuid import uuid4

from benchmarks.floor import Floor
from benchmarks.processes import peak_mb, reset_peak, resident_mb, run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from benchmarks.steps import StepMeter, until_rendered
from i2v.inputs.sources import find_items
from i2v.pipeline.run import open_run
from i2v.pipeline.store import store
from i2v.settings import read_settings

MB = 1_000_000
SIZES = {3: 60, 30: 12, 300: 1}
"""Megabytes of a video, and how many are stored concurrently."""
QUICK_SIZES = {3: 40, 300: 1}
HEAD = ("videos", "bare: MB/s", "i2v: MB/s", "ratio", "bare: ms CPU/MB", "i2v: ms CPU/MB", "bare: MB", "i2v: MB")


def measure(servers: Servers, side: str, size_mb: int, count: int) -> dict[str, Any]:
    """Run one side once, in a process of its own."""
    servers.reset(count + 1, render_seconds=0, file_bytes=size_mb * MB)
    env = servers.env(I2V_POLL_FIRST_SECONDS="0.2", I2V_POLL_EVERY_SECONDS="0.2")
    return run_child("benchmarks.transfer", side, env=env).output


def run(servers: Servers, trials: int, sizes: dict[int, int]) -> list[Table]:
    """Run both sides in turn for each size."""
    rows: list[Row] = []
    for size, count in sizes.items():
        done: dict[str, list[dict[str, Any]]] = {"bare": [], "i2v": []}
        for _ in range(trials):
            for side, found in done.items():
                found.append(measure(servers, side, size, count))
        rows.append(_row(size, count, done))
    notes = f"Medians of {trials}, in turn. The last two columns are the additional memory."
    return [Table("Download to stored", HEAD, rows, notes)]


def _row(size: int, count: int, done: dict[str, list[dict[str, Any]]]) -> Row:
    total = size * count

    def each(side: str, value: str) -> float:
        return median_or_zero(result[value] for result in done[side])

    speeds = [total / each(side, "seconds") for side in done]
    cpu = [each(side, "cpu") / total * 1000 for side in done]
    return (f"{count} of {size} MB", *speeds, speeds[1] / speeds[0], *cpu, *(each(side, "more_mb") for side in done))


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
        await run.ledger.info.prepare()
        items = await find_items(str(settings.images), run.storage, settings)
        work = [store(run, job, status) for job, status in await until_rendered(run, items, StepMeter())]
        await work[0]
        return await timed(work[1:])


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
