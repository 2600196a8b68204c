"""HTTP routes: `POST /s3` for bucket webhooks, `GET /healthz`, `GET /metrics`.

Add a route in `make_app`; handlers find shared objects in `request.app.state`.
"""

import asyncio
import logging
from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from doors.batcher import BatcherClosed
from doors.http.callbacks import Callbacks
from doors.http.request_body import RequestError, read_body
from doors.http.tokens import TokenCheck
from doors.image_intake import ImageIntake
from doors.periodic_read import PeriodicRead
from doors.s3_notifications import MAX_NOTIFICATION_BYTES, InvalidNotification, Notification, parse_notification

log = logging.getLogger(__name__)
RUN_TIMEOUT_SECONDS = 10.0
"""How long a webhook waits for its flow run before it gets a 503."""
ABOUT = "The i2v door: it starts runs for new images in the bucket, and receives the provider's callbacks.\n\n"
PATHS = {
    "/gallery": "GET  /gallery    the videos, in a browser\n",
    "/healthz": "GET  /healthz    whether it works\n",
    "/metrics": "GET  /metrics    metrics for Prometheus\n",
    "/s3": "POST /s3         bucket notifications\n",
}
RETRY_AFTER = {"Retry-After": "5"}


def make_app(
    intake: ImageIntake, gauges: Sequence[PeriodicRead], callbacks: Callbacks, gallery: Sequence[Route] = ()
) -> Starlette:
    """Return the door's ASGI application."""
    app = Starlette(
        routes=[
            Route("/", show_paths),
            Route("/s3", receive_notification, methods=["POST"]),
            Route("/healthz", get_health),
            Route("/metrics", get_metrics),
            callbacks.route,
            *gallery,
        ],
        exception_handlers={RequestError: show_error},
    )
    app.router.redirect_slashes = False  # a redirect would repeat a callback's URL, which is secret
    app.state.intake = intake
    app.state.gauges = gauges
    token = intake.settings.door_token
    app.state.tokens = TokenCheck(token) if token else None
    return app


async def show_paths(request: Request) -> Response:
    """Say what this service is, to a person who opens its address."""
    paths = {getattr(route, "path", "") for route in request.app.routes}
    return PlainTextResponse(ABOUT + "".join(line for path, line in PATHS.items() if path in paths))


async def get_health(request: Request) -> Response:
    """Return 200 if new notifications become flow runs, else 503. Omit the details for requests through a proxy."""
    health = request.app.state.intake.health
    status = {"live": True, "ready": health.is_ready}
    if "X-Forwarded-For" not in request.headers:  # the details contain internal addresses
        status |= {"queue": health.queue, "prefect": health.prefect, "callbacks": health.callbacks}
    return JSONResponse(status, 200 if health.is_ready else 503)


async def get_metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    for gauges in request.app.state.gauges:
        gauges.refresh()
    return Response(generate_latest(request.app.state.intake.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def receive_notification(request: Request) -> Response:
    """Return 200 once Prefect has the flow run, 4xx if a retry cannot help, 503 if the sender must retry."""
    intake: ImageIntake = request.app.state.intake
    await _check_token(request, request.app.state.tokens)
    notification = _parse(intake, await read_body(request, MAX_NOTIFICATION_BYTES))
    if notification.images and intake.images.is_full:
        raise RequestError(503, "Too many images are pending", RETRY_AFTER)
    intake.metrics.count("http", notification)
    try:
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            await intake.images.add(notification.images)
    except (TimeoutError, BatcherClosed):
        raise RequestError(503, "Prefect does not have the flow run yet", RETRY_AFTER) from None
    return JSONResponse({"images": len(notification.images), "dropped": dict(notification.dropped)})


async def _check_token(request: Request, tokens: TokenCheck | None) -> None:
    if tokens is None:
        raise RequestError(404, "POST /s3 is off: I2V_DOOR_TOKEN is not set")
    if not await tokens.check_bearer(request):
        raise RequestError(401, "The token is missing or wrong", {"WWW-Authenticate": "Bearer"})


def _parse(intake: ImageIntake, body: bytes) -> Notification:
    try:
        notification = parse_notification(body, intake.settings)
    except InvalidNotification as error:
        intake.metrics.count_invalid("http")
        log.warning("Rejected an invalid webhook: %s", error)
        raise RequestError(422, str(error)) from None
    if notification.error:
        log.warning("Dropped an unreadable event of a webhook: %s", notification.error)
    return notification


async def show_error(_request: Request, error: Exception) -> Response:
    """Return a `RequestError` as JSON."""
    assert isinstance(error, RequestError)  # noqa: S101 - Starlette's type of a handler is too wide
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
