"""A real door with callbacks: its settings, the deployment `collect` and the runs that the door starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun

from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.provider import Provider
from tests.support.door_process import DoorProcess, ensure_deployment
from tests.support.flow_runs import RunFlow
from tests.support.nginx_process import free_port
from tests.support.settings import MakeSettings

SECRET = "a-secret-of-the-callback-test"
PAGE = 200


@pytest.fixture
async def collect(prefect_server: PrefectServer) -> AsyncIterator[UUID]:
    """Create the deployment `collect`, and delete it with its runs after the test."""
    async with get_client() as client:
        await ensure_deployment(client)
        flow = await client.create_flow_from_name("reconcile")
        deployment = await client.create_deployment(flow, "collect", enforce_parameter_schema=False)
    await _delete_runs(deployment)  # of earlier tests that deployed it themselves
    yield deployment
    await _delete_runs(deployment)
    async with get_client() as client:
        await client.delete_deployment(deployment)


async def _delete_runs(deployment: UUID) -> None:
    async with get_client() as client:
        for run in await list_collect_runs(deployment):
            await client.delete_flow_run(run.id)


async def list_collect_runs(deployment: UUID) -> list[FlowRun]:
    """Return all runs of the deployment."""
    found: list[FlowRun] = []
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    async with get_client() as client:
        while page := await client.read_flow_runs(deployment_filter=only, limit=PAGE, offset=len(found)):
            found += page
    return found


def jobs_in_runs(runs: list[FlowRun]) -> list[str]:
    """Return the `jobs` parameters of the runs, sorted."""
    return sorted(job for run in runs for job in run.parameters["jobs"])


def callback_env(sandbox: Sandbox, base_url: str) -> dict[str, str]:
    """Return the settings that send callbacks to this URL, which may be private."""
    return {
        "I2V_CALLBACK_BASE_URL": base_url,
        "I2V_CALLBACK_SECRET": SECRET,
        "I2V_FIRST_SUBMITS": "0",  # the first ones of a bucket would be polled
        "I2V_PRIVATE_HOSTS": f"{sandbox.env['I2V_PRIVATE_HOSTS']},{base_url.partition('//')[2]}",
    }


@pytest.fixture
def env(
    sandbox: Sandbox, child_env: dict[str, str], run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Turn callbacks on for flows in this process and for the door."""
    port = free_port()
    callbacks = callback_env(sandbox, f"http://127.0.0.1:{port}")
    for name, value in callbacks.items():
        monkeypatch.setenv(name, value)
    return child_env | callbacks | {"I2V_DOOR_PORT": str(port)}


@pytest.fixture
def settings(env: dict[str, str], make_settings: MakeSettings) -> Settings:
    """The settings that sign callback URLs as the flow does."""
    return make_settings(**{name: value for name, value in env.items() if name.startswith(("I2V_", "APIXO_"))})


def open_door(env: dict[str, str], tmp_path: Path) -> DoorProcess:
    """Return a door on the port to which callbacks are sent."""
    return DoorProcess(env, tmp_path / "door.log", port=env["I2V_DOOR_PORT"])


def callback_urls(provider: Provider) -> list[str]:
    """Return the signed callback URL of each task."""
    return [str(task.request.callback_url) for task in provider.tasks.values()]
