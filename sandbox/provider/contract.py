"""The vendor's contract, written from the vendor's documentation and not from our client: requests and responses.

Add what the vendor documents; keep out HTTP, time and billing.
"""

import http.client
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

MODEL = "hailuo-2-3-fast"
STANDARD = "standard-image-to-video"
PRO = "pro-image-to-video"
PROMPT_MAX_CHARS = 2000
STANDARD_USD_PER_SECOND = Decimal("0.032")
PRO_USD = Decimal("0.33")
PRO_SECONDS = 6
SHORT_SIDES = {STANDARD: 768, PRO: 1080}
ROUTES = ("auto", "value", "official")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Where a callback URL may be http, unlike the vendor's."""


class ApiError(HTTPException):
    """An error response: its status is the envelope's `code` too, and its detail goes into `data.error`."""


MESSAGES = {**http.client.responses, 400: "Invalid request"}
"""By HTTP status; the vendor's examples show that of 400."""


@dataclass(frozen=True)
class SubmitRequest:
    """A valid submit. `duration` is the field as sent, `seconds` the length of the video."""

    mode: str
    prompt: str
    image_url: str
    duration: Any
    seconds: int
    callback_url: str | None

    @property
    def price_usd(self) -> Decimal:
        """$0.032 a second, or $0.33 for a pro video."""
        return PRO_USD if self.mode == PRO else STANDARD_USD_PER_SECOND * self.seconds

    @property
    def short_side(self) -> int:
        """The video's short side in pixels."""
        return SHORT_SIDES[self.mode]


def envelope(data: Any, code: int = 200, message: str = "success") -> dict[str, Any]:
    """Return the envelope of every response."""
    return {"code": code, "message": message, "data": data}


def error_envelope(code: int, error: str, message: str | None = None) -> dict[str, Any]:
    """Return the envelope of an error."""
    return envelope({"error": error}, code, message or MESSAGES.get(code, "Error"))


def parse_submit(body: bytes) -> SubmitRequest:
    """Validate a submit body as strictly as the vendor. Raise `ApiError` 400 with the invalid field."""
    try:
        document = json.loads(body)
    except ValueError:
        raise ApiError(400, "body is not JSON") from None
    top = _object(document, "body", {"request_type", "callback_url", "provider", "input"})
    if top.get("provider", "auto") not in ROUTES:
        raise ApiError(400, f"provider must be one of {', '.join(ROUTES)}")
    callback_url = _callback_url(top)
    fields = _object(top.get("input"), "input", {"mode", "prompt", "image_urls", "duration"})
    mode = fields.get("mode")
    if mode not in SHORT_SIDES:
        raise ApiError(400, f"input.mode {mode!r} is not supported")
    prompt, image_url = _prompt(fields), _image_url(fields)
    seconds = PRO_SECONDS if mode == PRO else _seconds(fields)
    return SubmitRequest(mode, prompt, image_url, fields.get("duration"), seconds, callback_url)


def _object(value: Any, name: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError(400, f"{name} must be an object")
    unknown = sorted(set(value) - known)
    if unknown:
        raise ApiError(400, f"{name} has unknown fields: {', '.join(unknown)}")
    return value


def _callback_url(top: dict[str, Any]) -> str | None:
    kind = top.get("request_type", "async")
    if kind not in ("async", "callback"):
        raise ApiError(400, f"request_type {kind!r} is neither async nor callback")
    if kind == "async":
        if "callback_url" in top:
            raise ApiError(400, "callback_url goes only with request_type callback")
        return None
    url: Any = top.get("callback_url")
    if not _is_url(url) or not (url.startswith("https:") or urlsplit(url).hostname in LOOPBACK):
        raise ApiError(400, "callback_url must be an https URL")
    return str(url)


def _is_url(value: Any) -> bool:
    if not isinstance(value, str) or value != value.strip():
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _prompt(fields: dict[str, Any]) -> str:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ApiError(400, "input.prompt is missing")
    if len(prompt) > PROMPT_MAX_CHARS:
        raise ApiError(400, f"input.prompt has {len(prompt)} characters, at most {PROMPT_MAX_CHARS}")
    return prompt


def _image_url(fields: dict[str, Any]) -> str:
    urls = fields.get("image_urls")
    if not isinstance(urls, list) or len(urls) != 1:
        raise ApiError(400, "input.image_urls must hold exactly one URL")
    if not _is_url(urls[0]):
        raise ApiError(400, "input.image_urls[0] is not an http(s) URL")
    return str(urls[0])


def _seconds(fields: dict[str, Any]) -> int:
    duration: Any = fields.get("duration")
    if type(duration) not in (int, str) or str(duration) not in ("6", "10"):
        raise ApiError(400, "input.duration must be 6 or 10")
    return int(duration)
