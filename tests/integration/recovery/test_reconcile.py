"""Reconcile settles the jobs of dead runs and leaves those of live runs alone."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from i2v.ledger.job import JobState
from i2v.pipeline.submit import submit
from i2v.recovery.leftover_markers import list_open_markers
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.memory_provider import claim_by_hand
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.reconciling import reconcile


async def test_a_dead_runs_job_is_stored_at_no_cost(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Reconcile stores the video of a task whose run died after the submit, without paying."""
    uri = put_photo(sandbox)
    async with new_run() as dead:
        order = await order_for(dead, uri)
        job = await submit(dead, order)
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    async with new_run() as run:
        report = await reconcile(run)
        job = await run.ledger.read_existing(order.key)
    assert [item.outcome for item in report.items] == [Outcome.STORED]
    assert (job.record.state, report.spent_usd) == (JobState.STORED, Decimal(0))
    assert sandbox.keys("jobs/open/") == []
    assert sum(provider.billed().values()) == 1


async def test_a_live_runs_job_is_left_alone(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Reconcile does not poll the jobs of a run with a recent heartbeat."""
    uri = put_photo(sandbox)
    async with new_run() as live:
        order = await order_for(live, uri)
        await submit(live, order)
        async with new_run() as run:
            report = await reconcile(run)
    assert report.items == ()
    assert len(provider.request_log.find("status")) == 0


async def test_a_running_task_stays_open(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Reconcile polls a rendering task once and does not wait for it."""
    provider.set_options(render_seconds=60)
    uri = put_photo(sandbox)
    async with new_run() as dead:
        await submit(dead, await order_for(dead, uri))
    async with new_run() as run:
        report = await reconcile(run)
    assert [item.outcome for item in report.items] == [Outcome.SUBMITTED]
    assert len(provider.request_log.find("status")) == 1


async def test_an_expired_claim_becomes_unknown(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A claim without a task id is reported as unknown once its lease has expired, and not before."""
    uri = put_photo(sandbox)
    async with new_run() as dead:
        order = await order_for(dead, uri)
        await claim_by_hand(dead.ledger, order, run_id=dead.run_id)
    async with new_run() as run:
        early = await reconcile(run)
    async with new_run(lease_seconds=0.001) as run:
        await asyncio.sleep(1.1)
        late = list((await reconcile(run)).items)
    assert early.items == ()
    assert {item.outcome for item in late} == {Outcome.UNKNOWN}
    assert len(provider.request_log.find("submit")) == 0


async def test_a_missing_verdict_is_published(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Reconcile publishes the verdict of a job whose run died after it was refused, and deletes its marker."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run() as dead:
        job = await submit(dead, await order_for(dead, uri))
    assert job.record.state is JobState.REFUSED
    async with new_run() as run:
        assert list(await list_open_markers(run)) == [job.record.key]
        await reconcile(run)
        assert await list_open_markers(run) == {}
    assert [key for key in sandbox.keys("videos/") if key.endswith(".refused.json")]
