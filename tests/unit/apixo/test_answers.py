"""Answers of the provider: Retry-After, envelopes and redaction."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from i2v.apixo.answers import Answer, redact, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30),
        (" 0 ", 0),
        ("1.5", 1.5),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("inf", None),
        ("nan", None),
        ("1e3", None),
        ("٣", None),
        ("9" * 400, None),
        ("Fri, 99 Jan 2026 03:05:05 GMT", None),
        ("Fri, 02 Jan 99999 03:05:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """Numbers and HTTP dates give seconds from now, at least 0; an absent or invalid header gives None."""
    assert retry_after(header, NOW) == seconds


def test_decimals_are_exact() -> None:
    """A number in an answer keeps its digits."""
    envelope = Answer("GET /x", 200, b'{"code": 200, "message": "success", "data": 0.1}').envelope
    assert envelope is not None
    assert envelope.data == Decimal("0.1")


@pytest.mark.parametrize("body", [b'{"data": NaN}', b'{"data": 1e99999999999999999999}', b"", b"\x00", b'"x"', b"{"])
def test_only_a_json_object_has_an_envelope(body: bytes) -> None:
    """A body that is not a JSON object gives no envelope and no exception."""
    assert Answer("GET /x", 200, body).envelope is None


def test_a_short_secret_is_not_replaced() -> None:
    """A key of fewer than four characters is not searched for."""
    assert redact("a bad day", "a") == "a bad day"


def test_the_repr_has_neither_headers_nor_key() -> None:
    """An answer in a log shows no secret."""
    answer = Answer("GET /x", 200, b"", {"set-cookie": "session=1"}, "sk-secret")
    assert "session" not in repr(answer)
    assert "sk-secret" not in repr(answer)
