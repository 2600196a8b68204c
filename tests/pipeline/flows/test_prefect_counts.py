"""What a video costs at Prefect: task runs, events, log lines and API requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler

from benchmarks.requests import IDS
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.server import TIMEOUT_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.flow_runs import FinishedFlowRun, RunFlow

VIDEO = {
    "prefect.task-run.Pending": 4,  # validate, submit, poll, store
    "prefect.task-run.Running": 4,
    "prefect.task-run.Completed": 4,
    "i2v.job.submitted": 1,
    "i2v.job.stored": 1,
}
"""Events per new video. If the code needs fewer, lower them."""
LOG_LINES = 4
"""Log lines per new video: one for each step."""
IMAGES = 5
TIME_DEPENDENT = ("POST /logs/", "GET /admin/version", "GET /csrf-token", "POST /artifacts/", "PATCH /artifacts/ID")
"""Requests made per batch of logs, per client or every few seconds, independent of the number of images."""


async def _events(server: PrefectServer, finished: FinishedFlowRun, expected: int) -> Counter[str]:
    """Return the events of a flow run's videos, once there are `expected` of them.

    Pages shift while events arrive, so an event may be on two of them.
    """
    flow_run = {"any_resource": {"id": [f"prefect.flow-run.{finished.run_id}"]}}
    query = {"filter": {**flow_run, "event": {"prefix": ["prefect.task-run.", "i2v.job."]}}, "limit": 50}
    found: dict[str, str] = {}
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        for _ in range(600):
            page = (await client.post(f"{server.api_url}/events/filter", json=query)).json()
            found |= {event["id"]: event["event"] for event in page["events"]}
            while page["next_page"]:
                page = (await client.get(page["next_page"])).json()
                found |= {event["id"]: event["event"] for event in page["events"]}
            if len(found) >= expected:
                break
            await asyncio.sleep(0.1)
    return Counter(found.values())


async def _log_line_count(finished: FinishedFlowRun) -> int:
    async with get_client() as client:
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[finished.run_id]))
        return len(await client.read_logs(only, limit=200))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """Record all requests that this process sends with httpx."""
    sent: list[httpx.Request] = []
    send, send_async = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    def record(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return send(transport, request)

    async def record_async(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return await send_async(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", record)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", record_async)
    return sent


def _requests(server: PrefectServer, sent: list[httpx.Request]) -> Counter[str]:
    """Count the requests to Prefect's API, except for `TIME_DEPENDENT` ones."""
    found = [(request.method, str(request.url).partition("?")[0]) for request in sent]
    requests = (f"{method} {IDS.sub('ID', url)[len(server.api_url) :]}" for method, url in found if server.url in url)
    return Counter(each for each in requests if each not in TIME_DEPENDENT)


async def test_prefect_usage_per_video(
    prefect_server: PrefectServer, sandbox: Sandbox, run_flow: RunFlow, sent: list[httpx.Request]
) -> None:
    """A video takes four task runs, two events and four log lines, and no API request of its own."""
    found = []
    for images in (1, IMAGES):
        for number in range(images):
            sandbox.put_image(f"images/{images}/{number}.jpg", make_jpeg(400, 400, seed=10 * images + number))
        sent.clear()
        finished = await run_flow(f"s3://{sandbox.bucket}/images/{images}/")
        requests = _requests(prefect_server, sent)
        assert finished.message.startswith(f"{images} stored")
        await APILogHandler.aflush()
        drained: Any = EventsWorker.drain_all()
        await drained
        events = await _events(prefect_server, finished, images * sum(VIDEO.values()))
        found.append((events, await _log_line_count(finished), requests))

    one, many = found
    per_video = {name: number / (IMAGES - 1) for name, number in (many[0] - one[0]).items()}
    assert per_video == VIDEO
    assert (many[1] - one[1]) / (IMAGES - 1) == LOG_LINES
    assert one[2]
    assert many[2] - one[2] == Counter()
