"""Reconcile takes over what a dead run left, and leaves alone what a living one has."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from i2v.ledger import transitions
from i2v.ledger.job import JobState
from i2v.pipeline.submit import submit
from i2v.recovery.reconcile import list_open_markers, reconcile
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo


async def test_a_dead_runs_job_is_stored_unpaid(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A run that died after its submit left a task: reconcile stores its video and pays nothing."""
    uri = put_photo(sandbox)
    async with new_run() as dead:
        order = await order_for(dead, uri)
        held = await submit(dead, order)
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    async with new_run() as run:
        report = await reconcile(run)
        held = await run.ledger.read_existing(order.key)
    assert [item.outcome for item in report.items] == [Outcome.STORED]
    assert (held.record.state, report.spent_usd) == (JobState.STORED, Decimal(0))
    assert sandbox.keys("jobs/open/") == []
    assert sum(provider.billed().values()) == 1


async def test_a_living_runs_job_is_left_alone(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A run whose record is fresh polls its own jobs."""
    uri = put_photo(sandbox)
    async with new_run() as living:
        await living.heartbeat.touch()
        order = await order_for(living, uri)
        await submit(living, order)
        async with new_run() as run:
            report = await reconcile(run)
    assert report.items == ()
    assert len(provider.request_log.find("status")) == 0


async def test_a_running_task_stays_open(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """What still renders is asked once and not waited for."""
    provider.set_options(render_seconds=60)
    uri = put_photo(sandbox)
    async with new_run() as dead:
        await submit(dead, await order_for(dead, uri))
    async with new_run() as run:
        report = await reconcile(run)
    assert [item.outcome for item in report.items] == [Outcome.SUBMITTED]
    assert len(provider.request_log.find("status")) == 1


async def test_a_claim_past_its_lease_becomes_unknown(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A claim without an end is shown as unknown and named, once its lease is over and not before."""
    uri = put_photo(sandbox)
    async with new_run() as dead:
        order = await order_for(dead, uri)
        held = await dead.ledger.read_or_new(order.key, order.image, order.request)
        await dead.ledger.put_open_marker(order.image, order.key)
        now, price = held.record.created_at, order.price_usd
        await dead.ledger.change(
            held,
            lambda record: transitions.claim(
                record, token="t", run_id=dead.run_id, image=order.image, price_usd=price, now=now
            ),
        )
    async with new_run() as run:
        early = await reconcile(run)
    async with new_run(lease_seconds=0.001) as run:
        await asyncio.sleep(1.1)
        late = list((await reconcile(run)).items)
    assert early.items == ()
    assert {item.outcome for item in late} == {Outcome.UNKNOWN}
    assert len(provider.request_log.find("submit")) == 0


async def test_an_end_that_was_not_told_is_told(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A job that was refused by a run that died at once gets its verdict, and loses its mark."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run() as dead:
        held = await submit(dead, await order_for(dead, uri))
    assert held.record.state is JobState.REFUSED
    async with new_run() as run:
        assert list(await list_open_markers(run)) == [held.record.key]
        await reconcile(run)
        assert await list_open_markers(run) == {}
    assert [key for key in sandbox.keys("videos/") if key.endswith(".refused.json")]
