"""Every request passes here: its journal entry is opened, timed and closed. What goes wrong on order is in `faults`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.provider.journal import Entry

if TYPE_CHECKING:
    from sandbox.provider.world import World

PATHS = {
    "/api/v1/generateTask/": "submit",
    "/api/v1/statusTask/": "status",
    "/api/v1/apikeys/current-balance": "balance",
    "/files/": "file",
}


def endpoint_of(path: str) -> str:
    """Which of the vendor's endpoints a path belongs to."""
    return next((name for start, name in PATHS.items() if path.startswith(start)), "other")


class Gate:
    """Wraps the app. The entry is at `request.state.entry` for the endpoint to fill in."""

    def __init__(self, app: ASGIApp, world: World) -> None:
        self._app = app
        self._world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        if path.startswith("/_sandbox/"):
            await self._app(scope, receive, send)
            return
        entry = Entry(endpoint_of(path), scope["method"], path)
        scope["state"]["entry"] = entry
        self._world.journal.entries.append(entry)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.outcome = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            entry.seconds = time.time() - entry.at
