"""A flow process that gets SIGTERM keeps what it paid for and reports its end to Prefect."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun

from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.forked_command import start_forked
from tests.support.forked_flows import generate_images
from tests.support.orders import job_records, put_photos

IMAGES = 3
TIMEOUT_SECONDS = 60


@contextmanager
def flow_process(sandbox: Sandbox, env: dict[str, str], log: Path) -> Iterator[ForkServerProcess]:
    """Run the flow over all images of the bucket in a child process, and kill it at the end of the test."""
    put_photos(sandbox, IMAGES)
    child = start_forked(generate_images, f"s3://{sandbox.bucket}/images/", env=env, err=log)
    try:
        yield child
    finally:
        child.kill()
        child.join()


def wait_for(provider: Provider, endpoint: str, child: ForkServerProcess, log: Path) -> None:
    """Wait until there was a request to this endpoint for each image."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(provider.request_log.find(endpoint)) < IMAGES:
        assert child.exitcode is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def terminate(child: ForkServerProcess) -> int | None:
    """Send SIGTERM and return the exit code."""
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(TIMEOUT_SECONDS)
    return child.exitcode


async def read_run(sandbox: Sandbox) -> tuple[dict[str, Any], FlowRun]:
    """Return the only run record in the ledger, and its flow run in Prefect."""
    (key,) = (key for key in sandbox.keys("jobs/runs/") if key.endswith(".json"))
    record = json.loads(sandbox.read(key))
    async with get_client() as client:
        return record, await client.read_flow_run(UUID(record["run_id"]))


async def test_sigterm_during_the_submits_keeps_every_task_id(
    sandbox: Sandbox, provider: Provider, child_env: dict[str, str], tmp_path: Path
) -> None:
    """On SIGTERM the run waits for its POSTs, records their tasks and writes its report; Prefect sees it crash."""
    provider.add_fault(on="submit", kind="late", seconds=1.5, times=None)
    log = tmp_path / "flow.log"
    with flow_process(sandbox, child_env, log) as child:
        wait_for(provider, "submit", child, log)
        code = terminate(child)
    record, flow_run = await read_run(sandbox)
    assert code not in {None, 0}
    jobs = job_records(sandbox)
    assert {attempt.task_id for job in jobs for attempt in job.attempts} == set(provider.tasks)
    assert {job.state for job in jobs} == {"submitted"}
    assert record["ended_at"]
    assert (record["report"]["submitted"], record["report"]["spent_usd"]) == (IMAGES, 0.576)
    assert flow_run.state
    assert flow_run.state.is_crashed() or flow_run.state.is_cancelled(), (flow_run.state, log.read_text())


async def test_sigterm_while_waiting_ends_the_run_at_once(
    sandbox: Sandbox, provider: Provider, child_env: dict[str, str], tmp_path: Path
) -> None:
    """A run that only waits for videos ends within seconds, and its jobs stay submitted."""
    provider.set_options(render_seconds=300)
    log = tmp_path / "flow.log"
    with flow_process(sandbox, child_env, log) as child:
        wait_for(provider, "status", child, log)
        sent = time.monotonic()
        terminate(child)
    assert time.monotonic() - sent < 100, log.read_text()
    record, flow_run = await read_run(sandbox)
    assert {job.state for job in job_records(sandbox)} == {"submitted"}
    assert record["report"]["submitted"] == IMAGES
    assert flow_run.state
    assert flow_run.state.is_crashed() or flow_run.state.is_cancelled()
