"""The work pool, its queues, and the environment of its runs.

An existing pool is left alone: its limits, whether it is paused and its job template belong to users.
"""

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import WorkQueueFilter, WorkQueueFilterName
from prefect.client.schemas.objects import WorkPool
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments import Change, SetupResult
from i2v.cli.prefect.connection import HEARTBEAT_SECONDS
from i2v.settings import Settings
from i2v.urls import redact_url

POOL = "i2v"
POOL_TYPE = "process"
HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
ONE_MALLOC_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""`i2v.malloc_arenas` also limits the arenas, but threads that Prefect starts earlier already have theirs."""
AWS_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")

# A run is a process of some 100 MB, so a burst must not start hundreds.
QUEUES: tuple[dict[str, Any], ...] = (
    {
        "name": "urgent",
        "priority": 1,
        "concurrency_limit": 20,
        "description": "Runs that someone waits for: new images, callbacks, and runs started by hand.",
    },
    {"name": "bulk", "priority": 2, "concurrency_limit": 4, "description": "Scheduled runs, which can wait."},
    {
        "name": "batch",
        "priority": 3,
        "concurrency_limit": 16,
        "description": "The shards of batches: runs of generate that a run of generate-batch starts and waits for.",
    },
)


async def read_pool(client: PrefectClient) -> WorkPool | None:
    """Return the pool, or `None` if there is none yet."""
    try:
        return await client.read_work_pool(POOL)
    except ObjectNotFound:
        return None


def heartbeat_seconds(pool: WorkPool | None) -> int:
    """Return the interval in the pool's job template, or ours if it has none."""
    value = str(_template_environment(pool).get(HEARTBEAT, ""))
    return int(value) if value.isascii() and value.isdigit() and int(value) else HEARTBEAT_SECONDS


def job_environment(pool: WorkPool | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of the deployments' runs.

    A process has its worker's environment. Other pools (Docker, Kubernetes, ECS) pass on only `PREFECT_*`, so they get
    the settings of `environment` too, without the secrets.
    """
    heartbeat = {HEARTBEAT: str(heartbeat_seconds(pool))}
    if pool is None or pool.type == POOL_TYPE:
        return heartbeat
    fields = Settings.model_fields.values()
    public = (str(field.validation_alias) for field in fields if "SecretStr" not in str(field.annotation))
    names = (*public, *AWS_VARIABLES)
    settings = {name: environment[name] for name in names if environment.get(name)}
    return heartbeat | ONE_MALLOC_ARENA | {name: value for name, value in settings.items() if not _has_login(value)}


def _has_login(value: str) -> bool:
    return "://" in value and "@" in value and redact_url(value) != value


async def set_up_pool(client: PrefectClient, pool: WorkPool | None) -> list[SetupResult]:
    """Create the pool and its queues if they are missing; say what differs in an existing pool."""
    return [await _set_up_pool(client, pool), *[await _set_up_queue(client, queue) for queue in QUEUES]]


async def _set_up_pool(client: PrefectClient, pool: WorkPool | None) -> SetupResult:
    target = f"work pool {POOL}"
    if pool is None:
        description = "Runs i2v's flows as processes. Start a worker: prefect worker start --pool i2v"
        new = WorkPoolCreate(name=POOL, type=POOL_TYPE, base_job_template=_job_template(), description=description)
        await client.create_work_pool(new)
        return SetupResult(Change.CREATED, target, f"type {POOL_TYPE}")
    notes = _differences(pool)
    return SetupResult(Change.KEPT if notes else Change.UNCHANGED, target, "; ".join(notes))


def _differences(pool: WorkPool) -> list[str]:
    notes, seconds = [], heartbeat_seconds(pool)
    if pool.type != POOL_TYPE:
        notes.append(
            f"its type is {pool.type}, so its runs get the settings of this environment, but no secrets, and an image "
            "only from IMAGE or its job template: see docs/deploying.md"
        )
    if HEARTBEAT not in _template_environment(pool):
        notes.append(f"its job template has no {HEARTBEAT}, so the deployments set it to {seconds}")
    elif seconds != HEARTBEAT_SECONDS:
        notes.append(
            f"its job template sends heartbeats every {seconds} s, so a dead run is detected after {3 * seconds} s; "
            f"to change that, set {HEARTBEAT}={HEARTBEAT_SECONDS} there and run make deploy again"
        )
    return notes


def _template_environment(pool: WorkPool | None) -> dict[str, Any]:
    properties = pool.base_job_template.get("variables", {}).get("properties", {}) if pool else {}
    return properties.get("env", {}).get("default") or {}


def _job_template() -> dict[str, Any]:
    """Return Prefect's template plus our heartbeat interval and one malloc arena for all threads."""
    template = ProcessWorker.get_default_base_job_template()
    env = template["variables"]["properties"]["env"]
    env["default"] = {HEARTBEAT: str(HEARTBEAT_SECONDS), **ONE_MALLOC_ARENA}
    return template


async def _set_up_queue(client: PrefectClient, queue: dict[str, Any]) -> SetupResult:
    target = f"queue {queue['name']}"
    by_name = WorkQueueFilter(name=WorkQueueFilterName(any_=[queue["name"]]))
    if await client.read_work_queues(work_pool_name=POOL, work_queue_filter=by_name):
        return SetupResult(Change.UNCHANGED, target)
    await client.create_work_queue(work_pool_name=POOL, **queue)
    return SetupResult(Change.CREATED, target, f"up to {queue['concurrency_limit']} runs at once")
