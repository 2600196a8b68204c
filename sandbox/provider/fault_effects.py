"""What a scripted fault does to one response, on the real connection: `apply_fault`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.provider.contract import envelope, error_envelope
from sandbox.provider.faults import Fault
from sandbox.provider.raw_connection import RawConnection
from sandbox.synthetic_images import make_jpeg

DRIP_SECONDS = 1.0
DRIP_PIECES = 20
HTML = b"<html><head><title>Please wait</title></head><body><h1>Please wait</h1><hr>cloud gateway</body></html>"


@dataclass
class CapturedResponse:
    """A response that has not been sent yet."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    async def __call__(self, message: Message) -> None:
        """Record what the app sends."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")

    def with_body(self, body: bytes, content_type: str | None = None) -> CapturedResponse:
        """Return the same response with another body and its correct length."""
        dropped = {b"content-length"} | ({b"content-type"} if content_type else set())
        headers = [pair for pair in self.headers if pair[0].lower() not in dropped]
        headers.append((b"content-length", str(len(body)).encode()))
        if content_type:
            headers.append((b"content-type", content_type.encode()))
        return replace(self, headers=headers, body=body)

    def ok(self, body: bytes, content_type: str | None = None) -> CapturedResponse:
        """Return the same response as a 200 with another body."""
        return replace(self.with_body(body, content_type), status=200)

    async def send(self, send: Send, pieces: int = 1, pause: float = 0) -> None:
        """Send it in pieces, with a pause before each."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        size = max(1, -(-len(self.body) // pieces))
        for start in range(0, len(self.body), size):
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": self.body[start : start + size], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def apply_fault(
    fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send, wait_ended: Callable[[], Awaitable[None]]
) -> None:
    """Answer one request as the fault says. `wait_ended` waits for the request's task to end."""
    response = CapturedResponse()
    if fault.handles_request:
        await app(scope, receive, response)
    connection = RawConnection(scope["state"]["transport"], receive)
    if await _break_connection(fault, connection, response):
        return
    if fault.kind == "after_callback":
        await wait_ended()
    if fault.kind == "late":
        await asyncio.sleep(fault.seconds or DRIP_SECONDS)
    pieces, pause = (1, 0.0)
    if fault.kind == "drip":
        pieces, pause = DRIP_PIECES, (fault.seconds or DRIP_SECONDS) / DRIP_PIECES
    if fault.kind in CHANGES:
        response = CHANGES[fault.kind](fault, response)
    await response.send(send, pieces, pause)


async def _break_connection(fault: Fault, connection: RawConnection, response: CapturedResponse) -> bool:
    """Apply a fault that ends the connection; return False for all other kinds."""
    match fault.kind:
        case "drop" | "lost_answer":
            await connection.close()
        case "reset" | "reset_answer":
            await connection.reset()
        case "hang":
            await connection.hang(fault.seconds)
        case "not_http":
            await connection.send_and_close(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        case "cut":
            await connection.send_and_close(_first_half(response))
        case _:
            return False
    return True


def _first_half(response: CapturedResponse) -> bytes:
    headers = response.with_body(response.body).headers
    lines = [b"HTTP/1.1 %d OK" % response.status, *(b": ".join(pair) for pair in headers)]
    return b"\r\n".join([*lines, b"", response.body[: len(response.body) // 2]])


def _scripted_response(fault: Fault) -> CapturedResponse:
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.body is not None:
        response = Response(fault.body, fault.status, headers, fault.content_type)
    elif fault.document is not None:
        response = JSONResponse(fault.document, fault.status, headers)
    else:
        body = error_envelope(fault.status, fault.message or "scripted by the sandbox", fault.message)
        response = JSONResponse(body, fault.status, headers)
    return CapturedResponse(fault.status, list(response.raw_headers), bytes(response.body))


def _fail_code(fault: Fault, response: CapturedResponse) -> CapturedResponse:
    code = fault.code or "Unknown error"
    body = envelope({"failCode": code, "failMsg": fault.message or code})
    return response.ok(json.dumps(body).encode(), "application/json")


CHANGES: dict[str, Callable[[Fault, CapturedResponse], CapturedResponse]] = {
    "answer": lambda fault, _: _scripted_response(fault),
    "garbage": lambda _, response: response.ok(b'{"code": 200, "mess\x00\xff'),
    "empty": lambda _, response: response.ok(b""),
    "html": lambda _, response: response.ok(HTML, "text/html"),
    "no_task_id": lambda _, response: response.ok(json.dumps(envelope({})).encode()),
    "fail_code": _fail_code,
    "truncated": lambda _, response: response.with_body(response.body[: len(response.body) * 7 // 10]),
    "jpeg": lambda _, response: response.with_body(make_jpeg()),
}
