"""Who may see the gallery: `GalleryAccess` checks the token and the login cookie, and locks out guessing clients."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import Any

from cachetools import TTLCache
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

COOKIE = "i2v_gallery"
COOKIE_PATH = "/gallery"
COOKIE_SECONDS = 12 * 3600
MAX_FAILED_LOGINS = 10
"""Per client and `LOCKOUT_SECONDS`."""
LOCKOUT_SECONDS = 60.0
MAX_CLIENTS = 1000


class GalleryAccess:
    """Check tokens and cookies. A cookie is its expiry time and an HMAC of it, valid at every door with this token."""

    def __init__(self, token: SecretStr, clock: Callable[[], float] = time.time) -> None:
        self._token = token.get_secret_value().strip().encode()
        self._key = hmac.digest(self._token, b"i2v gallery cookie 1", "sha256")
        self._clock = clock
        self.failed_logins: TTLCache[str, list[float]] = TTLCache(MAX_CLIENTS, LOCKOUT_SECONDS)
        """Times by client, forgotten `LOCKOUT_SECONDS` after the first."""

    def allows(self, request: Request) -> bool:
        """Return whether the request carries a valid cookie or the token."""
        return self.is_valid_cookie(request.cookies.get(COOKIE, "")) or self._has_bearer_token(request)

    def is_locked_out(self, request: Request) -> bool:
        """Return whether the client has sent too many wrong tokens."""
        return len(self.failed_logins.get(_client(request), ())) >= MAX_FAILED_LOGINS

    def check_token(self, request: Request, token: bytes) -> bool:
        """Return whether the token is right, in constant time; count a wrong one."""
        if self.is_locked_out(request):
            return False
        given, expected = (hashlib.sha256(each).digest() for each in (token, self._token))
        if hmac.compare_digest(given, expected):
            return True
        self.failed_logins.setdefault(_client(request), []).append(self._clock())
        return False

    def _has_bearer_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.check_token(request, given.strip().encode("latin-1"))

    def is_valid_cookie(self, value: str) -> bool:
        """Return whether the cookie is ours and has not expired."""
        expires = value.partition(".")[0]
        if not re.fullmatch("[0-9]{1,14}", expires):
            return False
        is_signed = hmac.compare_digest(self._cookie(int(expires)).encode(), value.encode(errors="surrogatepass"))
        return is_signed and self._clock() < int(expires)

    def _cookie(self, expires: int) -> str:
        return f"{expires}.{hmac.digest(self._key, str(expires).encode(), 'sha256').hex()}"

    def log_in(self, request: Request, response: Response) -> Response:
        """Set the login cookie: not readable by scripts, same-site only, and https-only if the request is https."""
        value = self._cookie(int(self._clock()) + COOKIE_SECONDS)
        response.set_cookie(COOKIE, value, COOKIE_SECONDS, **_cookie_attributes(request))
        return response

    def log_out(self, request: Request, response: Response) -> Response:
        """Delete the login cookie."""
        response.delete_cookie(COOKIE, **_cookie_attributes(request))
        return response


def _cookie_attributes(request: Request) -> dict[str, Any]:
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    is_https = "https" in {request.url.scheme, forwarded}  # directly or through a proxy
    return {"path": COOKIE_PATH, "secure": is_https, "httponly": True, "samesite": "strict"}


def _client(request: Request) -> str:
    return request.client.host if request.client else ""
