"""The gauges of what Prefect knows, read from a real server."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.states import Completed, Late
from prometheus_client import CollectorRegistry

from doors.prefect_gauges import PrefectGauges
from sandbox.prefect_server import PrefectServer
from tests.support.door_process import wait_for_async


async def _read(client: PrefectClient, name: str) -> dict[str, float]:
    """Return the gauges once they are read."""
    registry = CollectorRegistry()
    gauges = PrefectGauges(client, registry, images=f"{name}/{name}", reconcile=f"{name}/{name}")
    found = {each: registry.get_sample_value(f"i2v_{each}") for each in ("workers_online", "late_run_seconds")}
    assert all(math.isnan(value or 0) for value in found.values()), "unknown is not zero"
    gauges.refresh()
    await wait_for_async(lambda: math.isfinite(registry.get_sample_value("i2v_prefect_age_seconds") or math.inf))
    return {sample.name.removeprefix("i2v_"): sample.value for each in registry.collect() for sample in each.samples}


async def test_gauges_show_workers_reconcile_and_late_runs(prefect_server: PrefectServer) -> None:
    """They count online workers, and tell when reconcile last ended and how late the oldest waiting run is."""
    name = f"gauges-{uuid4().hex[:8]}"
    now = datetime.now(UTC)
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        flow = await client.create_flow_from_name(name)
        deployment = await client.create_deployment(flow, name, work_pool_name=name)
        before = await _read(client, name)
        assert (before["workers_online"], before["reconcile_last_run_timestamp_seconds"]) == (0, 0)

        await client.send_worker_heartbeat(name, "worker-1", heartbeat_interval_seconds=30)
        ended = await client.create_flow_run_from_deployment(deployment, state=Completed())
        skipped = await client.create_flow_run_from_deployment(deployment)
        await client.set_flow_run_state(skipped.id, Completed(name="Skipped"), force=True)
        late: State[Any] = Late(scheduled_time=now - timedelta(days=9))
        await client.create_flow_run_from_deployment(deployment, state=late)
        after = await _read(client, name)
        end_time = (await client.read_flow_run(ended.id)).end_time
        await client.delete_deployment(deployment)
        await client.delete_work_pool(name)

    assert after["workers_online"] == 1
    assert end_time is not None
    assert after["reconcile_last_run_timestamp_seconds"] == end_time.timestamp()
    assert before["late_run_seconds"] == 0
    assert after["late_run_seconds"] > timedelta(days=8).total_seconds()
