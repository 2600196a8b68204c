"""Prefect's retries of the free steps, as the UI shows them."""

from __future__ import annotations

import asyncio

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.flow_runs import FinishedFlowRun, RunFlow

BOTO3_ATTEMPTS = 4
RETRIED = ["Running", "AwaitingRetry", "Retrying"]


async def states_of(finished: FinishedFlowRun, step: str) -> list[str]:
    """Return the names of the states of one step's task run, once the last one is recorded."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[finished.run_id]))
    async with get_client() as client:
        for _ in range(300):
            runs = [run for run in await client.read_task_runs(flow_run_filter=only) if run.name.startswith(step)]
            if runs and runs[0].state and runs[0].state.is_final():
                states = await client.read_task_run_states(runs[0].id)
                return [str(state.name) for state in states if state.name != "Pending"]
            await asyncio.sleep(0.1)
    raise TimeoutError(f"no task run {step!r} has ended")


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        ("validate", FaultRule("fail", "GET", r"/images/tom\.jpg", status=503, code="SlowDown", times=BOTO3_ATTEMPTS)),
        ("store", FaultRule("fail", "PUT", r"/videos/.*\.mp4", status=503, code="SlowDown", times=BOTO3_ATTEMPTS)),
    ],
    ids=["validate", "store"],
)
async def test_a_free_step_is_retried_after_a_temporary_fault(
    sandbox: Sandbox, provider: Provider, s3_proxy: FaultProxy, run_flow: RunFlow, step: str, rule: FaultRule
) -> None:
    """The retry is a state of the step's task run, the image is stored, and it is billed once."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    s3_proxy.add(rule)
    finished = await run_flow()
    assert finished.message == "1 stored · $0.192"
    assert await states_of(finished, step) == [*RETRIED, "Completed"]
    assert list(provider.billed().values()) == [1]


async def test_poll_is_retried_if_the_end_cannot_be_recorded(
    sandbox: Sandbox, provider: Provider, s3_proxy: FaultProxy, run_flow: RunFlow
) -> None:
    """If S3 fails when a refusal is recorded, poll is retried and the job is refused."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    provider.add_fault(on="task", kind="fails", code="NSFW")
    s3_proxy.add(FaultRule("fail", "PUT", r"/jobs/[0-9a-f]{64}", body='"refused"', status=503, times=BOTO3_ATTEMPTS))
    finished = await run_flow()
    assert finished.message == "1 refused · $0.192"
    assert await states_of(finished, "poll") == [*RETRIED, "Refused"]


async def test_submit_is_never_retried_by_prefect(
    sandbox: Sandbox, provider: Provider, s3_proxy: FaultProxy, run_flow: RunFlow
) -> None:
    """If the ledger cannot be written, submit fails without a retry and nothing is billed."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    s3_proxy.add(FaultRule("fail", "PUT", r"/jobs/[0-9a-f]{64}", status=503, times=BOTO3_ATTEMPTS))
    finished = await run_flow()
    assert finished.message == "1 failed · $0.00"
    assert await states_of(finished, "submit") == ["Running", "Failed"]
    assert provider.billed() == {}


async def test_a_step_is_not_retried_after_a_permanent_error(
    sandbox: Sandbox, provider: Provider, s3_proxy: FaultProxy, run_flow: RunFlow
) -> None:
    """An image that S3 forbids to read fails without a retry."""
    sandbox.put_image("images/tom.jpg", make_jpeg(400, 400))
    s3_proxy.add(FaultRule("fail", "GET", r"/images/tom\.jpg", status=403, code="AccessDenied", times=None))
    finished = await run_flow()
    assert finished.message == "1 failed · $0.00"
    assert await states_of(finished, "validate") == ["Running", "Failed"]
    assert provider.billed() == {}
