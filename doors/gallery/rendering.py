"""HTML rendering: `PageRenderer` fills the templates and sets the security headers of each response.

`templates/` are Jinja templates with autoescape; `static/` has one style sheet and one script. Pages work without it.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import FileResponse, HTMLResponse, Response

from doors.gallery.details import VERBATIM_FACTS, format_moment
from doors.gallery.filters import HOME, column_href
from i2v.advised_commands import command
from i2v.reports.run_report import Outcome
from i2v.request import Mode

HERE = Path(__file__).parent
OUTCOMES = (Outcome.STORED, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN)
HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""For every response: no signed link leaks as a referrer, and no other site frames the gallery."""
_ORIGIN = re.compile(r"https?://[\w.\[\]:-]+", re.ASCII)


class PageRenderer:
    """The templates of one gallery; `bucket` is shown on each page."""

    def __init__(self, bucket: str) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._files = {file.name: file for file in (HERE / "static").iterdir()}
        self._templates.filters |= {"moment": format_moment}
        self._templates.globals |= {"home": HOME, "bucket": bucket, "static_url": self._static_url}
        self._templates.globals |= {
            "modes": list(Mode),
            "outcomes": OUTCOMES,
            "verbatim_facts": VERBATIM_FACTS,
            "advised": command,
            "column_href": column_href,
        }

    def _static_url(self, name: str) -> str:
        """Return a static file's URL, which includes its digest because browsers cache it forever."""
        return f"{HOME}/static/{name}?{hashlib.sha256(self._files[name].read_bytes()).hexdigest()[:12]}"

    def static_file(self, name: str) -> Response:
        """Return a static file, or 404."""
        if name not in self._files:
            return Response(status_code=404, headers=HEADERS)
        headers = HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(self._files[name], headers=headers)

    def render(self, template: str, status: int = 200, *, media: str = "", **values: Any) -> Response:
        """Return a filled template; `media` is any URL on the host that serves posters and videos."""
        text = self._templates.get_template(f"{template}.html").render(values)
        body = text.encode(errors="replace")  # JSON can contain lone surrogates, which UTF-8 cannot
        headers = HEADERS | {"Content-Security-Policy": _content_policy(media), "Cache-Control": "no-store"}
        return HTMLResponse(body, status, headers)


def _content_policy(media: str) -> str:
    """Allow this origin only, plus posters and videos from S3."""
    match = _ORIGIN.match(media)
    origin = match[0] if match else "'none'"
    images = f"'self' {match[0]}" if match else "'self'"
    return (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        f"img-src {images}; media-src {origin}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
