"""Promise 3 where a run is cancelled: what was sent is waited for and written down, what was not sent never is."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from i2v.errors import NotTried
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.run_record import RunRecord
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.submit import submit
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo

LATE_SECONDS = 0.6
IMAGES = 3


async def animated(sandbox: Sandbox, new_run: OpenRun, **changes: object) -> None:
    """A whole run over all images of the bucket."""
    async with new_run(run_id="cut", **changes) as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        await generate(run, items, RequestOptions(prompt="a slow zoom"), Steps())


async def posting(provider: Provider, count: int) -> None:
    """Wait until so many POSTs are under way."""
    await asyncio.to_thread(provider.wait, lambda: len(provider.request_log.find("submit")) >= count)


def records(sandbox: Sandbox) -> list[JobRecord]:
    """All records of the ledger."""
    keys = [key for key in sandbox.keys("jobs/") if len(key) == len("jobs/.json") + 64]
    return [JobRecord.model_validate_json(sandbox.read(key)) for key in keys]


def states(sandbox: Sandbox) -> Counter[JobState]:
    """How many records there are in each state."""
    return Counter(record.state for record in records(sandbox))


@pytest.fixture
def late(sandbox: Sandbox, provider: Provider) -> None:
    """Some images, and a provider that takes orders at once and answers late."""
    for number in range(IMAGES):
        put_photo(sandbox, f"{number}.jpg", number)
    provider.add_fault(on="submit", kind="late", seconds=LATE_SECONDS, times=None)


@pytest.mark.parametrize("cancels", [1, 2, 4])
async def test_a_cancelled_run_writes_every_task_id(
    late: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun, cancels: int
) -> None:
    """However often it is cancelled while POSTs are under way, the run ends after their answers and has them all."""
    running = asyncio.create_task(animated(sandbox, new_run))
    await posting(provider, IMAGES)
    for _ in range(cancels):
        running.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {record.task_id for record in records(sandbox)} == set(provider.tasks)
    assert states(sandbox) == {JobState.SUBMITTED: IMAGES}


async def test_a_run_that_is_cancelled_twice_ends_its_record(
    late: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Reconcile need not wait for the heartbeat to grow old, and no heartbeat goes on after the run."""
    running = asyncio.create_task(animated(sandbox, new_run))
    await posting(provider, IMAGES)
    for _ in range(2):
        running.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert RunRecord.model_validate(sandbox.read_json("jobs/runs/cut.json")).ended_at
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_waits_at_the_gate_is_never_sent(
    late: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A cancelled run finishes the POST that is under way and starts no other; of the other jobs nothing is written."""
    async with new_run(max_connections=1) as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        running = asyncio.create_task(generate(run, items, RequestOptions(prompt="a slow zoom"), Steps()))
        await posting(provider, 1)
        while len(run.client.limiter._waiters) < IMAGES - 1:  # noqa: SLF001, ASYNC110 - nobody else can see who waits
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(provider.request_log.find("submit")) == 1
    assert states(sandbox) == {JobState.SUBMITTED: 1}


async def test_an_interrupted_run_says_what_is_open(
    late: None, sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Interrupted once its POSTs are under way, it waits for their answers alone, and reports each task as open."""
    provider.set_options(render_seconds=60)
    async with new_run() as run:
        items = await find_items(f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
        running = asyncio.create_task(generate(run, items, RequestOptions(prompt="a slow zoom"), Steps()))
        await posting(provider, IMAGES)
        run.brake.interrupt()
        report, stopped = await running
    assert stopped is None
    assert {item.task_id for item in report.items} == set(provider.tasks)
    assert report.summary == f"{IMAGES} still open · $0.576"


async def test_a_fresh_claim_of_another_run_is_waited_for(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Who comes while the POST is under way takes the job up when it is submitted, and never calls it lost."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="late", seconds=LATE_SECONDS)
    async with new_run() as first, new_run(lease_seconds=1.5) as second:
        order = await order_for(first, uri)
        submitting = asyncio.create_task(submit(first, order))
        await posting(provider, 1)
        found = await submit(second, order)
        await submitting
    assert (found.record.state, {found.record.task_id}) == (JobState.SUBMITTED, set(provider.tasks))
    assert len(provider.request_log.find("submit")) == 1


async def test_an_interrupted_run_does_not_wait_for_another_runs_claim(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """What another run is submitting is not tried by this one, and that is said at once."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="late", seconds=LATE_SECONDS)
    async with new_run() as first, new_run() as second:
        order = await order_for(first, uri)
        submitting = asyncio.create_task(submit(first, order))
        await posting(provider, 1)
        second.brake.interrupt()
        with pytest.raises(NotTried, match="another run"):
            await asyncio.wait_for(submit(second, order), LATE_SECONDS)
        assert not submitting.done()
        await submitting
