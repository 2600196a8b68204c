"""What all servers of the sandbox share: `Server`, and `listen` for their sockets."""

from __future__ import annotations

import socket
from typing import Self

BACKLOG = 2048


class Server:
    """A server with an address: `with Server() as server:`. A subclass implements `start` and `stop`."""

    host: str
    port: int

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        raise NotImplementedError

    def stop(self) -> object:
        """Stop the server."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The root URL."""
        return f"http://{self.address}"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one. Raise `OSError` with the address if that fails."""
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).split(" (while")[0]
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from None
