"""The embedded Prefect server's own process, as `i2v.cli.prefect_server` starts it.

It takes a free port and says which on stdout once it serves; and it ends with its parent, however that ends, since only
the parent holds the other end of stdin.
"""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

import uvicorn

HOST = "127.0.0.1"
STOP_SECONDS = 3


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
            sys.stdout.flush()


def _end_with_parent(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True


def main() -> None:
    """Serve until stdin ends."""
    listener = socket.socket()
    listener.bind((HOST, 0))
    app = "prefect.server.api.server:create_app"
    how: dict[str, Any] = {"log_level": "error", "lifespan": "on", "timeout_graceful_shutdown": STOP_SECONDS}
    how["ws_per_message_deflate"] = False  # events on loopback, which both sides would compress
    server = _Server(uvicorn.Config(app, factory=True, **how))
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
