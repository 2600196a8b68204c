"""The emulator's hold on the real connection, for what HTTP servers do not do by themselves."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class WireProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with the connection's transport at `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport for every request of this connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
