"""The automations on a real server: dead runs become Crashed, and alerts are sent."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, runtime
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import Event, Resource
from prefect.events.clients import get_events_client
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.states import Completed, Failed, Pending, Running

from deployments.automations import BUDGET_NEAR, JOB_UNKNOWN, RUN_FINISHED, alerts, dead_runs, lost_runs
from sandbox.prefect_server import PrefectServer
from tests.support.door_process import wait_for_async
from tests.support.forked_command import start_forked
from tests.support.forked_flows import SLEEPER, sleep_in_flow

FLOW = SLEEPER
ODD = "s3://photos/images/Łódź {% raw %} <b>'Jürgen' & \"Ö\" {{ 1/0 }} 猫.jpg"


@pytest.fixture(autouse=True)
def collect_garbage(ignore_sockets_left_open_by_prefect: None) -> Iterator[None]:
    """Collect sockets that Prefect leaves open while their warnings are ignored, not during a later test."""
    yield
    gc.collect()


@flow(name=FLOW)
async def skip() -> State[Any]:
    """End in a state with a custom name."""
    return Completed(name="Skipped", message=str(runtime.flow_run.id))


@flow(name=FLOW)
async def fail() -> State[Any]:
    """End Failed."""
    return Failed(message="2 failed · $0.00")


@asynccontextmanager
async def _automations(*cores: AutomationCore) -> AsyncIterator[PrefectClient]:
    """Create automations as the setup does, under other names, for the duration of the test."""
    async with get_client() as client:
        ids = [await client.create_automation(core.model_copy(update={"name": f"test {core.name}"})) for core in cores]
        try:
            yield client
        finally:
            for each in ids:
                await client.delete_automation(each)


def _after_ten_seconds(core: AutomationCore) -> AutomationCore:
    """Return the automation with a window of ten seconds, the shortest that Prefect accepts."""
    assert isinstance(core.trigger, EventTrigger)
    return core.model_copy(update={"trigger": core.trigger.model_copy(update={"within": timedelta(seconds=10)})})


async def _wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(150):
        if await condition():
            return
        await asyncio.sleep(0.3)
    raise AssertionError("timed out")


@asynccontextmanager
async def _sleeping(env: dict[str, str], out: Path) -> AsyncIterator[tuple[ForkServerProcess, UUID]]:
    child = start_forked(sleep_in_flow, env=env, out=out)
    try:
        yield child, UUID((await wait_for_async(out.read_text)).strip())
    finally:
        child.kill()
        child.join()


async def test_a_run_that_was_killed_becomes_crashed(
    prefect_server: PrefectServer, child_env: dict[str, str], tmp_path: Path
) -> None:
    """A run killed with -9 becomes Crashed; a finished run with a custom state name is not touched."""
    async with _automations(_after_ten_seconds(dead_runs([FLOW], 60))) as client:
        ended = UUID((await skip(return_state=True)).message)  # first, so that a wrong trigger would fire for it first
        async with _sleeping(child_env, tmp_path / "out") as (child, killed):
            await asyncio.sleep(2)  # its first heartbeat is sent in the background
            child.kill()

        async def crashed() -> bool:
            return (await client.read_flow_run(killed)).state_name == "Crashed"

        await _wait_until(crashed)
        crashed_run: FlowRun = await client.read_flow_run(killed)
        finished_run: FlowRun = await client.read_flow_run(ended)
    assert crashed_run.state
    assert "missed three heartbeats" in str(crashed_run.state.message)
    assert finished_run.state_name == "Skipped"


async def test_a_run_that_never_began_becomes_crashed(prefect_server: PrefectServer) -> None:
    """A run that a worker took and never started becomes Crashed; a started run is not touched."""
    async with _automations(_after_ten_seconds(lost_runs([FLOW]))) as client:
        started = await client.create_flow_run(skip, state=Pending())
        await client.set_flow_run_state(started.id, Running())
        lost = await client.create_flow_run(skip, state=Pending())

        async def crashed() -> bool:
            return (await client.read_flow_run(lost.id)).state_name == "Crashed"

        await _wait_until(crashed)
        crashed_run, running = await client.read_flow_run(lost.id), await client.read_flow_run(started.id)
        await client.set_flow_run_state(started.id, Completed())
    assert "worker died before the run started" in str(crashed_run.state and crashed_run.state.message)
    assert running.state_name == "Running"


@pytest.fixture
async def mailbox() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Serve HTTP for notifications; return its URL and the list of received bodies."""
    received: list[dict[str, Any]] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        received.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(receive, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", received


async def _emit(name: str, resource: str, labels: dict[str, str] | None = None, **payload: Any) -> None:
    async with get_events_client() as events:
        described = Resource.model_validate({"prefect.resource.id": resource, **(labels or {})})
        await events.emit(Event(event=name, resource=described, payload=payload))


async def test_alerts_say_what_happened(
    prefect_server: PrefectServer, mailbox: tuple[str, list[dict[str, Any]]]
) -> None:
    """A batch that is done, a failed run, an unknown job and a nearly spent budget each send one message.

    It has the names and the amounts, unchanged by the template. A run of one image sends none.
    """
    address, received = mailbox
    job = f"i2v.job.{uuid4().hex}"
    hook = CustomWebhookNotificationBlock(name="x", url=address, json_data={"title": "{{subject}}", "text": "{{body}}"})
    async with get_client() as client:
        block = await hook.asave(f"alerts-{uuid4().hex[:8]}", client=client)
    async with _automations(*alerts([FLOW], block)):
        await fail(return_state=True)
        await _emit(JOB_UNKNOWN, job)
        for limit in ("I2V_DAILY_CAP_USD", "I2V_LIMITS (all runs, day)", "I2V_DAILY_CAP_USD"):
            near = {"limit": limit, "period": "day", "spent_usd": "8.10", "cap_usd": "10.00"}
            await _emit(BUDGET_NEAR, "i2v.ledger.photos", {"i2v.limit": limit}, **near)
        await _emit(RUN_FINISHED, "i2v.run.one", {"i2v.images": "1"}, images=1, sentence="1 stored · $0.19")
        needs = [{"image": ODD, "outcome": "failed", "reason": 'the provider\'s "<b>" & {{ 7 * 7 }}'}]
        await _emit(
            RUN_FINISHED,
            "i2v.run.batch",
            {"i2v.images": "1000"},
            images=1000,
            sentence="999 stored · 1 failed · $192.00",
            needs_person_count=1,
            needs_person=needs,
        )

        async def all_received() -> bool:
            return len(received) >= 5

        await _wait_until(all_received)
    texts = {each["title"]: each["text"] for each in received}
    assert texts["i2v: a run failed"].endswith(" is Failed: 2 failed · $0.00\n")
    assert job in texts["i2v: a job is unknown"]
    reached = [each["text"] for each in received if each["title"] == "i2v: the budget is nearly spent"]
    assert all(
        "i2v.ledger.photos: $8.10 of $10.00 are spent, the limit of this day by I2V_" in text for text in reached
    )
    assert len(reached) == 2, "each limit has one alert in six hours"
    batch = texts["i2v: a batch is done"].splitlines()
    assert batch[:2] == ["1000 images: 999 stored · 1 failed · $192.00", "Needs a person: 1"]
    assert batch[2] == f"- failed: {ODD}: {needs[0]['reason']}"
    assert len(received) == 5
