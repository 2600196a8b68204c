"""A flow that makes only task runs, events or log lines: the child of `benchmarks.prefect_cost`."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from prefect_support.logging_setup import send_library_logs
from prefect_support.task_states import run_step

log = logging.getLogger("i2v.benchmark")


@dataclass(frozen=True)
class Named:
    """What a task run is named after."""

    name: str


@task(name="step", task_run_name="step {image.name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
async def step(run: Any, image: Named) -> Named:  # noqa: ARG001 - the signature of the real steps
    """As thin as the real steps."""
    return image


async def make(kind: str, number: int) -> None:
    """Make one of a kind."""
    name = f"{number:05}.jpg"
    if kind == "task run":
        await run_step(step, None, Named(name))
    elif kind == "event":
        emit_event(
            "i2v.job.stored",
            resource={"prefect.resource.id": f"i2v.job.{number:064x}", "prefect.resource.name": name},
            related=[{"prefect.resource.id": "i2v.ledger.bucket", "prefect.resource.role": "ledger"}],
            payload={"image": f"s3://bucket/images/{name}", "job": f"{number:064x}", "sha256": "0" * 64, "take": 1},
        )
    elif kind == "log line":
        log.info("stored s3://bucket/videos/%s/0123456789ab-0123456789ab.mp4", name)


@flow(name="benchmark")
async def make_many(kind: str, count: int) -> None:
    """Make them concurrently, like the images of a run."""
    send_library_logs()
    await asyncio.gather(*(make(kind, each) for each in range(count)))


def main() -> None:
    """Run once."""
    work: Any = make_many(sys.argv[1], int(sys.argv[2]))
    asyncio.run(work)


if __name__ == "__main__":
    main()
