"""The door's HTTP server on real sockets: clients that send nothing, too little or a websocket handshake."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from doors.http import server as http_server
from doors.http.server import HttpServer, LimitedProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: door\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _answer(_request: Request) -> Response:
    return PlainTextResponse("here")


@asynccontextmanager
async def _serve() -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        server = HttpServer(Starlette(routes=[Route("/", _answer, methods=["GET", "POST"])]))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield listening.getsockname()[1]
        server.should_exit = server.force_exit = True
        await serving


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a running server."""
    async with _serve() as port:
        yield port


@asynccontextmanager
async def _connect(port: int, data: bytes = b"") -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _get(port: int) -> bytes:
    async with asyncio.timeout(60), _connect(port, REQUEST) as (reader, _):
        return await reader.readuntil(b"here")


async def _is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return not await reader.read()
    except ConnectionError:
        return True


@pytest.mark.parametrize("count", [512, http_server.MAX_CLIENT_CONNECTIONS])
async def test_silent_connections_keep_no_other_out(port: int, count: int) -> None:
    """With 512 silent connections of the same client open, the server answers at once."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(_connect(port, b"GET / HT")) for _ in range(count)]
        assert b"200 OK" in await _get(port)
        assert b"200 OK" in await _get(port)
        assert not opened[-1][0].at_eof()


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: d\r\n", REQUEST, REQUEST + b"GET / HT"])
async def test_a_connection_without_a_complete_head_is_closed(
    port: int, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that sends no, half a, or only half a second head is closed, also if bytes keep dripping in."""
    monkeypatch.setattr(LimitedProtocol, "head_seconds", 0.3)
    async with asyncio.timeout(60), _connect(port, data) as (reader, writer):
        if data.startswith(REQUEST):
            assert await reader.readuntil(b"here")
        closed = asyncio.create_task(_is_closed(reader))
        while not closed.done():
            if data:
                writer.write(b"X")
            await asyncio.sleep(0.05)
        assert closed.result()


async def test_a_request_in_progress_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the head: a handler may take longer."""
    monkeypatch.setattr(LimitedProtocol, "head_seconds", 0.1)
    monkeypatch.setattr(f"{__name__}._answer", _answer_late)
    async with _serve() as port:
        assert b"200 OK" in await _get(port)


async def _answer_late(_request: Request) -> Response:
    await asyncio.sleep(0.4)
    return PlainTextResponse("here")


async def test_all_clients_together_are_limited(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the connection that has waited longest makes room, and one client has a lower limit."""
    for name in ("MAX_CONNECTIONS", "MAX_CLIENT_CONNECTIONS"):
        with monkeypatch.context() as patched:
            patched.setattr(http_server, name, 2)
            async with AsyncExitStack() as stack:
                opened = [await stack.enter_async_context(_connect(port)) for _ in range(3)]
                async with asyncio.timeout(60):
                    assert await _is_closed(opened[0][0]), name
                opened[1][1].write(REQUEST)
                assert await opened[1][0].readuntil(b"here"), name


async def test_websockets_are_not_accepted(port: int) -> None:
    """A websocket handshake is answered as a plain request."""
    handshake = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n\r\n"
    )
    async with asyncio.timeout(60), _connect(port, REQUEST[:-2] + handshake) as (reader, _):
        assert b"200 OK" in await reader.readuntil(b"here")
