"""CPU of each step, in the library alone. `python -m benchmarks.steps` is the child: one run without Prefect.

All images take a step together, so that what the process uses meanwhile is the CPU of that step.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from i2v.apixo.models import TaskStatus
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, prepare
from i2v.pipeline.poll import poll
from i2v.pipeline.run import open_run
from i2v.pipeline.store import store
from i2v.pipeline.submit import submit
from i2v.pipeline.video_order import Order
from i2v.settings import read_settings

FASTER = 10
WARM_UP = 10
"""Images that go first and are not measured, so that all code is loaded."""
STEPS = ("validate", "submit", "poll", "store")
NOTES = "Milliseconds of CPU a video, without Prefect, in the event loop and in threads; medians."
T = TypeVar("T")


def run(servers: Servers, images: int, trials: int) -> list[Table]:
    """Measure some runs."""
    done: list[dict[str, Any]] = []
    for _ in range(trials):
        servers.reset(WARM_UP + images, render_seconds=60 / FASTER, render_jitter=0.3, file_bytes=3_000_000)
        done.append(run_child("benchmarks.steps", env=servers.env(faster=FASTER)).output)

    def cpu_ms(step: str, side: int) -> float:
        return median_or_zero(each[step][side] for each in done) / images * 1000

    rows: list[Row] = [(step, cpu_ms(step, 0), cpu_ms(step, 1)) for step in STEPS]
    rows.append(("all", *(sum(cpu_ms(step, side) for step in STEPS) for side in (0, 1))))
    return [Table(f"CPU by step: {images:,} images, {trials} trials", ("step", "loop", "threads"), rows, NOTES)]


class StepMeter:
    """CPU seconds of each step: of the event loop's thread, and of all other threads."""

    def __init__(self) -> None:
        self.cpu: dict[str, tuple[float, float]] = {}

    async def run(self, step: str, work: Iterable[Awaitable[T]]) -> list[T]:
        """Run and measure one step of all images."""
        loop, process = time.thread_time(), time.process_time()
        results = await asyncio.gather(*work)
        loop, process = time.thread_time() - loop, time.process_time() - process
        self.cpu[step] = loop, process - loop
        return results


async def until_rendered(
    run: RunContext, items: Sequence[InputItem], meter: StepMeter
) -> list[tuple[VersionedRecord, TaskStatus]]:
    """Validate, submit and poll the images. Raise `RuntimeError` if a video is not rendered."""
    options = RequestOptions(prompt="it moves")
    orders = await meter.run("validate", [prepare(run, item, options, Steps()) for item in items])
    jobs = await meter.run("submit", [submit(run, order) for order in orders if isinstance(order, Order)])
    polled = await meter.run("poll", [poll(run, job) for job in jobs])
    rendered = [(job, status) for job, status, _ in polled if status]
    if len(rendered) < len(items):
        raise RuntimeError(f"{len(rendered)} of {len(items)} videos are rendered")
    return rendered


async def run_library() -> StepMeter:
    """Make videos of all images in the bucket of the environment; return the CPU of those after the warm-up."""
    settings, meter = read_settings(), StepMeter()
    async with open_run(settings, str(uuid4())) as run:
        await run.ledger.info.prepare()
        items = await find_items(str(settings.images), run.storage, settings)
        for some in (items[:WARM_UP], items[WARM_UP:]):
            rendered = await until_rendered(run, some, meter)
            await meter.run("store", [store(run, job, status) for job, status in rendered])
    return meter


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run_library()).cpu))
