"""One run of the library alone, without Prefect, metered by step: `python -m benchmarks.library_run`.

The environment says where. Prints one JSON object: CPU by step, in the loop and in threads, and S3 requests by kind
with the CPU of each.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from benchmarks.processes import peak_mb
from benchmarks.step_meter import MeteredThreads, StepMeter
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.s3.client import THREADS
from i2v.s3.storage import Storage
from i2v.settings import read_settings


class Requests:
    """S3 requests by kind, and the CPU of the thread that made them."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.cpu: defaultdict[str, float] = defaultdict(float)

    def watch(self, storage: Storage) -> None:
        """Count the requests of this storage, by wrapping the method that makes them."""
        client = storage.client
        client._make_api_call = self._counted(client._make_api_call)  # noqa: SLF001 - boto3 has no event for the end

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(operation: str, *arguments: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return call(operation, *arguments, **options)
            finally:
                self.count[operation] += 1
                self.cpu[operation] += time.thread_time() - begun

        return counted


async def run() -> dict[str, Any]:
    """All images under the prefix."""
    meter, requests, settings = StepMeter(), Requests(), read_settings()
    storage = Storage()
    requests.watch(storage)
    storage._threads = MeteredThreads(meter, THREADS)  # noqa: SLF001 - the same threads, metered
    meter.install()
    async with open_run(settings, str(uuid4()), storage=storage) as opened:
        items = await find_items(f"s3://{os.environ['I2V_BUCKET']}/images/", opened.storage, settings)
        work = generate(opened, items, RequestOptions(prompt="it moves"), meter.steps(Steps()))
        report, _ = await asyncio.create_task(work)
    meter.switch("loop")
    return {
        "message": report.summary,
        "loop": meter.loop,
        "threads": meter.threads,
        "s3_count": requests.count,
        "s3_cpu": requests.cpu,
    }


def main() -> None:
    """Run once and print what it took."""
    imported = time.process_time()
    told = asyncio.run(run())
    print(json.dumps({**told, "import_cpu": imported, "cpu": time.process_time(), "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
