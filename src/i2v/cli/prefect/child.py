"""The process of the temporary Prefect server, as `EmbeddedServer` starts it.

It listens on a free port, and prints the port once it accepts requests. It ends when stdin closes; only its parent
holds that open, so the child never outlives the command.
"""

import socket
import sys
import threading

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
    """Serve until stdin closes."""
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
    server = _Server(config)
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
