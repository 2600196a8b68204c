"""`read_body`: read a request body within a size limit and a time limit. Every route that reads a body uses it."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request

from i2v.errors import I2vError

BODY_SECONDS = 10.0


class BodyError(I2vError):
    """The body is too large (413) or did not arrive in time (408)."""

    def __init__(self, message: str, status: HTTPStatus) -> None:
        super().__init__(message)
        self.args = (message, status)
        self.status = status


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body. Raise `BodyError` if it exceeds `limit` bytes; the rest is then not read."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise BodyError(f"The body exceeds {limit:,} bytes", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    except (TimeoutError, ClientDisconnect):
        raise BodyError(f"The body did not arrive within {BODY_SECONDS:.0f} s", HTTPStatus.REQUEST_TIMEOUT) from None
    return bytes(body)
