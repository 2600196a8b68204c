"""The gallery's routes: `gallery_routes`. Without a token there are none."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qs
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from doors.gallery.access import GalleryAccess
from doors.gallery.details import read_details
from doors.gallery.filters import HOME, Cursor, Filters
from doors.gallery.listing import GalleryReader
from doors.gallery.rendering import HEADERS, PageRenderer
from doors.http.request_body import RequestError, read_body
from doors.http.tokens import MEMORY_SECONDS
from i2v.errors import I2vError
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
MAX_CONCURRENT_PAGES = 4
"""Further requests wait: the gallery must not slow down the door's own work."""
PAGE_TIMEOUT_SECONDS = 20.0
FORM_LIMIT_BYTES = 8192
Handler = Callable[[Request], Awaitable[Response]]


RunUrl = Callable[[str], str | None]
"""Returns the page of a run in Prefect's UI, if it is known."""


def gallery_routes(settings: Settings, storage: Storage, run_url: RunUrl | None = None) -> list[Route]:
    """Return the routes of `/gallery`; none without `I2V_GALLERY_TOKEN`."""
    if settings.gallery_token is None:
        return []
    log.info("The gallery is on at %s; log in with I2V_GALLERY_TOKEN", HOME)
    return Gallery(settings, storage, GalleryAccess(settings.gallery_token), run_url).routes


class Gallery:
    """The handlers for one bucket."""

    def __init__(
        self, settings: Settings, storage: Storage, access: GalleryAccess, run_url: RunUrl | None = None
    ) -> None:
        self._settings = settings
        self._run_url = run_url
        self._storage = storage
        self._access = access
        self._reader = GalleryReader(storage, settings)
        self._renderer = PageRenderer(settings.videos.bucket)
        self._page_slots = asyncio.Semaphore(MAX_CONCURRENT_PAGES)

    @property
    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route(HOME, self._protected(self._show_listing)),
            Route(f"{HOME}/", _redirect_home),
            Route(f"{HOME}/item/{{cursor}}", self._protected(self._show_item)),
            Route(f"{HOME}/login", self._log_in, methods=["POST"]),
            Route(f"{HOME}/login", _redirect_home),
            Route(f"{HOME}/logout", self._log_out, methods=["POST"]),
            Route(f"{HOME}/static/{{name}}", self._static_file),
        ]

    def _protected(self, handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            if not await self._access.allows(request):
                return self._login_page(request, is_wrong="Authorization" in request.headers)
            try:
                async with asyncio.timeout(PAGE_TIMEOUT_SECONDS), self._page_slots:
                    return await handler(request)
            except (I2vError, TimeoutError) as error:
                message = str(error) or f"S3 did not respond within {PAGE_TIMEOUT_SECONDS:.0f} s. Try again"
                log.warning("Cannot show the gallery: %s", message)
                return self._renderer.render("error", 503, title="S3 is not available", message=message)

        return handle

    async def _show_listing(self, request: Request) -> Response:
        filters, text = Filters.parse(request.query_params), request.query_params.get("after", "")
        after = Cursor.parse(text)
        errors = ["The page link cannot be read, so this is the newest page."] if text and not after else []
        page = await self._reader.read(filters, after)
        links = next((card.links for card in page.cards if card.links), None)
        return self._renderer.render(
            "listing",
            media=links.poster if links else "",
            page=page,
            filters=filters,
            after=after,
            errors=[*filters.errors, *errors],
            images=str(self._settings.images),
        )

    async def _show_item(self, request: Request) -> Response:
        cursor = Cursor.parse(request.path_params["cursor"])
        item = await self._reader.find_item(cursor) if cursor else None
        if cursor is None or item is None:
            message = "The link is wrong, or the page of its run under jobs/recent/ was deleted or is unreadable."
            return self._renderer.render("error", 404, title="Video not found", message=message)
        card = await self._reader.card(cursor, item)
        details = await read_details(self._storage, self._settings, card)
        media = card.links.poster if card.links else ""
        return self._renderer.render("item", media=media, details=details, run_url=self._link_to_run(cursor))

    def _link_to_run(self, cursor: Cursor) -> str | None:
        """Return the run's page in Prefect (for a shard, its batch's); `None` for a run without Prefect."""
        try:
            flow_run = UUID(cursor.run_id[:36])
        except ValueError:
            return None
        return self._run_url(str(flow_run)) if self._run_url else None

    def _login_page(self, request: Request, *, is_wrong: bool = False, to: str = "") -> Response:
        is_slowed_down = is_wrong and self._access.tokens.is_slowed_down(request)
        status = HTTPStatus.TOO_MANY_REQUESTS if is_slowed_down else HTTPStatus.UNAUTHORIZED
        response = self._renderer.render(
            "login",
            status,
            to=to or _own_address(request),
            is_wrong=is_wrong,
            is_slowed_down=is_slowed_down,
            # browsers omit a strict cookie when another site links here, but send it after a refresh
            is_cross_site=request.method == "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site",
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        if is_slowed_down:
            response.headers["Retry-After"] = f"{MEMORY_SECONDS:.0f}"
        return response

    async def _log_in(self, request: Request) -> Response:
        try:
            body = await read_body(request, FORM_LIMIT_BYTES)
        except RequestError as error:
            return Response(status_code=error.status_code, headers=HEADERS)
        form = {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
        to = _safe_target(form.get("to", ""))
        if not await self._access.tokens.check(request, form.get("token", "")):
            return self._login_page(request, is_wrong=True, to=to)
        return self._access.log_in(request, _redirect(to))

    async def _log_out(self, request: Request) -> Response:
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            return _redirect(HOME)  # another site's form must not log anyone out
        return self._access.log_out(request, _redirect(HOME))

    async def _static_file(self, request: Request) -> Response:
        return self._renderer.static_file(request.path_params["name"])


async def _redirect_home(_request: Request) -> Response:
    return _redirect(HOME)


def _redirect(to: str) -> Response:
    return RedirectResponse(to, HTTPStatus.SEE_OTHER, HEADERS | {"Cache-Control": "no-store"})


def _own_address(request: Request) -> str:
    path, query = request.scope["raw_path"].decode("ascii", "replace"), request.url.query
    return _safe_target(f"{path}?{query}" if query else path)


def _safe_target(to: str) -> str:
    """Return the address if it is inside the gallery, else the gallery's home: no open redirect after login."""
    is_inside = to == HOME or to.startswith((f"{HOME}?", f"{HOME}/item/"))
    return to if is_inside and to.isascii() and to.isprintable() and "\\" not in to else HOME
