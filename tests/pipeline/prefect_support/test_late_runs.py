"""Scheduled runs that come too late, on a real server with its real scheduler."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.flow_engine import run_flow
from prefect.states import Completed

from prefect_support.late_runs import skipped_if_late
from sandbox.prefect_server import PrefectServer

EVERY = timedelta(seconds=2)


@pytest.fixture(autouse=True)
def collected(ignore_sockets_left_open_by_prefect: None) -> Iterator[None]:
    """What Prefect leaves is found while it is ignored, and not in a later test."""
    yield
    gc.collect()


@flow(name="tick")
async def tick() -> State[Any]:
    """What our flows do first."""
    return await skipped_if_late() or Completed(message="ran")


@asynccontextmanager
async def _scheduled() -> AsyncIterator[tuple[PrefectClient, UUID]]:
    schedule = IntervalSchedule(interval=EVERY, anchor_date=datetime(2026, 1, 1, tzinfo=UTC))
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("tick")
        planned = DeploymentScheduleCreate(schedule=schedule, slug="often")
        made = await client.create_deployment(flow_id, "often", entrypoint="tick.py:tick", schedules=[planned])
        try:
            yield client, made
        finally:
            await client.delete_deployment(made)


async def _runs(client: PrefectClient, deployment: UUID) -> list[FlowRun]:
    """The first runs that the scheduler has made, the earliest first."""
    for _ in range(40):
        only = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}})
        if found := await client.read_flow_runs(flow_run_filter=only):
            return sorted(found, key=_due)
        await asyncio.sleep(0.3)
    raise AssertionError("the scheduler made no run: Prefect 3.8 cannot with sqlalchemy 2.1")


def _due(run: FlowRun) -> datetime:
    assert run.expected_start_time
    return run.expected_start_time


async def _executed(run: FlowRun) -> State[Any]:
    ended: Any = run_flow(tick, flow_run=run, return_type="state")
    state: State[Any] = await ended
    return state


async def test_a_run_that_comes_later_than_its_interval_is_skipped(prefect_server: PrefectServer) -> None:
    """It ends at once as Skipped, with the three times in words; the latest one, and one by hand, do their work."""
    async with _scheduled() as (client, deployment):
        runs = await _runs(client, deployment)
        late = runs[0]
        await asyncio.sleep((_due(late) + 2 * EVERY - datetime.now(UTC)).total_seconds())
        skipped = await _executed(late)
        now = datetime.now(UTC)
        latest = [run for run in runs if _due(run) <= now][-1]
        ran = await _executed(latest)
        by_hand = await _executed(await client.create_flow_run_from_deployment(deployment))
        told = await client.read_flow_run(late.id)

    assert (skipped.type.value, skipped.name, told.state_name) == ("COMPLETED", "Skipped", "Skipped")
    assert f"scheduled for {_due(late):%H:%M}, started " in str(skipped.message)
    assert f"the next one was due at {_due(late) + EVERY:%H:%M}" in str(skipped.message)
    assert (ran.message, by_hand.message) == ("ran", "ran")
    assert late.auto_scheduled


async def test_a_run_without_a_deployment_is_never_skipped(prefect_server: PrefectServer) -> None:
    """What is called by hand, from the command line or from Python, runs."""
    assert (await tick(return_state=True)).message == "ran"
    assert await skipped_if_late() is None
