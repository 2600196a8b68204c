"""Listening sockets."""

from __future__ import annotations

import socket

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one. Raise `OSError` with the address if that fails."""
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).split(" (while")[0]
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from None
