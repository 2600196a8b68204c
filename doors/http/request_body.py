"""`read_body`: read a request body within a size limit and a time limit. Every route that reads a body uses it.

Raise `RequestError` in a handler to end the request with a status; `doors.http.app` turns it into JSON.
"""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

BODY_SECONDS = 10.0


class RequestError(HTTPException):
    """The request fails with this status and message."""


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body. Raise `RequestError` 413 if it exceeds `limit` bytes, 408 if it does not arrive in time."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body exceeds {limit:,} bytes")
    except (TimeoutError, ClientDisconnect):
        message = f"The body did not arrive within {BODY_SECONDS:.0f} s"
        raise RequestError(HTTPStatus.REQUEST_TIMEOUT, message) from None
    return bytes(body)
