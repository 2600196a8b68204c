"""Prefect's part of a run, and nothing else: `python -m benchmarks.prefect_alone COUNT RENDER_SECONDS`.

Each video has the four steps' task runs with the policies of the real ones, two events and four log lines, at the pace
of a run. The bodies are empty; rendering is a pause.
"""

import asyncio
import logging
import random
import sys
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from benchmarks.makespan import JITTER
from benchmarks.prefect_cost import Named, emit_one
from prefect_support.logging_setup import send_library_logs
from prefect_support.task_states import RETRIES, run_step

log = logging.getLogger("i2v.benchmark")
PREPARED_PER_SECOND = 30
"""How many images a run validates and submits in a second."""
UNCACHED: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
NAME = "{image.name}"


@task(
    name="validate",
    task_run_name=f"validate {NAME}",
    cache_key_fn=lambda _, parameters: f"benchmark-{parameters['image'].name}-{random.random()}",  # noqa: S311
    persist_result=True,
    cache_result_in_memory=False,
    result_serializer="json",
    **RETRIES,
)
async def validate(run: Any, image: Named) -> dict[str, str]:  # noqa: ARG001 - the signature of the real step
    """Return a small result, which Prefect keeps."""
    return {"name": image.name}


@task(name="submit", task_run_name=f"submit {NAME}", **UNCACHED)
async def submit(run: Any, image: Named) -> Named:  # noqa: ARG001
    """Do nothing."""
    return image


@task(name="poll", task_run_name=f"poll {NAME}", **UNCACHED, **RETRIES)
async def poll(run: Any, image: Named, seconds: float) -> Named:  # noqa: ARG001
    """Wait as long as the video would render."""
    await asyncio.sleep(seconds)
    return image


@task(name="store", task_run_name=f"store {NAME}", **UNCACHED, **RETRIES)
async def store(run: Any, image: Named) -> Named:  # noqa: ARG001
    """Do nothing."""
    return image


async def make(number: int, render_seconds: float) -> None:
    """Take one video through its steps."""
    image = Named(f"{number:05}.jpg")
    await asyncio.sleep(number / PREPARED_PER_SECOND)
    for step, arguments in (
        (validate, ()),
        (submit, ()),
        (poll, (render_seconds * random.uniform(1 - JITTER, 1 + JITTER),)),  # noqa: S311
        (store, ()),
    ):
        await run_step(step, None, image, *arguments)
        log.info("%s s3://bucket/videos/%s/0123456789ab-0123456789ab.mp4", step.name, image.name)
        if step in (submit, store):
            emit_one(number, image.name)


@flow(name="benchmark")
async def make_all(count: int, render_seconds: float) -> None:
    """Make them concurrently, like the images of a run."""
    send_library_logs()
    await asyncio.gather(*(make(number, render_seconds) for number in range(count)))


def main() -> None:
    """Run once."""
    work: Any = make_all(int(sys.argv[1]), float(sys.argv[2]))
    asyncio.run(work)


if __name__ == "__main__":
    main()
