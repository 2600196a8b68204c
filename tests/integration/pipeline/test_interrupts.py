"""Promise 3 for cancelled runs: a POST that was sent is awaited and its task id recorded; nothing else is sent."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from i2v.errors import NotTried
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.job import JobState
from i2v.ledger.run_record import RunRecord
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.submit import submit
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, job_records, order_for, put_photo, put_photos

LATE_SECONDS = 0.6
IMAGES = 3


async def generate_all(sandbox: Sandbox, new_run: OpenRun, **changes: object) -> None:
    """Run generate over all images of the bucket."""
    async with new_run(run_id="cut", **changes) as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt="a slow zoom"), Steps())


async def wait_for_posts(provider: Provider, count: int) -> None:
    """Wait until this many POSTs have arrived."""
    await asyncio.to_thread(provider.wait, lambda: len(provider.request_log.find("submit")) >= count)


def states(sandbox: Sandbox) -> Counter[JobState]:
    """Count the job records by state."""
    return Counter(record.state for record in job_records(sandbox))


@pytest.fixture
def late_responses(sandbox: Sandbox, provider: Provider) -> None:
    """Put some images, and let the provider accept submits at once but respond late."""
    put_photos(sandbox, IMAGES)
    provider.add_fault(on="submit", kind="late", seconds=LATE_SECONDS, times=None)


@pytest.mark.parametrize("cancels", [1, 2, 4])
async def test_a_cancelled_run_records_every_task_id(
    late_responses: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun, cancels: int
) -> None:
    """A run cancelled once or more during its POSTs ends after their responses and records all task ids."""
    running = asyncio.create_task(generate_all(sandbox, new_run))
    await wait_for_posts(provider, IMAGES)
    for _ in range(cancels):
        running.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {record.task_id for record in job_records(sandbox)} == set(provider.tasks)
    assert states(sandbox) == {JobState.SUBMITTED: IMAGES}


async def test_a_run_cancelled_twice_closes_its_run_record(
    late_responses: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A run cancelled twice sets `ended_at` in its run record and leaves no task running."""
    running = asyncio.create_task(generate_all(sandbox, new_run))
    await wait_for_posts(provider, IMAGES)
    for _ in range(2):
        running.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert RunRecord.model_validate(sandbox.read_json("jobs/runs/cut.json")).ended_at
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_run_starts_no_further_posts(
    late_responses: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A cancelled run finishes the POST in progress, sends no other, and writes no record for the other jobs."""
    async with new_run(max_connections=1) as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        running = asyncio.create_task(generate(run, items, RequestOptions(prompt="a slow zoom"), Steps()))
        await wait_for_posts(provider, 1)
        while len(run.client.limiter._waiters) < IMAGES - 1:  # noqa: SLF001, ASYNC110 - not public
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(provider.request_log.find("submit")) == 1
    assert states(sandbox) == {JobState.SUBMITTED: 1}


async def test_an_interrupted_run_reports_its_open_tasks(
    late_responses: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A run interrupted during its POSTs waits only for their responses and reports each task as open."""
    provider.set_options(render_seconds=60)
    async with new_run() as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        running = asyncio.create_task(generate(run, items, RequestOptions(prompt="a slow zoom"), Steps()))
        await wait_for_posts(provider, IMAGES)
        run.brake.interrupt()
        report, stopped = await running
    assert stopped is None
    assert {item.task_id for item in report.items} == set(provider.tasks)
    assert report.summary == f"{IMAGES} submitted · $0.576"


async def test_a_run_waits_for_a_fresh_claim_of_another_run(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A run that finds a job claimed by a POST in progress attaches to it once it is submitted."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="late", seconds=LATE_SECONDS)
    async with new_run() as first, new_run(lease_seconds=1.5) as second:
        order = await order_for(first, uri)
        submitting = asyncio.create_task(submit(first, order))
        await wait_for_posts(provider, 1)
        found = await submit(second, order)
        await submitting
    assert (found.record.state, {found.record.task_id}) == (JobState.SUBMITTED, set(provider.tasks))
    assert len(provider.request_log.find("submit")) == 1


async def test_an_interrupted_run_does_not_wait_for_another_runs_claim(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """An interrupted run reports a job that another run is submitting as not tried, without waiting."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="late", seconds=LATE_SECONDS)
    async with new_run() as first, new_run() as second:
        order = await order_for(first, uri)
        submitting = asyncio.create_task(submit(first, order))
        await wait_for_posts(provider, 1)
        second.brake.interrupt()
        with pytest.raises(NotTried, match="another run"):
            await asyncio.wait_for(submit(second, order), LATE_SECONDS)
        assert not submitting.done()
        await submitting
