"""The emulator's hold on the real connection, for what HTTP servers do not do by themselves: closing and resetting."""

from __future__ import annotations

import asyncio
import socket
import struct

from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class RawHttpProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with the connection's transport at `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport for every request of this connection.

        An answer goes out in two writes, and asyncio leaves Nagle's algorithm on for a socket made by
        `socket.create_server`: 40 ms a request.
        """
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


class RawConnection:
    """One request's connection. Every method ends only when the connection has."""

    def __init__(self, transport: asyncio.Transport, receive: Receive) -> None:
        self._transport = transport
        self._receive = receive

    async def drop(self) -> None:
        """Close it (FIN)."""
        self._transport.close()
        await self._gone()

    async def reset(self) -> None:
        """Break it (RST)."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()
        await self._gone()

    async def hang(self, seconds: float | None) -> None:
        """Say nothing until the other side leaves, or drop it after that time."""
        try:
            await asyncio.wait_for(self._gone(), seconds)
        except TimeoutError:
            await self.drop()

    async def say(self, data: bytes) -> None:
        """Send raw bytes and close."""
        self._transport.write(data)
        await self.drop()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
