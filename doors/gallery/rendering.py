"""HTML rendering: `PageRenderer` fills the templates and sets the security headers of each response.

`templates/` are Jinja's; `static/` is one style sheet and one script, which only adds comfort: without it all works.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from doors.gallery.details import format_minute, format_moment
from doors.gallery.filters import HOME, Filters
from i2v.money import money_text
from i2v.reports.run_report import Outcome
from i2v.request import Mode

HERE = Path(__file__).parent
MEDIA_TYPES = {"gallery.css": "text/css", "gallery.js": "text/javascript", "icon.svg": "image/svg+xml"}
SHOWN = (Outcome.STORED, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN)
HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of all answers. Signed links must not leak as a referrer, and nobody may put a frame around this."""
_ORIGIN = re.compile(r"https?://[\w.\[\]:-]+", re.ASCII)


class PageRenderer:
    """The templates of one gallery; `bucket` is its name there."""

    def __init__(self, bucket: str) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._files = {name: (HERE / "static" / name).read_bytes() for name in MEDIA_TYPES}
        self._templates.filters |= {"money": money_text, "moment": format_moment, "minute": format_minute}
        self._templates.globals |= {
            "home": HOME,
            "bucket": bucket,
            "no_filters": Filters(),
            "modes": tuple(Mode),
            "outcomes": SHOWN,
            "address_of": self._address,
        }

    def _address(self, name: str) -> str:
        """Of a static file; with its digest, so that it may be kept for ever."""
        return f"{HOME}/static/{name}?{hashlib.sha256(self._files[name]).hexdigest()[:12]}"

    def static(self, name: str) -> Response:
        """One of the static files."""
        if name not in self._files:
            return Response(status_code=404, headers=HEADERS)
        kept = HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(self._files[name], media_type=MEDIA_TYPES[name], headers=kept)

    def answer(self, template: str, status: int = 200, *, media: str = "", **values: Any) -> Response:
        """A page, filled; `media` is an address on the host from which posters and videos come."""
        text = self._templates.get_template(f"{template}.html").render(values)
        # lone surrogates, which come in keys and prompts by way of JSON, are no text that could be sent
        body = text.encode(errors="replace")
        own = HEADERS | {"Content-Security-Policy": _policy(media), "Cache-Control": "no-store"}
        return HTMLResponse(body, status, own)


def _policy(media: str) -> str:
    """Nothing from anywhere but here, and posters and videos from S3."""
    match = _ORIGIN.match(media)
    origin = match[0] if match else "'none'"
    images = f"'self' {match[0]}" if match else "'self'"
    return (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        f"img-src {images}; media-src {origin}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
