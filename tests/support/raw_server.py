"""A raw socket server that does what no web framework would: `RawServer` and the plays it knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Play = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request as it came, and the way to answer it."""

    head: str
    body: bytes
    writer: asyncio.StreamWriter
    connection: int

    @property
    def target(self) -> str:
        """What stands between method and version."""
        return self.head.split(" ")[1]

    def header(self, name: str) -> str:
        """A header's value, empty if it is not there."""
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return ""


@dataclass
class RawServer:
    """Plays its plays in order, the last one again and again; counts connections and requests."""

    plays: list[Play]
    port: int = 0
    connections: int = 0
    requests: list[Exchange] = field(default_factory=list)
    scheme: str = "http"
    read_body: bool = True
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play for one connection until it is closed."""
        self.connections += 1
        number = self.connections
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().strip()
                exchange = Exchange(head, b"", writer, number)
                self.requests.append(exchange)
                self.asked.set()
                if self.read_body:
                    exchange.body = await reader.readexactly(int(exchange.header("content-length") or 0))
                play = self.plays[min(len(self.requests), len(self.plays)) - 1]
                await play(exchange)
        writer.close()


@contextlib.asynccontextmanager
async def running(
    *plays: Play, context: ssl.SSLContext | None = None, read_body: bool = True
) -> AsyncIterator[RawServer]:
    """A server on a free port of 127.0.0.1 that ends with all its connections."""
    raw = RawServer(list(plays), scheme="https" if context else "http", read_body=read_body)
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


def send(status: int, body: bytes = b"", *, close: bool = False, declared: int | None = None, **headers: str) -> Play:
    """Answer with this status, body and headers; `declared` is the Content-Length that is claimed."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if declared is None else declared}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    raw = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def play(exchange: Exchange) -> None:
        exchange.writer.write(raw)
        await exchange.writer.drain()
        if close:
            exchange.writer.close()

    return play


def send_json(status: int, value: object) -> Play:
    """Answer with JSON."""
    return send(status, json.dumps(value).encode(), Content_Type="application/json")


async def hang(_exchange: Exchange) -> None:
    """Say nothing."""
    await asyncio.sleep(60)


async def reset(exchange: Exchange) -> None:
    """Drop the connection hard (RST)."""
    sock = exchange.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.writer.transport.abort()


async def hang_up(exchange: Exchange) -> None:
    """Close the connection politely, without an answer."""
    exchange.writer.close()


def drip(status: int, *, every: float = 0.05, declared: int = 10_000) -> Play:
    """Promise a body and send it byte by byte, for ever."""

    async def play(exchange: Exchange) -> None:
        exchange.writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {declared}\r\n\r\n".encode())
        while True:
            exchange.writer.write(b" ")
            await exchange.writer.drain()
            await asyncio.sleep(every)

    return play


def raw(answer: bytes) -> Play:
    """Answer with these very bytes, and close."""

    async def play(exchange: Exchange) -> None:
        exchange.writer.write(answer)
        await exchange.writer.drain()
        exchange.writer.close()

    return play


def in_chunks(*pieces: bytes, ended: bool = True) -> Play:
    """Answer 200 with a body in chunks; one that is not ended is cut."""
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked \r\n\r\n" + body + (b"0\r\n\r\n" if ended else b""))


def pour(status: int) -> Play:
    """Send a body without an end, as fast as it is taken."""

    async def play(exchange: Exchange) -> None:
        exchange.writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            exchange.writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            await exchange.writer.drain()

    return play
