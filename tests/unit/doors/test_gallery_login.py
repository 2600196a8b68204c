"""Access to the gallery: what the login cookie proves, and which tokens are accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from doors.gallery.access import COOKIE, COOKIE_SECONDS, GalleryAccess

TOKEN = "a-token-of-the-test"


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


async def test_a_cookie_is_valid_until_it_expires() -> None:
    """A cookie is valid for twelve hours at every door with the same token, and then no longer."""
    clock = Clock()
    value, _ = _cookie_of(GalleryAccess(SecretStr(TOKEN), clock))
    other_door = GalleryAccess(SecretStr(TOKEN), clock)
    assert await other_door.allows(_request(Cookie=f"{COOKIE}={value}"))

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
async def test_only_the_token_is_accepted_as_bearer(header: str) -> None:
    """Another scheme or another token grants no access."""
    assert not await GalleryAccess(SecretStr(TOKEN)).allows(_request(Authorization=header))
    assert await GalleryAccess(SecretStr(TOKEN)).allows(_request(Authorization=f"bearer {TOKEN}"))
