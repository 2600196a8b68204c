"""What a person may say of a job, and what comes of it."""

from __future__ import annotations

import pytest

from i2v.errors import CannotResolve
from i2v.ledger.job import JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.order import Order
from i2v.pipeline.submit import submit
from i2v.pipeline.submit_result import record_task_id
from i2v.recovery.reconcile import reconcile
from i2v.recovery.resolve import Resolver
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo


def resolver(run: RunContext) -> Resolver:
    """A person at the ledger of this run."""
    return Resolver(run.storage, run.settings)


async def lost(run: RunContext, sandbox: Sandbox, provider: Provider) -> tuple[Order, VersionedRecord]:
    """A job whose answer was lost although it was billed."""
    order = await order_for(run, put_photo(sandbox))
    provider.add_fault(on="submit", kind="lost_answer")
    return order, await submit(run, order)


async def test_an_adopted_task_is_stored_and_not_paid_again(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The task that a person found at the provider gives the unknown job its video."""
    async with new_run() as run:
        order, held = await lost(run, sandbox, provider)
        (task_id,) = provider.tasks
        adopted = await resolver(run).adopt(held.record.key, task_id, run.client)
        end = await process_order(run, order, Steps())
    assert (adopted.state, end.outcome) == (JobState.SUBMITTED, Outcome.STORED)
    assert sum(provider.billed().values()) == 1


async def test_a_task_that_nobody_knows_is_not_adopted(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A mistyped task id changes nothing."""
    async with new_run() as run:
        order, held = await lost(run, sandbox, provider)
        with pytest.raises(CannotResolve, match="does not confirm"):
            await resolver(run).adopt(held.record.key, "task_mistyped", run.client)
        assert (await run.ledger.read_existing(order.key)).record.state is JobState.UNKNOWN


async def test_another_jobs_task_is_not_adopted(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """One task is one job's."""
    async with new_run() as run:
        other = await submit(run, await order_for(run, put_photo(sandbox, "other.jpg", 7)))
        _, held = await lost(run, sandbox, provider)
        with pytest.raises(CannotResolve, match="belongs to job"):
            await resolver(run).adopt(held.record.key, other.record.task_id or "", run.client)


async def test_a_resubmitted_job_is_paid_by_the_next_run(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Resubmitting pays nothing itself; the next run pays once, also past the attempts' limit."""
    async with new_run(max_attempts=1) as run:
        order, held = await lost(run, sandbox, provider)
        ready = await resolver(run).resubmit(held.record.key)
        assert (ready.state, len(provider.tasks)) == (JobState.READY, 1)
        end = await process_order(run, order, Steps())
    assert end.outcome is Outcome.STORED
    assert sum(provider.billed().values()) == 2


async def test_a_refused_job_that_is_resubmitted_loses_its_verdict(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A verdict that no longer holds does not lie beside the video."""
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        refused = await process_order(run, order, Steps())
        await resolver(run).resubmit(order.key)
        end = await process_order(run, order, Steps())
    assert (refused.outcome, end.outcome) == (Outcome.REFUSED, Outcome.STORED)
    assert not [key for key in sandbox.keys("videos/") if "refused" in key]


async def test_a_dropped_job_fails_for_good(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Given up is given up: named as failed, marked as such beside, and not paid by the next run."""
    async with new_run() as run:
        order, held = await lost(run, sandbox, provider)
        await resolver(run).drop(held.record.key)
        await reconcile(run)
        end = await process_order(run, order, Steps())
    assert end.outcome is Outcome.FAILED
    assert [key for key in sandbox.keys("videos/") if key.endswith(".failed.json")]
    assert sandbox.keys("jobs/open/") == []
    assert sum(provider.billed().values()) == 1


async def test_a_dropped_job_whose_task_comes_after_all_loses_its_verdict(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The answer that was given up came late: its video is stored, and no `.failed.json` lies beside it."""
    async with new_run() as run:
        _, held = await lost(run, sandbox, provider)
        await resolver(run).drop(held.record.key)
        await reconcile(run)
        assert [key for key in sandbox.keys("videos/") if key.endswith(".failed.json")]
        (task,) = provider.tasks.values()
        await record_task_id(run, held, held.record.attempts[-1].claim, task.id)
        provider.wait(lambda: task.state == "success")
        await reconcile(run, entries=[held.record.key])
    assert sorted(key.rpartition(".")[2] for key in sandbox.keys("videos/")) == ["jpg", "json", "mp4"]
    assert not [key for key in sandbox.keys("videos/") if "failed" in key]


async def test_a_stored_job_cannot_be_resolved(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """What has its video is done."""
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        await process_order(run, order, Steps())
        for resolved in (resolver(run).resubmit(order.key), resolver(run).drop(order.key)):
            with pytest.raises(CannotResolve):
                await resolved
