"""ASGI middleware around all routes: it logs each request and applies the scripted faults."""

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.provider.emulator import Emulator
from sandbox.provider.fault_effects import apply_fault
from sandbox.provider.faults import FaultTarget
from sandbox.provider.request_log import LogEntry

PATHS = {
    "/api/v1/generateTask/": "submit",
    "/api/v1/statusTask/": "status",
    "/api/v1/apikeys/current-balance": "balance",
    "/files/": "file",
}


class FaultMiddleware:
    """Wraps the app. The route fills in the log entry at `request.state.entry`."""

    def __init__(self, app: ASGIApp, emulator: Emulator) -> None:
        self._app = app
        self._emulator = emulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = scope["path"]
        if path.startswith("/_sandbox/"):
            await self._app(scope, receive, send)
            return
        endpoint = next((name for start, name in PATHS.items() if path.startswith(start)), "other")
        entry = LogEntry(endpoint, scope["method"], path)
        scope["state"]["entry"] = entry
        self._emulator.request_log.entries.append(entry)

        async def logged_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.outcome = str(message["status"])
            await send(message)

        try:
            await self._handle(entry, scope, receive, logged_send)
        finally:
            entry.seconds = time.time() - entry.at

    async def _handle(self, entry: LogEntry, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._emulator.faults.scripted:
            await self._app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        unread = [{"type": "http.request", "body": body}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        fault = self._emulator.faults.next_for(self._fault_target(entry.endpoint, scope, body))
        if fault is None:
            await self._app(scope, replay, send)
            return
        entry.fault = entry.outcome = fault.kind
        await apply_fault(fault, self._app, scope, replay, send, lambda: self._emulator.wait_ended(entry.task_id))

    def _fault_target(self, endpoint: str, scope: Scope, body: bytes) -> FaultTarget:
        if endpoint == "submit":
            fields = _input_fields(body)
            return FaultTarget(endpoint, str(fields.get("prompt", "")), str(fields.get("image_urls", "")))
        task_id = Request(scope).query_params.get("taskId", "")
        if endpoint == "file":
            task_id = scope["path"].removeprefix("/files/").removesuffix(".mp4")
        task = self._emulator.tasks.get(task_id)
        return task.fault_target(endpoint) if task else FaultTarget(endpoint)


def _input_fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)["input"]
    except (ValueError, KeyError, TypeError):
        return {}
    return fields if isinstance(fields, dict) else {}
