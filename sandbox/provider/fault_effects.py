"""What a scripted fault does to one response, on the real connection: `apply_fault`."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.provider.contract import envelope, error_envelope
from sandbox.provider.faults import Fault
from sandbox.raw_connection import RawConnection
from sandbox.synthetic_images import make_jpeg

DEFAULT_SECONDS = 1.0
HTML = b"<html><head><title>Please wait</title></head><body><h1>Please wait</h1><hr>cloud gateway</body></html>"


async def apply_fault(
    fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send, wait_ended: Callable[[], Awaitable[None]]
) -> None:
    """Answer one request as the fault says. `wait_ended` waits for the request's task to end."""
    response = await _captured(app, scope, receive) if fault.handles_request else Response()
    connection = RawConnection(scope, receive)
    if await _break_connection(fault, connection, response):
        return
    if fault.kind == "deliver":
        target = f"{scope['path']}?{scope['query_string'].decode()}"
        await connection.send_and_close(_delivery(fault, bytes(response.body), target))
        return
    if fault.kind == "after_callback":
        await wait_ended()
    elif fault.kind == "late":
        await asyncio.sleep(DEFAULT_SECONDS if fault.seconds is None else fault.seconds)
    else:
        response = _changed(fault, response)
    await response(scope, receive, send)


async def _captured(app: ASGIApp, scope: Scope, receive: Receive) -> Response:
    """Return the app's response without sending it."""
    start: dict[str, Any] = {}
    body = bytearray()

    async def capture(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        body.extend(message.get("body", b""))

    await app(scope, receive, capture)
    response = Response(bytes(body), start["status"])
    response.raw_headers = start["headers"]
    return response


async def _break_connection(fault: Fault, connection: RawConnection, response: Response) -> bool:
    """Apply a fault that ends the connection; return False for all other kinds."""
    match fault.kind:
        case "drop" | "lost_answer":
            await connection.close()
        case "reset" | "reset_answer":
            await connection.reset()
        case "not_http":
            await connection.send_and_close(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        case "cut":
            await connection.send_and_close(_first_half(response))
        case _:
            return False
    return True


def _delivery(fault: Fault, file: bytes, target: str) -> bytes:
    body = file if fault.content is None else fault.content
    if fault.coding:
        body = gzip.compress(body) if fault.coding == "gzip" else zlib.compress(body)
    head = "\r\n".join(fault.head).format(length=len(body), last=len(body) - 1, target=target)
    return head.encode() + b"\r\n\r\n" + body


def _first_half(response: Response) -> bytes:
    lines = [b"HTTP/1.1 %d OK" % response.status_code, *(b": ".join(pair) for pair in response.raw_headers)]
    return b"\r\n".join([*lines, b"", bytes(response.body[: len(response.body) // 2])])


def _changed(fault: Fault, response: Response) -> Response:
    """Return another response for the kinds that replace it or its body."""
    if fault.kind == "answer":
        return _scripted_response(fault)
    status, content_type = 200, response.headers.get("content-type", "application/json")
    body: bytes | memoryview
    match fault.kind:
        case "garbage":
            body = b'{"code": 200, "mess\x00\xff'
        case "empty":
            body = b""
        case "html":
            body, content_type = HTML, "text/html"
        case "no_task_id":
            body = json.dumps(envelope({})).encode()
        case "fail_code":
            code = fault.code or "Unknown error"
            body = json.dumps(envelope({"failCode": code, "failMsg": fault.message or code})).encode()
        case "truncated":
            body, status = response.body[: len(response.body) * 7 // 10], response.status_code
        case "jpeg":
            body, status = make_jpeg(), response.status_code
        case _:
            return response
    return Response(body, status, {"Content-Type": content_type})


def _scripted_response(fault: Fault) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.body is not None:
        return Response(fault.body, fault.status, headers, fault.content_type)
    document = fault.document
    if document is None:
        document = error_envelope(fault.status, fault.message or "scripted by the sandbox", fault.message)
    return JSONResponse(document, fault.status, headers)
