"""A raw HTTP server that can violate the protocol: `RawServer`, and functions that make its responses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Responder = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One received request, and the writer for its response."""

    head: str
    body: bytes
    writer: asyncio.StreamWriter
    connection: int

    @property
    def target(self) -> str:
        """The request target: path and query."""
        return self.head.split(" ")[1]

    def header(self, name: str) -> str:
        """Return a header's value, empty if absent."""
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return ""


@dataclass
class RawServer:
    """Give the responses in order and repeat the last one; count connections and requests."""

    responders: list[Responder]
    port: int = 0
    connections: int = 0
    requests: list[Exchange] = field(default_factory=list)
    scheme: str = "http"
    read_body: bool = True
    request_received: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed."""
        self.connections += 1
        number = self.connections
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().strip()
                exchange = Exchange(head, b"", writer, number)
                self.requests.append(exchange)
                self.request_received.set()
                if self.read_body:
                    exchange.body = await reader.readexactly(int(exchange.header("content-length") or 0))
                responder = self.responders[min(len(self.requests), len(self.responders)) - 1]
                await responder(exchange)
        writer.close()


@contextlib.asynccontextmanager
async def running(
    *responders: Responder, context: ssl.SSLContext | None = None, read_body: bool = True
) -> AsyncIterator[RawServer]:
    """Run a server on a free port of 127.0.0.1; close it with all its connections at the end."""
    raw = RawServer(list(responders), scheme="https" if context else "http", read_body=read_body)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await raw.serve(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def send(
    status: int, body: bytes = b"", *, close: bool = False, declared: int | None = None, **headers: str
) -> Responder:
    """Respond with this status, body and headers; `declared` overrides the Content-Length."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if declared is None else declared}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    raw = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def respond(exchange: Exchange) -> None:
        exchange.writer.write(raw)
        await exchange.writer.drain()
        if close:
            exchange.writer.close()

    return respond


def send_json(status: int, value: object) -> Responder:
    """Respond with JSON."""
    return send(status, json.dumps(value).encode(), Content_Type="application/json")


async def hang(_exchange: Exchange) -> None:
    """Send nothing."""
    await asyncio.sleep(60)


async def reset(exchange: Exchange) -> None:
    """Reset the connection (RST)."""
    sock = exchange.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.writer.transport.abort()


async def hang_up(exchange: Exchange) -> None:
    """Close the connection without a response."""
    exchange.writer.close()


def drip(status: int, *, every: float = 0.05, declared: int = 10_000) -> Responder:
    """Declare a body and send it byte by byte, forever."""

    async def respond(exchange: Exchange) -> None:
        exchange.writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {declared}\r\n\r\n".encode())
        while True:
            exchange.writer.write(b" ")
            await exchange.writer.drain()
            await asyncio.sleep(every)

    return respond


def raw(response: bytes) -> Responder:
    """Send exactly these bytes and close the connection."""

    async def respond(exchange: Exchange) -> None:
        exchange.writer.write(response)
        await exchange.writer.drain()
        exchange.writer.close()

    return respond


def in_chunks(*pieces: bytes, ended: bool = True) -> Responder:
    """Respond with 200 and a chunked body; without `ended`, omit the last chunk."""
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked \r\n\r\n" + body + (b"0\r\n\r\n" if ended else b""))


def pour(status: int) -> Responder:
    """Send an endless chunked body, as fast as the client reads."""
    head = f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return endless(b"10000\r\n" + b" " * 0x10000 + b"\r\n", head)


def endless(piece: bytes, head: bytes = b"") -> Responder:
    """Send the head, then this piece forever, as fast as the client reads."""

    async def respond(exchange: Exchange) -> None:
        exchange.writer.write(head)
        while True:
            exchange.writer.write(piece)
            await exchange.writer.drain()
            await asyncio.sleep(0)  # `drain` alone does not yield while the socket accepts data

    return respond
