"""An HTTP answer of the provider: `Answer`, its `Envelope`, and `redact` for text that is logged or shown.

What an answer means for the money is in `errors`, the contract in `models`.
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

REDACTED_CHARS = 300
REDACTED_BODY_CHARS = 1000
TASK_ID_CHARS = 4096
"""As JSON text. Known task ids have under 40 characters; 100 of this length fit into a flow run's parameters."""
BODY_START_CHARS = 1 << 14
MIN_SECRET_CHARS = 4

_QUERY = re.compile(r"(\bhttps?:/+[^\s\"'<>?#]+)[?#][^\s\"'<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"(\bhttps?://)[^\s/\"'<>@]+@", re.IGNORECASE)
_SIGNATURE = re.compile(
    r"((?:X-Amz-[A-Za-z-]+|Signature|AWSAccessKeyId|Key-Pair-Id|Policy)(?:=|%3D))[^&\s\"'<>]+", re.IGNORECASE
)
_ESCAPED_SLASH = re.compile(r"\\+/")
"""JSON may escape a slash, even in a URL."""
_BEARER = re.compile(r"(\bBearer\s+)\S+", re.IGNORECASE)


def redact(text: str, secret: str = "", limit: int = REDACTED_CHARS) -> str:
    """Return the provider's text as one line of at most `limit` characters, without the key and URL queries."""
    text = _ESCAPED_SLASH.sub("/", text)
    if len(secret) >= MIN_SECRET_CHARS:
        text = text.replace(secret, "…")
    for pattern, replacement in ((_USERINFO, r"\1"), (_QUERY, r"\1?…"), (_SIGNATURE, r"\1…"), (_BEARER, r"\1…")):
        text = pattern.sub(replacement, text)
    text = "".join(" " if unicodedata.category(char).startswith(("C", "Z")) else char for char in text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a Retry-After header (a number or an HTTP date), or None if it is absent or invalid."""
    text = (header or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def text_field(data: Any, name: str) -> str:
    """Return a string field of a JSON object, or an empty string if there is no such object, field or string."""
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


def read_task_id(value: object) -> str:
    """Return a `taskId` as text, or an empty string if it cannot be one.

    It is opaque: any printable text of at most 4,096 characters, or a positive integer, as its decimal text.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        value = str(value)
    return value if isinstance(value, str) and is_task_id(value) else ""


def is_task_id(text: str) -> bool:
    """Return whether a text can be a task id: printable, not blank, at most 4,096 characters as JSON text."""
    return bool(text.strip()) and text.isprintable() and len(json.dumps(text)) - len('""') <= TASK_ID_CHARS


@dataclass(frozen=True)
class Envelope:
    """The provider's `{"code": …, "message": …, "data": …}`; a field of the wrong type is None."""

    code: int | None
    message: str | None
    data: Any
    fail_code: str = ""
    """The fail code, in `data` or next to it; empty if there is none."""

    @property
    def is_complete(self) -> bool:
        """Whether both code and message are there."""
        return self.code is not None and self.message is not None

    @property
    def task_id(self) -> str:
        """The task id, or an empty string if there is no usable one."""
        return read_task_id(self.data.get("taskId")) if isinstance(self.data, dict) else ""

    @property
    def text(self) -> str:
        """The message, `failMsg` and `error`, without repetitions."""
        texts = (self.message, text_field(self.data, "failMsg"), text_field(self.data, "error"))
        return ": ".join(dict.fromkeys(text.strip().rstrip(".") for text in texts if text and text.strip()))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError, ArithmeticError):
        return None


@dataclass(frozen=True)
class Answer:
    """A complete HTTP answer. `request` is method and path; header names are in lower case, or case does not matter."""

    request: str
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)
    """The API key, which `redact` removes."""

    @cached_property
    def envelope(self) -> Envelope | None:
        """The envelope, with exact decimals; None if the body is not a JSON object."""
        document = _json(self.body)
        if not isinstance(document, dict):
            return None
        code, message = document.get("code"), document.get("message")
        return Envelope(
            code=code if isinstance(code, int) and not isinstance(code, bool) else None,
            message=message if isinstance(message, str) else None,
            data=document.get("data"),
            fail_code=text_field(document.get("data"), "failCode") or text_field(document, "failCode"),
        )

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait, if the provider sent them."""
        return retry_after(self.headers.get("retry-after"))

    def redact(self, text: str, limit: int = REDACTED_CHARS) -> str:
        """Return the text without secrets."""
        return redact(text, self.secret, limit)

    @property
    def redacted_body(self) -> str:
        """The start of the body, without secrets: up to 1,000 characters of JSON, 300 of anything else."""
        document = _json(self.body)
        if isinstance(document, dict | list):  # serialized again: escapes would hide secrets from `redact`
            text = json.dumps(document, ensure_ascii=False, default=str)
            return self.redact(text[:BODY_START_CHARS], REDACTED_BODY_CHARS)
        return self.redact(self.body[:BODY_START_CHARS].decode(errors="replace"))

    def __str__(self) -> str:
        kind = self.redact(self.headers.get("content-type", "")) or "no content type"
        return f"{self.request} returned {self.status} ({kind}, {len(self.body)} bytes)"
