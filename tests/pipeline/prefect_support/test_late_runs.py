"""Late scheduled runs, on a real server with its real scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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
from prefect.states import Completed, Scheduled

from prefect_support.late_runs import skipped_if_late
from sandbox.prefect_server import PrefectServer

pytestmark = pytest.mark.usefixtures("collect_prefect_sockets")
INTERVAL = timedelta(hours=1)
ONE_MINUTE = timedelta(minutes=1)


@flow(name="tick")
async def tick(now: datetime | None = None) -> State[Any]:
    """Skip a late run, as our flows do first; `now` stands in for the clock."""
    return await skipped_if_late(now) or Completed(message="ran")


@asynccontextmanager
async def _scheduled() -> AsyncIterator[tuple[PrefectClient, UUID]]:
    schedule = IntervalSchedule(interval=INTERVAL, anchor_date=datetime.now(UTC) + INTERVAL / 2)
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("tick")
        entry = DeploymentScheduleCreate(schedule=schedule, slug="often")
        deployment = await client.create_deployment(flow_id, "often", entrypoint="tick.py:tick", schedules=[entry])
        try:
            yield client, deployment
        finally:
            await client.delete_deployment(deployment)


async def _runs(client: PrefectClient, deployment: UUID) -> list[FlowRun]:
    """Return the runs that the scheduler has created, earliest first."""
    for _ in range(40):
        only = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}})
        if found := await client.read_flow_runs(flow_run_filter=only):
            return sorted(found, key=_due)
        await asyncio.sleep(0.3)
    raise AssertionError("the scheduler created no run: Prefect 3.8 cannot with sqlalchemy 2.1")


def _due(run: FlowRun) -> datetime:
    assert run.expected_start_time
    return run.expected_start_time


async def _execute(client: PrefectClient, run: FlowRun, now: datetime | None = None) -> State[Any]:
    """Run a flow run that is due in the future at once, as if it were `now`."""
    await client.set_flow_run_state(run.id, Scheduled(), force=True)
    running: Any = run_flow(tick, flow_run=run, parameters={"now": now}, return_type="state")
    state: State[Any] = await running
    return state


async def test_a_run_later_than_its_interval_is_skipped(prefect_server: PrefectServer) -> None:
    """A late run ends as Skipped with its times in the message; the latest run and a manual one do their work."""
    async with _scheduled() as (client, deployment):
        late, latest, *_ = await _runs(client, deployment)
        now = _due(latest) + ONE_MINUTE
        skipped = await _execute(client, late, now)
        ran = await _execute(client, latest, now)
        manual = await _execute(client, await client.create_flow_run_from_deployment(deployment))
        recorded = await client.read_flow_run(late.id)

    assert (skipped.type.value, skipped.name, recorded.state_name) == ("COMPLETED", "Skipped", "Skipped")
    dates = "%Y-%m-%d %H:%M" if _due(late).date() != now.date() else "%H:%M"
    assert f"scheduled for {_due(late):{dates}}, started {now:{dates}}" in str(skipped.message)
    assert f"the next one was due at {_due(latest):{dates}}" in str(skipped.message)
    assert (ran.message, manual.message) == ("ran", "ran")
    assert late.auto_scheduled


async def test_a_run_without_a_deployment_is_never_skipped(prefect_server: PrefectServer) -> None:
    """A flow called from Python or the command line always runs."""
    assert (await tick(return_state=True)).message == "ran"
    assert await skipped_if_late() is None
