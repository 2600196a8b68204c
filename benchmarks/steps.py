"""CPU of a run by step, in the library alone. `python -m benchmarks.steps` is the child: one run without Prefect."""

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from benchmarks.step_meter import MeteredThreads, StepMeter
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.s3.client import THREADS
from i2v.s3.storage import Storage
from i2v.settings import read_settings

FASTER = 10
STEPS = ("the run", "validate", "submit", "poll", "store", "loop")
NOTES = (
    "Milliseconds of CPU a video, without Prefect, all images concurrently; medians. `the run` resolves images (HEAD, "
    "sidecar) and writes reports; `loop` is the event loop between the steps."
)


def run(servers: Servers, images: int, trials: int) -> list[Table]:
    """Measure some runs."""
    done: list[dict[str, Any]] = []
    for _ in range(trials):
        servers.reset(images, render_seconds=60 / FASTER, render_jitter=0.3, file_bytes=3_000_000)
        done.append(run_child("benchmarks.steps", env=servers.env(faster=FASTER)).output)

    def cpu_ms(side: str, step: str) -> float:
        return median_or_zero(each[side].get(step, 0.0) for each in done) / images * 1000

    rows: list[Row] = [(step, cpu_ms("loop", step), cpu_ms("threads", step)) for step in STEPS]
    total = median_or_zero(each["cpu"] for each in done) / images * 1000
    rows.append(
        ("all (and what belongs to no step)", total, total - sum(float(cell) for row in rows for cell in row[1:]))
    )
    return [Table(f"CPU by step: {images:,} images, {trials} trials", ("step", "loop", "threads"), rows, NOTES)]


async def run_library() -> StepMeter:
    """Make videos of all images in the bucket of the environment."""
    meter, settings, storage = StepMeter(), read_settings(), Storage()
    storage._threads = MeteredThreads(meter, THREADS)  # noqa: SLF001 - the same threads, metered
    meter.install()
    async with open_run(settings, str(uuid4()), storage=storage) as opened:
        items = await find_items(str(settings.images), storage, settings)
        work = generate(opened, items, RequestOptions(prompt="it moves"), meter.steps(Steps()))
        await asyncio.create_task(work)
    meter.switch("loop")
    return meter


def main() -> None:
    """Run once and print a JSON object."""
    imports = time.process_time()
    meter = asyncio.run(run_library())
    print(json.dumps({"loop": meter.loop, "threads": meter.threads, "cpu": time.process_time() - imports}))


if __name__ == "__main__":
    main()
