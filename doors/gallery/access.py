"""Who may see the gallery: `GalleryAccess` checks the token and the login cookie."""

import hmac
import re
import time
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from doors.http.tokens import TokenCheck

COOKIE = "i2v_gallery"
COOKIE_PATH = "/gallery"
COOKIE_SECONDS = 12 * 3600


class GalleryAccess:
    """Check tokens and cookies. A cookie is its expiry time and an HMAC of it, valid at every door with this token."""

    def __init__(self, token: SecretStr, clock: Callable[[], float] = time.time) -> None:
        self.tokens = TokenCheck(token)
        self._key = hmac.digest(token.get_secret_value().encode(), b"i2v gallery cookie 1", "sha256")
        self._clock = clock

    async def allows(self, request: Request) -> bool:
        """Return whether the request carries a valid cookie or the token."""
        return self.is_valid_cookie(request.cookies.get(COOKIE, "")) or await self.tokens.check_bearer(request)

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
