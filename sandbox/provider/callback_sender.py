"""Sends callbacks: POSTs the final status to the submit's `callback_url` until the response is exactly 200."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from sandbox.provider.faults import Fault
from sandbox.provider.options import ProviderOptions
from sandbox.provider.request_log import LogEntry, RequestLog
from sandbox.provider.tasks import Task

DELAYS = (0, 30, 60, 120)
"""Seconds before each attempt. There is no fifth."""
ANSWER_SECONDS = 30
MAX_CONNECTIONS = 32

Body = dict[str, Any]


class CallbackSender:
    """Sends the callbacks of one emulator and logs each attempt."""

    def __init__(self, request_log: RequestLog, options: Callable[[], ProviderOptions]) -> None:
        self._request_log = request_log
        self._options = options
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
        self._client = httpx.AsyncClient(limits=limits, timeout=ANSWER_SECONDS, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def deliver(self, task: Task, body: Body, fault: Fault | None) -> None:
        """Send a task's final status, with the fault applied."""
        kind = fault.kind if fault else ""
        if kind == "lost":
            self._request_log.entries.append(self._entry(task, "lost", kind))
            return
        if fault and kind == "late":
            await asyncio.sleep(fault.seconds or 0)
        if kind == "forged":
            await self._post(task, _forged(body), kind)
        copies = 2 if kind == "double" else 1
        await asyncio.gather(*(self._send(task, body, kind) for _ in range(copies)))
        if kind == "disordered":
            kept = {name: body["data"][name] for name in ("taskId", "createTime")}
            await self._post(task, {**body, "data": {**kept, "state": "processing"}}, kind)

    async def _send(self, task: Task, body: Body, kind: str) -> None:
        for delay in DELAYS:
            await asyncio.sleep(delay * self._options().callback_scale)
            if await self._post(task, body, kind) == "200":
                return

    async def _post(self, task: Task, body: Body, kind: str) -> str:
        entry = self._entry(task, "", kind)
        self._request_log.entries.append(entry)
        task.callbacks += 1
        try:
            response = await self._client.post(str(task.request.callback_url), json=body)
            entry.outcome = str(response.status_code)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            entry.outcome = type(error).__name__
        entry.seconds = time.time() - entry.at
        return entry.outcome

    @staticmethod
    def _entry(task: Task, outcome: str, kind: str) -> LogEntry:
        path = str(task.request.callback_url).split("?")[0]
        return LogEntry("callback", "POST", path, outcome=outcome, fault=kind, task_id=task.id)


def _forged(body: Body) -> Body:
    data = {
        **body["data"],
        "taskId": f"task_{uuid.uuid4().hex}",
        "state": "success",
        "resultJson": '{"resultUrls": ["https://example.com/forged.mp4"]}',
    }
    return {**body, "data": data}
