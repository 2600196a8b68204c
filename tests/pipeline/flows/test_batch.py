"""A batch on a real Prefect server and worker: shards, a killed parent, and the merged report."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from prefect_support.batches.artifact import KEY
from sandbox import Sandbox
from sandbox.child_process import ChildProcess
from tests.support.flow_runs import artifacts_with_key
from tests.support.forked_command import forked_setup
from tests.support.orders import put_photos

IMAGES, SHARD_SIZE, SHARDS = 4, 2, 2
PATIENCE_SECONDS = 180
DEPLOYMENT = "generate-batch/batch"
pytestmark = pytest.mark.timeout(4 * PATIENCE_SECONDS)


@pytest.fixture
def worker(child_env: dict[str, str], tmp_path: Path) -> Iterator[ChildProcess]:
    """Deploy, and start a worker."""
    deployed = forked_setup(env=child_env)
    assert (deployed.code, f"deployment {DEPLOYMENT}" in deployed.out) == (0, True), deployed.err
    env = child_env | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    command = ("prefect", "--no-prompt", "worker", "start", "--pool", "i2v")
    with ChildProcess(*command, env=env, log=tmp_path / "worker.log") as child:
        yield child


async def start(**parameters: Any) -> FlowRun:
    """Start the deployment `batch`."""
    async with get_client() as client:
        found = await client.read_deployment_by_name(DEPLOYMENT)
        return await client.create_flow_run_from_deployment(found.id, parameters=parameters)


async def wait_until(run: FlowRun, condition: Callable[[FlowRun], bool], worker: ChildProcess) -> FlowRun:
    """Wait until the condition holds for a run as it is now."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with get_client() as client:
        while not condition(run := await client.read_flow_run(run.id)):
            assert time.monotonic() < deadline, (run.state, worker.output()[-20_000:])
            await asyncio.sleep(0.3)
    return run


def has_ended(run: FlowRun) -> bool:
    """Return whether a run is in a final state."""
    return run.state is not None and run.state.is_final()


async def test_a_batch_survives_its_killed_parent(sandbox: Sandbox, worker: ChildProcess) -> None:
    """A parent that is killed and retried finds its shards: each image is billed once, and all are in one report."""
    images = put_photos(sandbox, IMAGES)
    sandbox.provider.set_options(render_seconds=2)
    run = await start(
        images=[f"s3://{sandbox.bucket}/images/", images[0]],
        prompt="it moves",
        shard_size=SHARD_SIZE,
        max_parallel=1,
        max_spend_usd=2,
    )
    run = await wait_until(run, lambda _: bool(sandbox.provider.billed()), worker)
    os.kill(int(str(run.infrastructure_pid).rpartition(":")[2]), signal.SIGKILL)
    run = await wait_until(run, has_ended, worker)
    assert run.state
    assert run.state.is_crashed()
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Scheduled(), force=True)
    run = await wait_until(run, lambda now: has_ended(now) and now.run_count == 2, worker)

    assert run.state
    assert run.state.message == "4 stored · $0.768", worker.output()[-20_000:]
    assert set(sandbox.provider.billed().values()) == {1}
    assert len(sandbox.provider.billed()) == IMAGES
    report = sandbox.read_json(f"jobs/batches/{run.id}/report.json")
    assert [item["image"] for item in report["items"]] == images
    assert (report["stored"], report["spent_usd"]) == (IMAGES, 0.768)
    assert len(sandbox.read(f"jobs/runs/{run.id}.jsonl").splitlines()) == IMAGES
    async with get_client() as client:
        shards = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": ["batch"]}})
        )
    assert len([each for each in shards if str(run.id) in str(each.parameters.get("shard"))]) == SHARDS
    page = (await artifacts_with_key(KEY))[0]
    assert "4 stored" in str(page.data)
