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
    """An answer that was made and not yet sent."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    async def __call__(self, message: Message) -> None:
        """Take what the app sends."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")

    def with_body(self, body: bytes, content_type: str | None = None) -> CapturedResponse:
        """The same answer with another body and an honest length."""
        dropped = {b"content-length"} | ({b"content-type"} if content_type else set())
        headers = [pair for pair in self.headers if pair[0].lower() not in dropped]
        headers.append((b"content-length", str(len(body)).encode()))
        if content_type:
            headers.append((b"content-type", content_type.encode()))
        return replace(self, headers=headers, body=body)

    def ok(self, body: bytes, content_type: str | None = None) -> CapturedResponse:
        """The same as a 200."""
        return replace(self.with_body(body, content_type), status=200)

    async def send(self, send: Send, pieces: int = 1, pause: float = 0) -> None:
        """Send it, in so many pieces and with that many seconds before each."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        size = max(1, -(-len(self.body) // pieces))
        for start in range(0, len(self.body), size):
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": self.body[start : start + size], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def apply_fault(
    fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send, ended: Callable[[], Awaitable[None]]
) -> None:
    """Answer one request as the fault says. `ended` waits for the request's task to end."""
    answer = CapturedResponse()
    if fault.is_done_first:
        await app(scope, receive, answer)
    wire = RawConnection(scope["state"]["transport"], receive)
    if await _break(fault, wire, answer):
        return
    if fault.kind == "after_callback":
        await ended()
    if fault.kind == "late":
        await asyncio.sleep(fault.seconds or DRIP_SECONDS)
    pieces, pause = (1, 0.0)
    if fault.kind == "drip":
        pieces, pause = DRIP_PIECES, (fault.seconds or DRIP_SECONDS) / DRIP_PIECES
    if fault.kind in CHANGES:
        answer = CHANGES[fault.kind](fault, answer)
    await answer.send(send, pieces, pause)


async def _break(fault: Fault, wire: RawConnection, answer: CapturedResponse) -> bool:
    """Do what ends the connection; tells whether that was it."""
    match fault.kind:
        case "drop" | "lost_answer":
            await wire.drop()
        case "reset" | "reset_answer":
            await wire.reset()
        case "hang":
            await wire.hang(fault.seconds)
        case "not_http":
            await wire.say(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        case "cut":
            await wire.say(_half(answer))
        case _:
            return False
    return True


def _half(answer: CapturedResponse) -> bytes:
    headers = answer.with_body(answer.body).headers
    lines = [b"HTTP/1.1 %d OK" % answer.status, *(b": ".join(pair) for pair in headers)]
    return b"\r\n".join([*lines, b"", answer.body[: len(answer.body) // 2]])


def _ordered(fault: Fault) -> CapturedResponse:
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.body is not None:
        response = Response(fault.body, fault.status, headers, fault.content_type)
    elif fault.document is not None:
        response = JSONResponse(fault.document, fault.status, headers)
    else:
        body = error_envelope(fault.status, fault.message or "scripted by the sandbox", fault.message)
        response = JSONResponse(body, fault.status, headers)
    return CapturedResponse(fault.status, list(response.raw_headers), bytes(response.body))


def _fail_code(fault: Fault, answer: CapturedResponse) -> CapturedResponse:
    code = fault.code or "Unknown error"
    body = envelope({"failCode": code, "failMsg": fault.message or code})
    return answer.ok(json.dumps(body).encode(), "application/json")


CHANGES: dict[str, Callable[[Fault, CapturedResponse], CapturedResponse]] = {
    "answer": lambda fault, _: _ordered(fault),
    "garbage": lambda _, answer: answer.ok(b'{"code": 200, "mess\x00\xff'),
    "empty": lambda _, answer: answer.ok(b""),
    "html": lambda _, answer: answer.ok(HTML, "text/html"),
    "no_task_id": lambda _, answer: answer.ok(json.dumps(envelope({})).encode()),
    "fail_code": _fail_code,
    "truncated": lambda _, answer: answer.with_body(answer.body[: len(answer.body) * 7 // 10]),
    "jpeg": lambda _, answer: answer.with_body(make_jpeg()),
}
