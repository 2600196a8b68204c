"""A real door that takes callbacks, for tests: its settings, the deployment that it starts, and the runs that came."""

from __future__ import annotations

import socket
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
from tests.support.door_process import DoorProcess, make_deployment
from tests.support.flow_runs import RunFlow
from tests.support.settings import MakeSettings

SECRET = "a-secret-of-the-callback-test"
PAGE = 200


@pytest.fixture
async def collect(prefect_server: PrefectServer) -> AsyncIterator[UUID]:
    """A deployment `collect`, where the tests see what the door starts; it is gone afterwards, with its runs."""
    async with get_client() as client:
        await make_deployment(client)
        flow = await client.create_flow_from_name("reconcile")
        made = await client.create_deployment(flow, "collect", enforce_parameter_schema=False)
    yield made
    async with get_client() as client:
        for run in await collects(made):
            await client.delete_flow_run(run.id)
        await client.delete_deployment(made)


async def collects(deployment: UUID) -> list[FlowRun]:
    """All runs of that deployment."""
    found: list[FlowRun] = []
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    async with get_client() as client:
        while page := await client.read_flow_runs(deployment_filter=only, limit=PAGE, offset=len(found)):
            found += page
    return found


def told_of(runs: list[FlowRun]) -> list[str]:
    """What the runs were told, sorted."""
    return sorted(job for run in runs for job in run.parameters["jobs"])


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def callback_env(sandbox: Sandbox, base_url: str) -> dict[str, str]:
    """The variables by which the provider calls this address, which may be private."""
    return {
        "I2V_CALLBACK_BASE_URL": base_url,
        "I2V_CALLBACK_SECRET": SECRET,
        "I2V_PRIVATE_HOSTS": f"{sandbox.env['I2V_PRIVATE_HOSTS']},{base_url.partition('//')[2]}",
    }


@pytest.fixture
def env(
    sandbox: Sandbox, child_env: dict[str, str], run_flow: RunFlow, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Callbacks are set up, for flows in this process and for the door."""
    port = free_port()
    ours = callback_env(sandbox, f"http://127.0.0.1:{port}")
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    return child_env | ours | {"I2V_DOOR_PORT": str(port)}


@pytest.fixture
def settings(env: dict[str, str], make_settings: MakeSettings) -> Settings:
    """What signs addresses as the flow does."""
    return make_settings(**{name: value for name, value in env.items() if name.startswith(("I2V_", "APIXO_"))})


def open_door(env: dict[str, str], tmp_path: Path) -> DoorProcess:
    """The real door, at the port that the provider is told."""
    return DoorProcess(env, tmp_path / "door.log", port=env["I2V_DOOR_PORT"])


def addresses(provider: Provider) -> list[str]:
    """The signed address of each task that was ordered by callback."""
    return [str(task.request.callback_url) for task in provider.tasks.values()]
