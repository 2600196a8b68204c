"""The work pool and its queues. What is there is a person's: limits, pauses and the job template are never changed."""

from __future__ import annotations

from typing import Any, NamedTuple

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import WorkQueueFilter, WorkQueueFilterName
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments import Change, SetupResult

POOL = "i2v"
KIND = "process"
HEARTBEAT_SECONDS = 60
"""How often a run says that it lives; Prefect's own 180 s would take ten minutes to tell a dead one."""


class Queue(NamedTuple):
    """What a queue is made as. A run is a process of some 100 MB, so a burst must not start hundreds."""

    name: str
    priority: int
    limit: int
    description: str


QUEUES = (
    Queue("urgent", 1, 20, "What somebody waits for: new images, callbacks, and what is started by hand."),
    Queue("bulk", 2, 4, "What may wait: the scheduled runs."),
)


async def set_up_pool(client: PrefectClient) -> list[SetupResult]:
    """Make the pool and the queues that are missing."""
    return [await _pool(client), *[await _queue(client, queue) for queue in QUEUES]]


async def _pool(client: PrefectClient) -> SetupResult:
    what = f"work pool {POOL}"
    try:
        found = await client.read_work_pool(POOL)
    except ObjectNotFound:
        description = "Runs i2v's flows as processes: prefect worker start --pool i2v"
        wanted = WorkPoolCreate(name=POOL, type=KIND, base_job_template=_template(), description=description)
        await client.create_work_pool(wanted)
        return SetupResult(Change.MADE, what, f"of type {KIND}")
    if found.type != KIND:
        return SetupResult(Change.LEFT, what, f"it is of type {found.type}, and we would make it {KIND}")
    return SetupResult(Change.UNCHANGED, what)


def _template() -> dict[str, Any]:
    """Prefect's own, with a heartbeat short enough for the automation that waits for it, and one heap for all threads.

    `i2v.memory` shares the heaps too, but the threads that Prefect has begun by then have theirs.
    """
    template = ProcessWorker.get_default_base_job_template()
    env = template["variables"]["properties"]["env"]
    env["default"] = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS), "MALLOC_ARENA_MAX": "1"}
    return template


async def _queue(client: PrefectClient, queue: Queue) -> SetupResult:
    what = f"queue {queue.name}"
    filtered = WorkQueueFilter(name=WorkQueueFilterName(any_=[queue.name]))
    if await client.read_work_queues(work_pool_name=POOL, work_queue_filter=filtered):
        return SetupResult(Change.UNCHANGED, what)
    await client.create_work_queue(
        queue.name,
        description=queue.description,
        concurrency_limit=queue.limit,
        priority=queue.priority,
        work_pool_name=POOL,
    )
    return SetupResult(Change.MADE, what, f"at most {queue.limit} runs at once")
