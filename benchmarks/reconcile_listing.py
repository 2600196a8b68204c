"""How fast reconcile finds images without an answer, in how much memory: `python -m benchmarks.reconcile_listing`.

So many images in a bucket that a process of its own makes up and boto3 lists for real: three answers to each image, but
for ten. Beside it the same pages are only listed, one after the other, with boto3 alone: what any search must cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import boto3

from benchmarks.processes import forget_peak, now_mb, peak_mb, run_child
from benchmarks.table import Table, middle
from i2v.pipeline.run import open_run
from i2v.recovery.missing import MissingSearch, versions_with_outcome
from i2v.settings import Settings
from tests.support.listing_server import ENDINGS, START, listing_server

SIZES = {2_500: 3, 25_000: 3, 250_000: 1}
"""Images, and how often: with their answers 10,000, 100,000 and 1,000,000 keys, but for 30."""
MISSING = 10
NOBODY = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
PREFIXES = ("images/", "videos/")
HEAD = ("images", "keys", "keys a second", "listing alone", "CPU s", "listing alone", "most memory, MB", "of it before")


def run(sizes: dict[int, int]) -> list[Table]:
    """Measure each number of images so many times, and tell the medians."""
    trials = ", ".join(map(str, sizes.values()))
    notes = f"Three answers to each image but {MISSING}. Medians of {trials} trials, each in a new process."
    return [Table("Reconcile finds images without an answer", HEAD, [row(*each) for each in sizes.items()], notes)]


def row(images: int, trials: int) -> Sequence[str | float]:
    """One number of images."""
    found: dict[str, list[dict[str, Any]]] = {"search": [], "list": []}
    for _ in range(trials):
        with listing_server(images, images // MISSING) as address:
            for side, done in found.items():
                child = run_child("benchmarks.reconcile_listing", side, env={**NOBODY, "AWS_ENDPOINT_URL": address})
                done.append(child.said)
    keys = images + (images - MISSING) * len(ENDINGS)

    def each(side: str, what: str) -> float:
        return middle(said[what] for said in found[side])

    speeds = [keys / each(side, "seconds") for side in found]
    cpu = [each(side, "cpu") for side in found]
    return (images, keys, *speeds, *cpu, each("search", "peak_mb"), each("search", "before_mb"))


async def search() -> int:
    """How many images have no answer."""
    async with open_run(Settings(I2V_BUCKET="big"), "listing", dry_run=True) as run:
        search = MissingSearch(run, await versions_with_outcome(run), datetime(1970, 1, 1, tzinfo=UTC), START)
        return len(await search.next_batch(100))


def list_all() -> int:
    """All pages, and nothing is done with them."""
    client: Any = boto3.client("s3")
    list_pages = client.get_paginator("list_objects_v2").paginate
    return sum(len(page["Contents"]) for prefix in PREFIXES for page in list_pages(Bucket="big", Prefix=prefix))


def measure(side: str) -> dict[str, float]:
    """One side in this process."""
    before = now_mb()
    forget_peak()
    begun, cpu = time.perf_counter(), time.process_time()
    found = asyncio.run(search()) if side == "search" else list_all()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"found": found, "seconds": seconds, "cpu": cpu, "before_mb": before, "peak_mb": peak_mb()}


def main() -> None:
    """Print the table; or, as its child, one side as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", default="1000000", help="how many images (default: %(default)s)")
    asked = parser.parse_args().images
    if os.environ.get("AWS_ENDPOINT_URL") and asked in {"search", "list"}:
        print(json.dumps(measure(asked)))
    else:
        print(*run({int(asked): 1}))


if __name__ == "__main__":
    main()
