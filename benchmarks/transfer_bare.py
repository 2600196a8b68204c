"""One side of `benchmarks.transfer`: what is ready at the provider, downloaded and put as the floor does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence

from benchmarks.floor import Floor
from benchmarks.processes import forget_peak, now_mb, peak_mb


async def bare() -> dict[str, float]:
    """Download and put, as the floor does."""
    floor = Floor()
    keys = [item["Key"] for item in floor.s3.list_objects_v2(Bucket=floor.bucket, Prefix="images/")["Contents"]]
    urls = [await floor.finished(await floor.submit(key)) for key in keys]
    await floor.bring(urls[0], "videos/first.mp4")
    work = [floor.bring(url, f"videos/{number}.mp4") for number, url in enumerate(urls[1:])]
    told = await timed(work)
    await floor.http.aclose()
    return told


async def timed(work: Sequence[Awaitable[object]]) -> dict[str, float]:
    """Do it all at once; seconds, CPU seconds, and the memory that it took beyond what was there."""
    before = now_mb()
    forget_peak()
    begun, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*work)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "more_mb": peak_mb() - before, "peak_mb": peak_mb()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(bare())))
