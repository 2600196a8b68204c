"""Connections on asyncio's own streams, which read as much as is there: `WideReads`, a network for httpcore.

httpcore's own reads 64 KB at most, and with TLS 16, and takes twice the CPU of a video for it. Connections to addresses
alone: names are looked up in `i2v.addresses`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpcore

AT_ONCE_BYTES = 1 << 18


class WideReads(httpcore.AsyncNetworkBackend):
    """Opens connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own interface, also below
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to an address; TLS may follow."""
        del local_address, socket_options
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            sock.setblocking(False)
            async with _told(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return _Stream(sock)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Nobody asks for one."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> httpcore.AsyncNetworkStream:
        """The same connection, encrypted, with a certificate of that name."""
        async with _told(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            await self._open(ssl=ssl_context, server_hostname=server_hostname)
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as above
        """What is there, or comes first; nothing at the end."""
        del max_bytes
        async with _told(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            reader, _ = await self._open()
            return await reader.read(AT_ONCE_BYTES)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        """Send it."""
        async with _told(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            _, writer = await self._open()
            writer.write(buffer)
            await writer.drain()

    async def aclose(self) -> None:
        """Hang up, without waiting for the other's goodbye."""
        if self._ends is None:
            self._sock.close()
            return
        self._ends[1].transport.abort()
        await asyncio.sleep(0)

    def get_extra_info(self, info: str) -> Any:
        """Whether it is encrypted, and how."""
        return self._ends[1].get_extra_info(info) if self._ends and info == "ssl_object" else None

    async def _open(self, **tls: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._ends is None:
            self._ends = await asyncio.open_connection(sock=self._sock, limit=AT_ONCE_BYTES, **tls)
        return self._ends


@asynccontextmanager
async def _told(
    seconds: float | None, late: type[httpcore.TimeoutException], broken: type[httpcore.NetworkError]
) -> AsyncIterator[None]:
    """In httpcore's words."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise broken(str(error)) from error
