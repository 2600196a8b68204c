"""Access to the TCP connection of an ASGI request, for what HTTP servers do not do: close or reset it mid-request."""

import asyncio
import socket
import struct

from starlette.types import Receive, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class RawHttpProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 protocol, with the connection's transport in `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport for every request of this connection.

        Turn off Nagle's algorithm too: asyncio leaves it on for a socket of `socket.create_server`, and a response
        goes out in two writes, which would cost 40 ms a request.
        """
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


class RawConnection:
    """The connection of a request whose body was read. Every method returns only once the connection is closed."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._transport: asyncio.Transport = scope["state"]["transport"]
        self._receive = receive

    async def close(self) -> None:
        """Close it (FIN)."""
        self._transport.close()
        await self.wait_closed()

    async def reset(self) -> None:
        """Reset it (RST)."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()
        await self.wait_closed()

    async def send_and_close(self, data: bytes) -> None:
        """Send raw bytes and close."""
        self._transport.write(data)
        await self.close()

    async def wait_closed(self) -> None:
        """Wait until either side has closed it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
