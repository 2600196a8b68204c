"""A forward proxy, the only way out of a closed network: `running_proxy`."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class ForwardProxy:
    """Open tunnels and forward requests; `heads` are the requests that it got.

    `names` are the hosts that only it can resolve. With `status` it refuses everything, with `credentials` (the value
    of the header) all other users.
    """

    names: Mapping[str, str]
    status: int | None = None
    credentials: str | None = None
    port: int = 0
    heads: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The request lines without their version."""
        return [head.split("\r\n")[0].removesuffix(" HTTP/1.1") for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if refusal := self._refusal(head):
                writer.write(f"HTTP/1.1 {refusal} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            else:
                await self._connect(head, reader, writer)

    def _refusal(self, head: str) -> int | None:
        if self.credentials and f"\r\nproxy-authorization: {self.credentials}\r\n" not in head.replace(
            "Proxy-A", "proxy-a"
        ):
            return 407
        return self.status

    async def _connect(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, rest = head.split(" ", 2)
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host = url.hostname or ""
        server_reader, server_writer = await asyncio.open_connection(self.names.get(host, host), url.port or 80)
        with contextlib.closing(server_writer):
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path, (version, headers) = target.partition(url.netloc)[2] or "/", rest.split("\r\n", 1)
                server_writer.write(f"{method} {path} {version}\r\nConnection: close\r\n{headers}".encode())
            await asyncio.gather(_copy(reader, server_writer), _copy(server_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def running_proxy(
    names: Mapping[str, str] | None = None,
    *,
    status: int | None = None,
    credentials: str | None = None,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[ForwardProxy]:
    """Run a proxy on a free port of 127.0.0.1, with TLS if there is a context."""
    proxy = ForwardProxy(names or {}, status, credentials)
    async with asyncio.TaskGroup() as connections:

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(connections.create_task(proxy.serve(reader, writer)))

        tasks: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in tasks:
                task.cancel()
