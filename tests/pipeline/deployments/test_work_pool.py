"""The work pool: the heartbeats of its runs, and the environment that its type does not pass on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import WorkPool
from prefect.events.schemas.automations import EventTrigger
from prefect.workers.process import ProcessWorker

from deployments import Change
from deployments.automations import dead_runs
from deployments.setup import set_up
from deployments.work_pool import HEARTBEAT, POOL, heartbeat_seconds, job_environment
from sandbox.prefect_server import PrefectServer

SECRETS = {"APIXO_API_KEY": "key", "I2V_CALLBACK_SECRET": "a-secret-of-16-chars", "AWS_SECRET_ACCESS_KEY": "secret"}
PUBLIC = {"I2V_BUCKET": "photos", "I2V_APIXO_KEY_BLOCK": "team", "AWS_REGION": "eu-central-1"}


def make_pool(kind: str = "process", **environment: str) -> WorkPool:
    """Return a pool whose job template has these variables; none without them, as a worker makes it."""
    template = ProcessWorker.get_default_base_job_template()
    if environment:
        template["variables"]["properties"]["env"]["default"] = environment
    fields: dict[str, Any] = {"name": POOL, "type": kind, "base_job_template": template}
    return WorkPool.model_validate(fields | {"default_queue_id": "00000000-0000-0000-0000-000000000001"})


@pytest.mark.parametrize(
    ("pool", "seconds"),
    [
        (None, 60),
        (make_pool(), 60),
        (make_pool(**{HEARTBEAT: "180"}), 180),
        (make_pool(**{HEARTBEAT: "{{ prefect.variables.beat }}"}), 60),
    ],
    ids=["no pool", "made by a worker", "its own interval", "not a number"],
)
def test_dead_runs_are_detected_after_three_of_the_runs_own_heartbeats(pool: WorkPool | None, seconds: int) -> None:
    """The runs' interval and the automation's patience come from one number, for every pool."""
    trigger = dead_runs(["generate"], heartbeat_seconds(pool)).trigger

    assert job_environment(pool, {})[HEARTBEAT] == str(seconds)
    assert isinstance(trigger, EventTrigger)
    assert trigger.within == timedelta(seconds=3 * seconds)


def test_a_process_has_the_workers_environment() -> None:
    """Runs of a process pool get nothing but the heartbeat."""
    assert job_environment(make_pool(), PUBLIC | SECRETS) == {HEARTBEAT: "60"}


@pytest.mark.parametrize("kind", ["docker", "kubernetes", "ecs"])
def test_other_pools_pass_on_the_settings_without_the_secrets(kind: str) -> None:
    """A container gets the settings of the environment of `make deploy`, and no secret, also not within a URL."""
    login = {"AWS_ENDPOINT_URL": "https://me:password@s3.test", "HOME": "/root"}

    found = job_environment(make_pool(kind), PUBLIC | SECRETS | login)

    assert found == PUBLIC | {HEARTBEAT: "60", "MALLOC_ARENA_MAX": "1"}


async def test_a_pool_that_a_worker_made_is_explained(prefect_server: PrefectServer) -> None:
    """The setup keeps such a pool, says that the deployments set the heartbeat, and does so."""
    async with get_client() as client:
        assert [each async for each in set_up(client)]
        before = (await client.read_work_pool(POOL)).base_job_template
        bare = ProcessWorker.get_default_base_job_template()
        await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=bare))

        results = [each async for each in set_up(client)]

        deployments = await client.read_deployments()
        await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=before))
    (pool,) = [each for each in results if each.target == f"work pool {POOL}"]
    assert (pool.change, HEARTBEAT in pool.detail) == (Change.KEPT, True)
    environments = {each.name: each.job_variables["env"] for each in deployments if each.work_pool_name == POOL}
    assert len(environments) >= 6
    assert {each[HEARTBEAT] for each in environments.values()} == {"60"}
    assert environments["collect"]["PREFECT_FLOWS_DEFAULT_RETRIES"] == "2"
