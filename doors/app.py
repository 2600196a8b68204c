"""HTTP: `POST /s3` takes bucket webhooks, `GET /healthz` says how the door fares, `GET /metrics` counts.

Callbacks have a file of their own, `doors.callbacks`, and the gallery a folder, `doors.gallery`.

A new address is a `Route` in `make_app`; what its handler needs is in `request.app.state`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doors.batcher import BatcherClosed
from doors.callbacks import Callbacks
from doors.door import Door
from doors.ledger_gauges import LedgerGauges
from doors.notifications import MAX_NOTIFICATION_BYTES, InvalidNotification, parse_notification

log = logging.getLogger(__name__)
BODY_SECONDS = 10.0
PATIENCE_SECONDS = 10.0
"""How long a webhook waits for its run before it is told to come again."""
RETRY_AFTER = {"Retry-After": "5"}


def make_app(door: Door, gauges: LedgerGauges, callbacks: Callbacks, gallery: Sequence[Route] = ()) -> Starlette:
    """The door's ASGI application."""
    app = Starlette(
        routes=[
            Route("/s3", take_notification, methods=["POST"]),
            Route("/healthz", tell_health, methods=["GET"]),
            Route("/metrics", tell_metrics, methods=["GET"]),
            callbacks.route,
            *gallery,
        ]
    )
    app.router.redirect_slashes = False  # a redirect would repeat a callback's address, which is secret
    app.state.door = door
    app.state.gauges = gauges
    return app


async def tell_health(request: Request) -> Response:
    """Whether notifications that come now become runs: 200, else 503. Who comes by a proxy is told no more."""
    health = request.app.state.door.health
    told = health.for_json()
    if "X-Forwarded-For" in request.headers:  # the words on our neighbours hold their addresses
        told = {name: told[name] for name in ("live", "ready")}
    return JSONResponse(told, 200 if health.is_ready else 503)


async def tell_metrics(request: Request) -> Response:
    """Prometheus' text."""
    request.app.state.gauges.refresh()
    return Response(generate_latest(request.app.state.door.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def take_notification(request: Request) -> Response:
    """200 once Prefect has the run; 4xx for what can never work; 503 for what is to be sent again."""
    door: Door = request.app.state.door
    if refusal := _refusal(request, door.settings.door_token):
        return refusal
    try:
        body = await _body(request)
    except (TimeoutError, ClientDisconnect):
        return _problem(408, "The body did not come in time")
    if body is None:
        return _problem(413, f"The notification has over {MAX_NOTIFICATION_BYTES:,} bytes")
    return await _taken(door, body)


async def _taken(door: Door, body: bytes) -> Response:
    try:
        found = parse_notification(body, door.settings)
    except InvalidNotification as error:
        door.metrics.received.labels("http").inc()
        door.metrics.unreadable.inc()
        log.warning("a webhook that can never work was refused: %s", error)
        return _problem(422, str(error))
    if found.images and door.images.is_full:
        return _later("Too many images are in hand")
    door.metrics.count("http", found)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await door.images.add(found.images)
    except (TimeoutError, BatcherClosed):
        return _later("Prefect does not have the run yet")
    return JSONResponse({"images": len(found.images), "dropped": dict(found.dropped)})


def _refusal(request: Request, token: SecretStr | None) -> Response | None:
    if token is None:
        return _problem(404, "POST /s3 is shut: I2V_DOOR_TOKEN is not set")
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_known = hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode())
    if scheme.lower() == "bearer" and is_known:
        return None
    return JSONResponse({"error": "The token is missing or wrong"}, 401, {"WWW-Authenticate": "Bearer"})


async def _body(request: Request) -> bytes | None:
    """The body, `None` where it is too large; what is over the limit is not read."""
    body = b""
    async with asyncio.timeout(BODY_SECONDS):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_NOTIFICATION_BYTES:
                return None
    return body


def _problem(status: int, words: str) -> Response:
    return JSONResponse({"error": words}, status)


def _later(words: str) -> Response:
    return JSONResponse({"error": words}, 503, RETRY_AFTER)
