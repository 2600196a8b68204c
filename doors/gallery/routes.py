"""The gallery's addresses: `gallery_routes`, which the door adds to its own. Without a token there are none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from doors.gallery.access import LOCKOUT_SECONDS, GalleryAccess
from doors.gallery.details import read_details
from doors.gallery.filters import HOME, Cursor, Filters
from doors.gallery.listing import GalleryReader
from doors.gallery.rendering import HEADERS, PageRenderer
from i2v.errors import I2vError
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
AT_ONCE = 4
"""Pages that are read at once; the others wait, so that the door's own work goes on."""
PATIENCE_SECONDS = 20.0
FORM_LIMIT_BYTES = 8192
FORM_SECONDS = 10.0
Handler = Callable[[Request], Awaitable[Response]]


def gallery_routes(settings: Settings, storage: Storage) -> list[Route]:
    """The routes of `/gallery`; none without `I2V_GALLERY_TOKEN`."""
    if settings.gallery_token is None:
        return []
    log.info("the gallery is open at %s for who has I2V_GALLERY_TOKEN", HOME)
    return Gallery(settings, storage, GalleryAccess(settings.gallery_token)).routes


class Gallery:
    """Answers for one bucket."""

    def __init__(self, settings: Settings, storage: Storage, guard: GalleryAccess) -> None:
        self._settings = settings
        self._storage = storage
        self._guard = guard
        self._shelves = GalleryReader(storage, settings)
        self._pages = PageRenderer(settings.videos.bucket)
        self._reading = asyncio.Semaphore(AT_ONCE)

    @property
    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route(HOME, self._guarded(self._shelf), methods=["GET"]),
            Route(f"{HOME}/", _to_home, methods=["GET"]),
            Route(f"{HOME}/item/{{spot}}", self._guarded(self._item), methods=["GET"]),
            Route(f"{HOME}/login", self._log_in, methods=["POST"]),
            Route(f"{HOME}/login", _to_home, methods=["GET"]),
            Route(f"{HOME}/logout", self._log_out, methods=["POST"]),
            Route(f"{HOME}/static/{{name}}", self._static, methods=["GET"]),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            if not self._guard.admits(request):
                return self._ask_for_token(request)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS), self._reading:
                    return await handler(request)
            except (I2vError, TimeoutError) as error:
                log.warning("the gallery could not be shown: %s", error or "S3 took too long")
                words = error if isinstance(error, I2vError) else "S3 did not answer in time. Try again"
                return self._pages.answer("error", 503, title="S3 does not answer well", words=str(words))

        return handle

    async def _shelf(self, request: Request) -> Response:
        filters, text = Filters.parse(request.query_params), request.query_params.get("after", "")
        after = Cursor.parse(text)
        faults = ["This is the newest: the address to go on from cannot be read."] if text and not after else []
        shelf = await self._shelves.read(filters, after)
        links = next((card.links for card in shelf.cards if card.links), None)
        return self._pages.answer(
            "listing",
            media=links.poster if links else "",
            shelf=shelf,
            filters=filters,
            after=after,
            faults=[*filters.faults, *faults],
            images=str(self._settings.images),
        )

    async def _item(self, request: Request) -> Response:
        spot = Cursor.parse(request.path_params["spot"])
        item = await self._shelves.find_item(spot) if spot else None
        if spot is None or item is None:
            words = "It was never here, or the page of its run has been deleted or cannot be read."
            return self._pages.answer("error", 404, title="There is no such video", words=words)
        card = await self._shelves.card(spot, item)
        details = await read_details(self._storage, self._settings, card)
        return self._pages.answer("item", media=card.links.poster if card.links else "", details=details)

    def _ask_for_token(self, request: Request, *, is_wrong: bool = False, to: str = "") -> Response:
        is_locked = self._guard.is_locked(request)
        status = HTTPStatus.TOO_MANY_REQUESTS if is_locked else HTTPStatus.UNAUTHORIZED
        answer = self._pages.answer(
            "login",
            status,
            to=to or _own_address(request),
            is_wrong=is_wrong,
            is_locked=is_locked,
            # a link from elsewhere brings no strict cookie; the same address asked for from here does
            comes_from_elsewhere=request.method == "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site",
        )
        answer.headers["WWW-Authenticate"] = "Bearer"
        if is_locked:
            answer.headers["Retry-After"] = f"{LOCKOUT_SECONDS:.0f}"
        return answer

    async def _log_in(self, request: Request) -> Response:
        try:
            form = await _form(request)
        except (TimeoutError, ClientDisconnect):
            return Response(status_code=408, headers=HEADERS)
        if form is None:
            return Response(status_code=413, headers=HEADERS)
        to = _safe_target(form.get("to", ""))
        if not self._guard.tries(request, form.get("token", "").strip().encode(errors="surrogatepass")):
            return self._ask_for_token(request, is_wrong=True, to=to)
        return self._guard.let_in(request, _redirect(to))

    async def _log_out(self, request: Request) -> Response:
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            return _redirect(HOME)  # another site's form logs nobody out
        return self._guard.let_out(request, _redirect(HOME))

    async def _static(self, request: Request) -> Response:
        return self._pages.static(request.path_params["name"])


async def _to_home(_request: Request) -> Response:
    return _redirect(HOME)


def _redirect(to: str) -> Response:
    return RedirectResponse(to, HTTPStatus.SEE_OTHER, HEADERS | {"Cache-Control": "no-store"})


def _own_address(request: Request) -> str:
    path, query = request.scope["raw_path"].decode("ascii", "replace"), request.url.query
    return _safe_target(f"{path}?{query}" if query else path)


def _safe_target(to: str) -> str:
    """Where a login leads: into the gallery, and nowhere else."""
    inside = to == HOME or to.startswith((f"{HOME}?", f"{HOME}/item/"))
    return to if inside and to.isascii() and to.isprintable() and "\\" not in to else HOME


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of a form, `None` where it is too large."""
    body = bytearray()
    async with asyncio.timeout(FORM_SECONDS):
        async for chunk in request.stream():
            body += chunk
            if len(body) > FORM_LIMIT_BYTES:
                return None
    fields = parse_qs(body.decode(errors="replace"), max_num_fields=None)
    return {name: values[0] for name, values in fields.items()}
