"""The process of the temporary Prefect server, as `EmbeddedServer` starts it.

It listens on a free port, and prints the port once it accepts requests. It ends when stdin closes; only its parent
holds that open, so the child never outlives the command. It ends at once if a Prefect profile names a server.
"""

import fcntl
import os
import socket
import sys
import threading
from typing import IO

import uvicorn

HOST = "127.0.0.1"
STOP_SECONDS = 3


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, lock: IO[str]) -> None:
        super().__init__(config)
        self._lock = lock

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._lock.close()
        if self.started and sockets:
            sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
            sys.stdout.flush()


class _EndWithParent(threading.Thread):
    """Ends the process when stdin closes: at once while it starts, since each migration is a transaction."""

    server: uvicorn.Server | None = None

    def run(self) -> None:
        os.read(0, 1)
        if self.server is None or not self.server.started:
            os._exit(1)
        self.server.should_exit = True


def main() -> None:
    """Serve until stdin closes."""
    watch = _EndWithParent(daemon=True)
    watch.start()
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if PREFECT_API_URL.value():
        return
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    lock = (home / "i2v-server.lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)  # only one process may create or migrate the database at a time
    listener = socket.socket()
    listener.bind((HOST, 0))
    app = "prefect.server.api.server:create_app"
    config = uvicorn.Config(
        app,
        factory=True,
        lifespan="on",
        log_level="error",
        timeout_graceful_shutdown=STOP_SECONDS,
        ws_per_message_deflate=False,  # compressing events on the loopback interface only costs CPU
    )
    watch.server = _Server(config, lock)
    watch.server.run(sockets=[listener])


if __name__ == "__main__":
    main()
