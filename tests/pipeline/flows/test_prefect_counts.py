"""What a video asks of Prefect: task runs, events, log lines and requests. Each costs both sides CPU."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler

from benchmarks.requests import IDS
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun, RunFlow

VIDEO = {
    "prefect.task-run.Pending": 4,  # validate, submit, poll, store
    "prefect.task-run.Running": 4,
    "prefect.task-run.Completed": 4,
    "i2v.job.submitted": 1,
    "i2v.job.stored": 1,
}
"""Events of a video that is made. Fewer is better: then lower it here."""
LINES = 4
"""Log lines of a video: one for each step."""
IMAGES = 5
BY_TIME = ("POST /logs/", "GET /admin/version", "GET /csrf-token")
"""Asked anew with each batch of logs or each client, however many images there are."""


async def _events(server: PrefectServer, ended: FinishedFlowRun, expected: int) -> Counter[str]:
    """The events about a flow run that are of its videos, once there are so many."""
    about = {"any_resource": {"id": [f"prefect.flow-run.{ended.state.state_details.flow_run_id}"]}}
    asked = {"filter": {**about, "event": {"prefix": ["prefect.task-run.", "i2v.job."]}}, "limit": 50}
    found: Counter[str] = Counter()
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(600):
            page = (await client.post(f"{server.api_url}/events/filter", json=asked)).json()
            found = Counter(event["event"] for event in page["events"])
            while page["next_page"]:
                page = (await client.get(page["next_page"])).json()
                found.update(event["event"] for event in page["events"])
            if found.total() >= expected:
                break
            await asyncio.sleep(0.1)
    return found


async def _lines(ended: FinishedFlowRun) -> int:
    async with get_client() as client:
        run_id = UUID(str(ended.state.state_details.flow_run_id))
        return len(await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200))


def _requests(server: PrefectServer, told: list[logging.LogRecord]) -> Counter[str]:
    """What was asked of the server's API, as httpx logs it, but for what goes by time."""
    lines = [record.args for record in told if record.name == "httpx" and isinstance(record.args, tuple)]
    found = [(str(method), str(url).partition("?")[0]) for method, url, *_ in lines]
    asked = (f"{how} {IDS.sub('ID', where)[len(server.api_url) :]}" for how, where in found if server.url in where)
    return Counter(each for each in asked if each not in BY_TIME)


async def test_what_a_video_asks_of_prefect(
    prefect_server: PrefectServer, sandbox: Sandbox, run_flow: RunFlow, caplog: pytest.LogCaptureFixture
) -> None:
    """A video is four task runs, two events and four log lines; what a run asks of the API it asks once."""
    found = []
    for images in (1, IMAGES):
        for number in range(images):
            sandbox.put_image(f"images/{images}/{number}.jpg", make_jpeg(400, 400, seed=10 * images + number))
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="httpx"):
            ended = await run_flow(f"s3://{sandbox.bucket}/images/{images}/")
        asked = _requests(prefect_server, caplog.records)
        assert ended.message.startswith(f"{images} stored")
        await APILogHandler.aflush()
        drained: Any = EventsWorker.drain_all()
        await drained
        events = await _events(prefect_server, ended, images * sum(VIDEO.values()))
        found.append((events, await _lines(ended), asked))

    one, many = found
    more = {name: number / (IMAGES - 1) for name, number in (many[0] - one[0]).items()}
    assert more == VIDEO
    assert (many[1] - one[1]) / (IMAGES - 1) == LINES
    assert one[2]
    assert many[2] - one[2] == Counter()
