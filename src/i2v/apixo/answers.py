"""What came over the wire: `Answer`, the vendor's `Envelope` in it, and how its words may be shown.

Nothing here judges: what an answer means for the money is in `errors`, what a task's status says in `models`.
"""

from __future__ import annotations

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

SHOWN_CHARS = 300
TASK_ID_CHARS = 256
"""Task ids seen have under 40 characters; a longer one would not fit names and URLs."""
SECRET_LEAST_CHARS = 4

_QUERY = re.compile(r"(\bhttps?:/+[^\s\"'<>?#]+)[?#][^\s\"'<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"(\bhttps?://)[^\s/\"'<>@]+@", re.IGNORECASE)
_SIGNATURE = re.compile(
    r"((?:X-Amz-[A-Za-z-]+|Signature|AWSAccessKeyId|Key-Pair-Id|Policy)(?:=|%3D))[^&\s\"'<>]+", re.IGNORECASE
)
_BEARER = re.compile(r"(\bBearer\s+)\S+", re.IGNORECASE)


def shown(text: str, secret: str = "") -> str:
    """The vendor's words as they may be shown: one line, at most 300 characters, no key, no URL's query."""
    if len(secret) >= SECRET_LEAST_CHARS:
        text = text.replace(secret, "…")
    for pattern, kept in ((_USERINFO, r"\1"), (_QUERY, r"\1?…"), (_SIGNATURE, r"\1…"), (_BEARER, r"\1…")):
        text = pattern.sub(kept, text)
    text = "".join(" " if unicodedata.category(char).startswith(("C", "Z")) else char for char in text)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait: a number or an HTTP date; None if absent or nonsense."""
    text = (header or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def word(data: Any, name: str) -> str:
    """The text of that name in a JSON object; empty where there is no such object, name or text."""
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Envelope:
    """The vendor's `{"code": …, "message": …, "data": …}`, as far as it is one."""

    code: int | None
    message: str | None
    data: Any
    fail_code: str = ""
    """The vendor's fail code, in `data` or beside it; empty if there is none."""

    @property
    def whole(self) -> bool:
        """Whether these are the vendor's own words: a number and a message."""
        return self.code is not None and self.message is not None

    @property
    def task_id(self) -> str:
        """The task id, whatever else is beside it; empty if there is none that can be used."""
        task_id = word(self.data, "taskId")
        return task_id if task_id.strip() and task_id.isprintable() and len(task_id) <= TASK_ID_CHARS else ""

    @property
    def told(self) -> str:
        """All that the vendor says in words: message, `failMsg` and `error`, each once."""
        said = (self.message, word(self.data, "failMsg"), word(self.data, "error"))
        return ": ".join(dict.fromkeys(text.strip().rstrip(".") for text in said if text and text.strip()))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError, ArithmeticError):
        return None


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end.

    Args:
        request: method and path, such as `GET /apikeys/current-balance`.
        status: the HTTP status.
        body: the bytes as they came.
        headers: with names in lower case, or a mapping that does not care.
        secret: the API key, so that it is never shown.
    """

    request: str
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)

    @cached_property
    def envelope(self) -> Envelope | None:
        """The vendor's envelope; None where the body is no JSON object. Its decimals are exact."""
        found = _json(self.body)
        if not isinstance(found, dict):
            return None
        code, message = found.get("code"), found.get("message")
        return Envelope(
            code=code if isinstance(code, int) and not isinstance(code, bool) else None,
            message=message if isinstance(message, str) else None,
            data=found.get("data"),
            fail_code=word(found.get("data"), "failCode") or word(found, "failCode"),
        )

    @property
    def retry_after(self) -> float | None:
        """Seconds that the provider asks to wait, if it does."""
        return retry_after(self.headers.get("retry-after"))

    def shown(self, text: str) -> str:
        """The text as it may be shown."""
        return shown(text, self.secret)

    def __str__(self) -> str:
        kind = self.shown(self.headers.get("content-type", "")) or "no content type"
        return f"{self.request} answered {self.status} ({kind}, {len(self.body)} bytes)"
