"""prefect.yaml: what it says is what Prefect understands, and a worker really runs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, WorkPoolConfig
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel

from sandbox import Sandbox
from sandbox.pictures import make_jpeg

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {each["name"]: each for each in CONFIG["deployments"]}
SAMPLE: dict[str, dict[str, Any]] = {"generate": {"images": "s3://bucket/images/"}}
"""What a person fills in where a parameter has no default."""
POOL = "i2v"
CLI = Callable[..., Awaitable[str]]


def _keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _flow(deployment: dict[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(f"{ROOT}/{deployment['entrypoint']}", use_placeholder_flow=False)


def test_prefect_knows_every_key() -> None:
    """Prefect ignores a misspelt key in silence, so none is there that it does not know."""
    assert DEPLOYMENTS

    PrefectYamlModel.model_validate(CONFIG)
    assert set(CONFIG) - _keys(PrefectYamlModel) == set()
    for deployment in DEPLOYMENTS.values():
        assert set(deployment) - _keys(DeploymentConfig) == set()
        assert set(deployment["work_pool"]) - _keys(WorkPoolConfig) == set()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_flow_loads_and_takes_the_parameters(name: str) -> None:
    """Each entrypoint is a flow that can be imported, and it takes what the deployment gives it."""
    deployment = DEPLOYMENTS[name]
    flow = _flow(deployment)

    given = SAMPLE.get(name, {}) | deployment.get("parameters", {})
    assert set(given) <= set(flow.validate_parameters(given))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_form_explains_itself(name: str) -> None:
    """Whoever runs a deployment from the UI reads there what each parameter means."""
    fields = parameter_schema(_flow(DEPLOYMENTS[name])).properties
    assert fields

    assert [field for field, schema in fields.items() if not schema.get("description")] == []


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_limits_are_the_pools(name: str) -> None:
    """No deployment has a limit of its own, since that crashes running flow runs when the server restarts."""
    assert "concurrency_limit" not in DEPLOYMENTS[name]
    assert DEPLOYMENTS[name]["work_pool"]["name"] == POOL


@pytest.fixture
def prefect(child_env: dict[str, str]) -> CLI:
    """Prefect's command in the project's root, against the test's server, as a person types it."""

    async def run(*args: str) -> str:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "prefect", "--no-prompt", *args),
            cwd=ROOT,
            env=child_env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await asyncio.wait_for(child.communicate(), 90)
        finally:
            if child.returncode is None:
                child.kill()
        assert child.returncode == 0, said.decode()
        return said.decode()

    return run


async def _order(deployment: str, **parameters: Any) -> FlowRun:
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        return await client.create_flow_run_from_deployment(found.id, parameters=parameters)


async def _ended(run: FlowRun) -> FlowRun:
    async with get_client() as client:
        return await client.read_flow_run(run.id)


async def test_worker_runs_what_is_deployed(prefect: CLI, sandbox: Sandbox) -> None:
    """Deployed as the README says, a worker takes a run from the server and the video is in the bucket."""
    image = sandbox.put_image("images/cats/tom.jpg", make_jpeg(), prompt="he yawns")
    await prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    await prefect("deploy", "--all")

    run = await _order("generate/generate", images=image)
    said = await prefect("worker", "start", "--pool", POOL, "--run-once")
    ended = await _ended(run)

    assert ended.state, said
    assert ended.state.message == "1 stored · $0.192", said
    assert ended.name == f"{image} · standard 6 s"
    assert {Path(key).suffix for key in sandbox.keys("videos/cats/tom.jpg/")} == {".mp4", ".jpg", ".json"}
    assert sandbox.provider.billed().total() == 1
