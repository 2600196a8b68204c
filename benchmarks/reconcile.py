"""How fast reconcile finds images without outputs, and its memory. `python -m benchmarks.reconcile` is the child.

Another process serves the listing of a large bucket: three outputs for each image, but for ten images. The baseline
lists the same pages one after the other with boto3 alone.
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import boto3

from benchmarks.processes import peak_mb, reset_peak, resident_mb, run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from i2v.pipeline.run import open_run
from i2v.recovery.images_without_video import MissingSearch, versions_with_outcome
from i2v.settings import Settings
from tests.support.listing_server import ENDINGS, START, listing_server

SIZES = {2_500: 3, 25_000: 3, 250_000: 1}
"""Images, and how often to measure: 10,000, 100,000 and 1,000,000 keys with their outputs."""
MISSING = 10
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
HEAD = ("images", "keys", "keys/s", "boto3 alone", "CPU s", "boto3 alone", "peak memory, MB", "before, MB")


def run(_: Servers, sizes: dict[int, int]) -> list[Table]:
    """Measure each size, each trial in a new process."""
    notes = f"Three outputs for each image but {MISSING}. Medians of {', '.join(map(str, sizes.values()))} trials."
    return [Table("Reconcile finds images without outputs", HEAD, [_row(*each) for each in sizes.items()], notes)]


def _row(images: int, trials: int) -> Row:
    done: dict[str, list[dict[str, Any]]] = {"search": [], "list": []}
    for _ in range(trials):
        with listing_server(images, images // MISSING) as address:
            for side, found in done.items():
                env = {**CREDENTIALS, "AWS_ENDPOINT_URL": address}
                found.append(run_child("benchmarks.reconcile", side, env=env).output)
    keys = images + (images - MISSING) * len(ENDINGS)

    def each(side: str, value: str) -> float:
        return median_or_zero(result[value] for result in done[side])

    speeds = [keys / each(side, "seconds") for side in done]
    cpu = [each(side, "cpu") for side in done]
    return (images, keys, *speeds, *cpu, each("search", "peak_mb"), each("search", "before_mb"))


async def search() -> int:
    """Return how many images have no outputs."""
    async with open_run(Settings(I2V_BUCKET="big"), "listing", dry_run=True) as run:
        search = MissingSearch(run, await versions_with_outcome(run), datetime(1970, 1, 1, tzinfo=UTC), START)
        return len(await search.next_batch(100))


def list_all() -> int:
    """List all pages."""
    client: Any = boto3.client("s3")
    paginate = client.get_paginator("list_objects_v2").paginate
    prefixes = ("images/", "videos/")
    return sum(len(page["Contents"]) for prefix in prefixes for page in paginate(Bucket="big", Prefix=prefix))


def main(side: str) -> None:
    """Measure one side in this process and print a JSON object."""
    before = resident_mb()
    reset_peak()
    begun, cpu = time.perf_counter(), time.process_time()
    _ = asyncio.run(search()) if side == "search" else list_all()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "before_mb": before, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main(sys.argv[1])
