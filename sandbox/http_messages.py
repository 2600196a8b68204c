"""Whole HTTP/1.1 messages over asyncio streams, forwarded byte for byte: `receive` and `send`."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import h11

READ_BYTES = 1 << 16


class Message(NamedTuple):
    """A request or response: its head and its whole body."""

    head: h11.Request | h11.Response
    body: bytes


async def receive(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Message | None:
    """Return a whole message, or None if the peer disconnects. Answer `Expect: 100-continue`."""
    head: h11.Request | h11.Response | None = None
    body = bytearray()
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                connection.receive_data(await reader.read(READ_BYTES))
            case h11.Request() | h11.Response() as head:
                pass
            case h11.Data(data=data):
                body += data
            case h11.EndOfMessage() if head is not None:
                return Message(head, bytes(body))
            case h11.ConnectionClosed() | h11.PAUSED:
                return None


def send(connection: h11.Connection, writer: asyncio.StreamWriter, message: Message) -> None:
    """Write a message, with the spelling of its headers unchanged."""
    head = message.head
    headers = head.headers.raw_items()
    if isinstance(head, h11.Request):
        copy: h11.Event = h11.Request(method=head.method, target=head.target, headers=headers)
    else:
        copy = h11.Response(status_code=head.status_code, headers=headers, reason=head.reason)
    events = (copy, h11.Data(data=message.body), h11.EndOfMessage()) if message.body else (copy, h11.EndOfMessage())
    for event in events:
        writer.write(connection.send(event) or b"")
