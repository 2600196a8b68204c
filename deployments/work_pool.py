"""The work pool and its queues. Existing ones are left alone: limits, pauses and the job template belong to users."""

from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import WorkQueueFilter, WorkQueueFilterName
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments import Change, SetupResult

POOL = "i2v"
POOL_TYPE = "process"
HEARTBEAT_SECONDS = 60
"""How often a run sends a heartbeat. With Prefect's default of 180 s it takes ten minutes to detect a dead run."""


# A run is a process of some 100 MB, so a burst must not start hundreds.
QUEUES: tuple[dict[str, Any], ...] = (
    {
        "name": "urgent",
        "priority": 1,
        "concurrency_limit": 20,
        "description": "Runs that someone waits for: new images, callbacks, and runs started by hand.",
    },
    {"name": "bulk", "priority": 2, "concurrency_limit": 4, "description": "Scheduled runs, which can wait."},
)


async def set_up_pool(client: PrefectClient) -> list[SetupResult]:
    """Create the pool and its queues if they are missing."""
    return [await _set_up_pool(client), *[await _set_up_queue(client, queue) for queue in QUEUES]]


async def _set_up_pool(client: PrefectClient) -> SetupResult:
    target = f"work pool {POOL}"
    try:
        found = await client.read_work_pool(POOL)
    except ObjectNotFound:
        description = "Runs i2v's flows as processes. Start a worker: prefect worker start --pool i2v"
        pool = WorkPoolCreate(name=POOL, type=POOL_TYPE, base_job_template=_job_template(), description=description)
        await client.create_work_pool(pool)
        return SetupResult(Change.CREATED, target, f"type {POOL_TYPE}")
    if found.type != POOL_TYPE:
        return SetupResult(Change.KEPT, target, f"its type is {found.type}; the default is {POOL_TYPE}")
    return SetupResult(Change.UNCHANGED, target)


def _job_template() -> dict[str, Any]:
    """Return Prefect's template plus our heartbeat interval and one malloc arena for all threads.

    `i2v.memory` also limits the arenas, but threads that Prefect starts earlier already have theirs.
    """
    template = ProcessWorker.get_default_base_job_template()
    env = template["variables"]["properties"]["env"]
    env["default"] = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS), "MALLOC_ARENA_MAX": "1"}
    return template


async def _set_up_queue(client: PrefectClient, queue: dict[str, Any]) -> SetupResult:
    target = f"queue {queue['name']}"
    by_name = WorkQueueFilter(name=WorkQueueFilterName(any_=[queue["name"]]))
    if await client.read_work_queues(work_pool_name=POOL, work_queue_filter=by_name):
        return SetupResult(Change.UNCHANGED, target)
    await client.create_work_queue(work_pool_name=POOL, **queue)
    return SetupResult(Change.CREATED, target, f"up to {queue['concurrency_limit']} runs at once")
