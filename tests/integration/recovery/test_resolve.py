"""`i2v jobs resolve`: what adopt, resubmit and drop do to a job."""

from __future__ import annotations

import pytest

from i2v.errors import CannotResolve
from i2v.ledger.job import JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.payment.accepted_or_lost import record_task_id
from i2v.pipeline.submit import submit
from i2v.pipeline.video_order import Order
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.reconciling import reconcile


def make_resolver(run: RunContext) -> Resolver:
    """Return a resolver for the ledger of this run."""
    return Resolver(run.storage, run.settings)


async def submit_and_lose_response(
    run: RunContext, sandbox: Sandbox, provider: Provider
) -> tuple[Order, VersionedRecord]:
    """Return the order and the unknown job of a submit that was billed."""
    order = await order_for(run, put_photo(sandbox))
    provider.add_fault(on="submit", kind="lost_answer")
    return order, await submit(run, order)


async def test_an_adopted_task_is_stored_and_not_paid_again(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """An unknown job that adopts its task is stored without another payment."""
    async with new_run() as run:
        order, job = await submit_and_lose_response(run, sandbox, provider)
        (task_id,) = provider.tasks
        adopted = await make_resolver(run).adopt(job.record.key, task_id, run.client)
        result = await process_order(run, order, Steps())
    assert (adopted.state, result.outcome) == (JobState.SUBMITTED, Outcome.STORED)
    assert sum(provider.billed().values()) == 1


async def test_an_unknown_task_id_is_not_adopted(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A task id that the provider does not know changes nothing."""
    async with new_run() as run:
        order, job = await submit_and_lose_response(run, sandbox, provider)
        with pytest.raises(CannotResolve, match="does not confirm"):
            await make_resolver(run).adopt(job.record.key, "task_mistyped", run.client)
        assert (await run.ledger.read_existing(order.key)).record.state is JobState.UNKNOWN


async def test_another_jobs_task_is_not_adopted(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A task belongs to one job only."""
    async with new_run() as run:
        other = await submit(run, await order_for(run, put_photo(sandbox, "other.jpg", 7)))
        _, job = await submit_and_lose_response(run, sandbox, provider)
        with pytest.raises(CannotResolve, match="belongs to job"):
            await make_resolver(run).adopt(job.record.key, other.record.task_id or "", run.client)


async def test_a_resubmitted_job_is_paid_by_the_next_run(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Resubmit itself pays nothing; the next run pays once, even above the attempt limit."""
    async with new_run(max_attempts=1) as run:
        order, job = await submit_and_lose_response(run, sandbox, provider)
        ready = await make_resolver(run).resubmit(job.record.key)
        assert (ready.state, len(provider.tasks)) == (JobState.READY, 1)
        result = await process_order(run, order, Steps())
    assert result.outcome is Outcome.STORED
    assert sum(provider.billed().values()) == 2


async def test_a_refused_job_that_is_resubmitted_loses_its_verdict(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The `.refused.json` of a resubmitted job is deleted once its video is stored."""
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        refused = await process_order(run, order, Steps())
        await make_resolver(run).resubmit(order.key)
        result = await process_order(run, order, Steps())
    assert (refused.outcome, result.outcome) == (Outcome.REFUSED, Outcome.STORED)
    assert not [key for key in sandbox.keys("videos/") if "refused" in key]


async def test_a_dropped_job_fails_permanently(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A dropped job is failed, gets a `.failed.json`, and is not paid by the next run."""
    async with new_run() as run:
        order, job = await submit_and_lose_response(run, sandbox, provider)
        await make_resolver(run).drop(job.record.key)
        await reconcile(run)
        result = await process_order(run, order, Steps())
    assert result.outcome is Outcome.FAILED
    assert [key for key in sandbox.keys("videos/") if key.endswith(".failed.json")]
    assert sandbox.keys("jobs/open/") == []
    assert sum(provider.billed().values()) == 1


async def test_a_late_task_of_a_dropped_job_replaces_its_verdict(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """If the task id of a dropped job arrives late, its video is stored and `.failed.json` is deleted."""
    async with new_run() as run:
        _, job = await submit_and_lose_response(run, sandbox, provider)
        await make_resolver(run).drop(job.record.key)
        await reconcile(run)
        assert [key for key in sandbox.keys("videos/") if key.endswith(".failed.json")]
        (task,) = provider.tasks.values()
        await record_task_id(run, job, job.record.attempts[-1].claim, task.id)
        provider.wait(lambda: task.state == "success")
        await reconcile(run, entries=[job.record.key])
    assert sorted(key.rpartition(".")[2] for key in sandbox.keys("videos/")) == ["jpg", "json", "mp4"]
    assert not [key for key in sandbox.keys("videos/") if "failed" in key]


async def test_a_stored_job_cannot_be_resolved(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Resubmit and drop raise `CannotResolve` for a stored job."""
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        await process_order(run, order, Steps())
        for resolved in (make_resolver(run).resubmit(order.key), make_resolver(run).drop(order.key)):
            with pytest.raises(CannotResolve):
                await resolved
