"""Every request passes here: its journal entry is opened and closed, and it is held against the scripted faults."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.provider.fault_effects import apply_fault
from sandbox.provider.faults import FaultTarget
from sandbox.provider.request_log import LogEntry

if TYPE_CHECKING:
    from sandbox.provider.emulator import Emulator

PATHS = {
    "/api/v1/generateTask/": "submit",
    "/api/v1/statusTask/": "status",
    "/api/v1/apikeys/current-balance": "balance",
    "/files/": "file",
}


class FaultMiddleware:
    """Wraps the app. The entry is at `request.state.entry` for the endpoint to fill in."""

    def __init__(self, app: ASGIApp, world: Emulator) -> None:
        self._app = app
        self._world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        if path.startswith("/_sandbox/"):
            await self._app(scope, receive, send)
            return
        endpoint = next((name for start, name in PATHS.items() if path.startswith(start)), "other")
        entry = LogEntry(endpoint, scope["method"], path)
        scope["state"]["entry"] = entry
        self._world.request_log.entries.append(entry)
        try:
            await self._serve(entry, scope, receive, send)
        finally:
            entry.seconds = time.time() - entry.at

    async def _serve(self, entry: LogEntry, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.outcome = str(message["status"])
            await send(message)

        if not self._world.faults.scripts:
            await self._app(scope, receive, noting)
            return
        body = await _read(receive)
        fault = self._world.faults.strike(self._visit(entry.endpoint, scope, body))
        again = _Replay(body, receive)
        if fault is None:
            await self._app(scope, again, noting)
            return
        entry.fault = entry.outcome = fault.kind

        async def ended() -> None:
            await self._world.ended(entry.task_id)

        await apply_fault(fault, self._app, scope, again, noting, ended)

    def _visit(self, endpoint: str, scope: Scope, body: bytes) -> FaultTarget:
        if endpoint == "submit":
            fields = _fields(body)
            return FaultTarget(endpoint, None, str(fields.get("prompt", "")), str(fields.get("image_urls", "")))
        asked = parse_qs(scope["query_string"].decode()).get("taskId", [""])[0]
        if endpoint == "file":
            asked = scope["path"].removeprefix("/files/").removesuffix(".mp4")
        task = self._world.tasks.get(asked)
        return task.visit(endpoint) if task else FaultTarget(endpoint, asked or None)


class _Replay:
    """A request's body once more, for an app that comes second."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        """The body first, then what the connection brings."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)["input"]
    except (ValueError, KeyError, TypeError):
        return {}
    return fields if isinstance(fields, dict) else {}
