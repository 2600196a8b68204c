"""How fast reconcile finds images without an answer, in how much memory: `python -m benchmarks.reconcile_listing`.

`IMAGES` (default 1,000,000) in a bucket that a process of its own makes up and boto3 lists for real: three answers to
each image, but for ten. It prints keys a second, CPU seconds and the most memory that the process ever had.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import time
from datetime import UTC, datetime

from i2v.missing import Search, taken_versions
from i2v.runs import open_run
from i2v.settings import Settings
from tests.integration.listing_server import ENDINGS, START, listing_server

MISSING = 10
NOBODY = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", type=int, default=1_000_000)
    images = parser.parse_args().images
    print(f"before: {_memory_mb():.0f} MB")
    with listing_server(images, images // MISSING) as address:
        os.environ |= {**NOBODY, "AWS_ENDPOINT_URL": address}
        started, cpu = time.perf_counter(), time.process_time()
        found = asyncio.run(_find())
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    keys = images + (images - MISSING) * len(ENDINGS)
    print(f"{images:,} images, {keys:,} keys: {found} without an answer")
    print(f"{seconds:.1f} s, {cpu:.1f} s of CPU, {keys / seconds:,.0f} keys/s, at most {_memory_mb():.0f} MB")


async def _find() -> int:
    async with open_run(Settings(I2V_BUCKET="big"), "listing", dry_run=True) as run:
        search = Search(run, await taken_versions(run), datetime(1970, 1, 1, tzinfo=UTC), START)
        return len(await search.next_batch(100))


def _memory_mb() -> float:
    """The most that this process ever had, of which Linux tells KB and macOS bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
