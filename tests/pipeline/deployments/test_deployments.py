"""prefect.yaml: Prefect understands all of it, and a worker runs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, WorkPoolConfig
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.events import DeploymentEventTrigger, DeploymentTriggerTypes, Event, Resource
from prefect.events.clients import get_events_client
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, TypeAdapter

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import wait_for_i2v_events
from tests.support.forked_command import forked_setup
from tests.support.paths import ROOT

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {each["name"]: each for each in CONFIG["deployments"]}
SAMPLE: dict[str, dict[str, Any]] = {
    "generate": {"images": "s3://bucket/images/"},
    "on-image": {"images": ["s3://bucket/images/a.jpg"]},
    "batch": {"images": "s3://bucket/images/"},
    "nightly": {"since": "2026-01-01T00:00:00+00:00"},
    "collect": {"jobs": ["0" * 64]},
}
"""Values that a user, the setup or the door passes for parameters without a default."""
QUEUE = dict.fromkeys(("generate", "on-image", "collect", "batch"), "urgent") | dict.fromkeys(
    ("nightly", "reconcile", "report"), "bulk"
)
POOL = "i2v"
CATS = ((1, "tom"), (2, "leo"))
ON_IMAGE = {"tags": {"all_": ["bucket"]}}
CLI = Callable[..., Awaitable[str]]


def _keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _flow(deployment: dict[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(f"{ROOT}/{deployment['entrypoint']}", use_placeholder_flow=False)


def test_prefect_knows_every_key() -> None:
    """Prefect knows every key in the file; it would silently ignore a misspelled one."""
    assert DEPLOYMENTS

    PrefectYamlModel.model_validate(CONFIG)
    assert set(CONFIG) - _keys(PrefectYamlModel) == set()
    for deployment in DEPLOYMENTS.values():
        assert set(deployment) - _keys(DeploymentConfig) == set()
        assert set(deployment["work_pool"]) - _keys(WorkPoolConfig) == set()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_flow_loads_and_accepts_the_parameters(name: str) -> None:
    """Each entrypoint can be imported, and its flow accepts the deployment's parameters."""
    deployment = DEPLOYMENTS[name]
    flow = _flow(deployment)

    given = SAMPLE.get(name, {}) | deployment.get("parameters", {})
    assert set(given) <= set(flow.validate_parameters(given))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_parameter_has_a_description(name: str) -> None:
    """Every parameter has a description in the UI form."""
    fields = parameter_schema(_flow(DEPLOYMENTS[name])).properties
    assert fields

    assert [field for field, schema in fields.items() if not schema.get("description")] == []


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_no_deployment_has_its_own_limit(name: str) -> None:
    """Limits are set on queues: a deployment's own limit crashes running flow runs when the server restarts."""
    assert "concurrency_limit" not in DEPLOYMENTS[name]
    pool = DEPLOYMENTS[name]["work_pool"]
    assert (pool["name"], pool["work_queue_name"]) == (POOL, QUEUE[name])


def test_only_collect_is_retried() -> None:
    """Only `collect` has flow-level retries: a callback may be the only report of a lost task."""
    retries = {name: each["work_pool"].get("job_variables", {}).get("env", {}) for name, each in DEPLOYMENTS.items()}
    assert {name for name, env in retries.items() if env.get("PREFECT_FLOWS_DEFAULT_RETRIES", "0") != "0"} == {
        "collect"
    }


def test_automatic_spending_is_limited_and_nightly_is_off() -> None:
    """Runs that start automatically have spending limits, and the schedule of `nightly` is off by default."""
    assert DEPLOYMENTS["nightly"]["parameters"].keys() >= {"generate", "limit", "max_spend_usd"}
    assert [schedule["active"] for schedule in DEPLOYMENTS["nightly"]["schedules"]] == [False]
    assert DEPLOYMENTS["on-image"]["parameters"].keys() >= {"partial", "max_spend_usd"}


def test_prefect_knows_every_trigger_key() -> None:
    """Prefect knows every key of a trigger; it would silently ignore a misspelled one."""
    triggers = [trigger for each in DEPLOYMENTS.values() for trigger in each.get("triggers", [])]
    assert triggers

    for trigger in triggers:
        assert set(trigger) - _keys(DeploymentEventTrigger) == set()
        TypeAdapter[DeploymentTriggerTypes](DeploymentTriggerTypes).validate_python(trigger)


@pytest.fixture
def command(child_env: dict[str, str]) -> CLI:
    """Run a module as a command in the project's root against the test's server, and return its output."""

    async def run(*args: str) -> str:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *args),
            cwd=ROOT,
            env=child_env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(child.communicate(), 300)
        finally:
            if child.returncode is None:
                child.kill()
        assert child.returncode == 0, output.decode()
        return output.decode()

    return run


async def _start(deployment: str, **parameters: Any) -> FlowRun:
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        return await client.create_flow_run_from_deployment(found.id, parameters=parameters)


async def _emit_created(*objects: str) -> FlowRun:
    """Emit the event that triggers `on-image`, and wait for its run."""
    event = Event(
        event="s3.objects.created",
        resource=Resource.model_validate({"prefect.resource.id": f"s3.bucket.{uuid4()}"}),
        payload={"objects": list(objects)},
    )
    async with get_events_client() as events:
        await events.emit(event)
    async with get_client() as client:
        for _ in range(100):
            runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(ON_IMAGE))
            for run in runs:
                if run.parameters.get("images") == list(objects):
                    return run
            await asyncio.sleep(0.2)
    raise AssertionError("the event started no run")


async def _read(run: FlowRun) -> FlowRun:
    async with get_client() as client:
        return await client.read_flow_run(run.id)


async def test_worker_runs_what_is_deployed(
    command: CLI, prefect_server: PrefectServer, sandbox: Sandbox, child_env: dict[str, str]
) -> None:
    """After `make deploy` a worker runs what was started by hand and by event, and their videos are stored."""
    tom, leo = (
        sandbox.put_image(f"images/cats/{name}.jpg", make_jpeg(seed=seed), prompt="he yawns") for seed, name in CATS
    )
    deployed = await asyncio.to_thread(forked_setup, env=child_env)
    assert (deployed.code, "deployment generate/on-image" in deployed.out) == (0, True), deployed.err

    by_hand = await _start("generate/generate", images=tom)
    by_event = await _emit_created(leo)
    output = await command("prefect", "--no-prompt", "worker", "start", "--pool", POOL, "--run-once")

    for run, name in ((await _read(by_hand), tom), (await _read(by_event), leo)):
        assert run.state, output
        assert run.state.message == "1 stored · $0.192", output
        key = name.removeprefix(f"s3://{sandbox.bucket}/")
        assert run.name.startswith(f"1 image · {key} · standard 6 s · ")
    for name in ("tom", "leo"):
        assert {Path(key).suffix for key in sandbox.keys(f"videos/cats/{name}.jpg/")} == {".mp4", ".jpg", ".json"}
    assert sandbox.provider.billed().total() == 2
    names = [event["event"] for event in await wait_for_i2v_events(prefect_server, sandbox, 6)]
    assert sorted(names) == sorted(2 * ["i2v.job.submitted", "i2v.job.stored", "i2v.run.finished"]), (
        "events were lost at shutdown"
    )
