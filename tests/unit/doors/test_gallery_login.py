"""Access to the gallery: what the login cookie proves, and how guessing is slowed down."""

from __future__ import annotations

import pytest
from cachetools import TTLCache
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from doors.gallery.access import (
    COOKIE,
    COOKIE_SECONDS,
    LOCKOUT_SECONDS,
    MAX_CLIENTS,
    MAX_FAILED_LOGINS,
    GalleryAccess,
)

TOKEN = "a-token-of-the-test-ü"


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def _request(client: str = "10.0.0.1", **headers: str) -> Request:
    raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw, "client": (client, 1)})


def _cookie_of(access: GalleryAccess, **headers: str) -> tuple[str, str]:
    """Return the cookie's value and the whole header."""
    header = access.log_in(_request(**headers), Response()).headers["set-cookie"]
    return header.partition(";")[0].partition("=")[2], header


def test_a_cookie_is_valid_until_it_expires() -> None:
    """A cookie is valid for twelve hours at every door with the same token, and then no longer."""
    clock = Clock()
    value, _ = _cookie_of(GalleryAccess(SecretStr(TOKEN), clock))
    other_door = GalleryAccess(SecretStr(TOKEN), clock)
    assert other_door.allows(_request(Cookie=f"{COOKIE}={value}"))

    clock.now += COOKIE_SECONDS - 1
    assert other_door.is_valid_cookie(value)
    clock.now += 1
    assert not other_door.is_valid_cookie(value)


def test_a_cookie_has_no_token_and_strict_attributes() -> None:
    """The cookie is hidden from scripts and other sites, and sent over https alone if the login used https."""
    _, header = _cookie_of(GalleryAccess(SecretStr(TOKEN)))
    assert TOKEN not in header
    assert {"HttpOnly", "Path=/gallery", "SameSite=strict"} <= set(header.split("; "))
    assert "Secure" not in header

    _, behind_proxy = _cookie_of(GalleryAccess(SecretStr(TOKEN)), X_Forwarded_Proto="https")
    assert "Secure" in behind_proxy


def test_a_new_token_ends_all_logins() -> None:
    """A cookie signed with the old token is invalid under a new token."""
    value, _ = _cookie_of(GalleryAccess(SecretStr(TOKEN)))
    assert not GalleryAccess(SecretStr("another")).is_valid_cookie(value)


def test_the_expiry_of_a_cookie_cannot_be_changed() -> None:
    """The signature covers the expiry time."""
    access = GalleryAccess(SecretStr(TOKEN))
    expires, _, signature = _cookie_of(access)[0].partition(".")
    assert access.is_valid_cookie(f"{expires}.{signature}")
    assert not access.is_valid_cookie(f"{int(expires) + 1}.{signature}")
    assert not access.is_valid_cookie(f"0{expires}.{signature}")


@given(st.text() | st.from_regex(r"\d{1,20}\.[0-9a-f]{64}"))
def test_a_made_up_cookie_is_invalid(value: str) -> None:
    """An arbitrary cookie value grants no access and raises no error."""
    assert not GalleryAccess(SecretStr(TOKEN)).is_valid_cookie(value)


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, ""])
def test_only_the_token_is_accepted_as_bearer(header: str) -> None:
    """Another scheme or another token grants no access."""
    assert not GalleryAccess(SecretStr(TOKEN)).allows(_request(Authorization=header))
    assert GalleryAccess(SecretStr(TOKEN)).allows(_request(Authorization=f"bearer {TOKEN}"))


def test_a_guessing_client_is_locked_out() -> None:
    """After ten wrong tokens in a minute a client is locked out even with the right one; others and cookies are not."""
    access, clock = GalleryAccess(SecretStr(TOKEN)), Clock()
    access.failed_logins = TTLCache(MAX_CLIENTS, LOCKOUT_SECONDS, timer=clock)
    cookie, _ = _cookie_of(access)
    for _ in range(MAX_FAILED_LOGINS):
        assert not access.check_token(_request(), b"guess")

    assert not access.check_token(_request(), TOKEN.encode())
    assert access.check_token(_request("10.0.0.2"), TOKEN.encode())
    assert access.allows(_request(Cookie=f"{COOKIE}={cookie}"))
    clock.now += 60
    assert access.check_token(_request(), TOKEN.encode())


def test_guessing_from_many_clients_takes_bounded_memory() -> None:
    """However many clients guess, only a fixed number of the latest ones is remembered."""
    access = GalleryAccess(SecretStr(TOKEN))
    for number in range(MAX_CLIENTS * 3):
        for _ in range(MAX_FAILED_LOGINS):
            access.check_token(_request(str(number)), b"guess")
    assert len(access.failed_logins) == MAX_CLIENTS
    assert access.is_locked_out(_request(str(MAX_CLIENTS * 3 - 1)))
