"""Who may look at the gallery: what the cookie proves, and what guessing costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from doors.gallery.access import (
    COOKIE,
    COOKIE_SECONDS,
    MAX_CLIENTS,
    MAX_FAILED_LOGINS,
    FailedLoginLimiter,
    GalleryAccess,
)

TOKEN = "a-token-of-the-test-ü"


class Clock:
    """Goes on when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def _request(client: str = "10.0.0.1", **headers: str) -> Request:
    raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw, "client": (client, 1)})


def _cookie_of(guard: GalleryAccess, **headers: str) -> tuple[str, str]:
    """The cookie's value, and the whole header."""
    header = guard.let_in(_request(**headers), Response()).headers["set-cookie"]
    return header.partition(";")[0].partition("=")[2], header


def test_a_cookie_of_ours_opens_until_it_ends() -> None:
    """Twelve hours, at every door with the same token, and then no more."""
    clock = Clock()
    value, _ = _cookie_of(GalleryAccess(SecretStr(TOKEN), clock))
    other_door = GalleryAccess(SecretStr(TOKEN), clock)
    assert other_door.admits(_request(Cookie=f"{COOKIE}={value}"))

    clock.now += COOKIE_SECONDS - 1
    assert other_door.knows_cookie(value)
    clock.now += 1
    assert not other_door.knows_cookie(value)


def test_a_cookie_holds_no_token_and_is_the_browsers_alone() -> None:
    """Scripts and other sites never see it, and where https is spoken it never goes without."""
    _, header = _cookie_of(GalleryAccess(SecretStr(TOKEN)))
    assert TOKEN not in header
    assert {"HttpOnly", "Path=/gallery", "SameSite=strict"} <= set(header.split("; "))
    assert "Secure" not in header

    _, behind_proxy = _cookie_of(GalleryAccess(SecretStr(TOKEN)), X_Forwarded_Proto="https")
    assert "Secure" in behind_proxy


def test_another_token_ends_all_logins() -> None:
    """What was signed under the old token is worth nothing under the new one."""
    value, _ = _cookie_of(GalleryAccess(SecretStr(TOKEN)))
    assert not GalleryAccess(SecretStr("another")).knows_cookie(value)


def test_a_longer_life_cannot_be_written_into_a_cookie() -> None:
    """The end is part of what is signed."""
    guard = GalleryAccess(SecretStr(TOKEN))
    end, _, signature = _cookie_of(guard)[0].partition(".")
    assert guard.knows_cookie(f"{end}.{signature}")
    assert not guard.knows_cookie(f"{int(end) + 1}.{signature}")
    assert not guard.knows_cookie(f"0{end}.{signature}")


@given(st.text() | st.from_regex(r"\d{1,20}\.[0-9a-f]{64}"))
def test_nothing_made_up_is_a_cookie(value: str) -> None:
    """Whatever stands in a cookie, it opens nothing and breaks nothing."""
    assert not GalleryAccess(SecretStr(TOKEN)).knows_cookie(value)


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, ""])
def test_only_the_token_itself_is_a_bearer(header: str) -> None:
    """No other scheme and no other word opens."""
    assert not GalleryAccess(SecretStr(TOKEN)).admits(_request(Authorization=header))
    assert GalleryAccess(SecretStr(TOKEN)).admits(_request(Authorization=f"bearer {TOKEN}"))


def test_who_guesses_has_to_wait() -> None:
    """After ten wrong tokens in a minute even the right one waits; others do not, nor does who is logged in."""
    guard, clock = GalleryAccess(SecretStr(TOKEN)), Clock()
    guard.wrong = FailedLoginLimiter(clock)
    cookie, _ = _cookie_of(guard)
    for _ in range(MAX_FAILED_LOGINS):
        assert not guard.tries(_request(), b"guess")

    assert not guard.tries(_request(), TOKEN.encode())
    assert guard.tries(_request("10.0.0.2"), TOKEN.encode())
    assert guard.admits(_request(Cookie=f"{COOKIE}={cookie}"))
    clock.now += 60
    assert guard.tries(_request(), TOKEN.encode())


def test_guessing_from_everywhere_takes_no_memory() -> None:
    """However many clients guess, a fixed number is remembered, the latest ones."""
    wrong = FailedLoginLimiter(Clock())
    for number in range(MAX_CLIENTS * 3):
        for _ in range(MAX_FAILED_LOGINS):
            wrong.add(str(number))
    assert len(wrong) == MAX_CLIENTS
    assert wrong.are_too_many(str(MAX_CLIENTS * 3 - 1))
