"""Who may look: `GalleryAccess` knows the token, makes the cookie that stands for it, and slows down who guesses."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

COOKIE = "i2v_gallery"
COOKIE_PATH = "/gallery"
COOKIE_SECONDS = 12 * 3600
MAX_FAILED_LOGINS = 10
"""So many wrong tokens a minute are answered; then that client waits."""
LOCKOUT_SECONDS = 60.0
MAX_CLIENTS = 1000
Clock = Callable[[], float]


class FailedLoginLimiter:
    """Wrong tokens by client, of the last minute; it remembers a fixed number of clients."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._clients: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: str) -> None:
        """Note one more."""
        since, count = self._lately(client)
        self._clients[client] = (since, count + 1)
        self._clients.move_to_end(client)
        while len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)

    def are_too_many(self, client: str) -> bool:
        """Whether this client has to wait, whatever it brings."""
        return self._lately(client)[1] >= MAX_FAILED_LOGINS

    def _lately(self, client: str) -> tuple[float, int]:
        now = self._clock()
        since, count = self._clients.get(client, (now, 0))
        return (since, count) if now - since < LOCKOUT_SECONDS else (now, 0)


class GalleryAccess:
    """Holds the token. A cookie is its end and an HMAC over it: it holds at all doors that have the same token."""

    def __init__(self, token: SecretStr, clock: Clock = time.time) -> None:
        self._token = token.get_secret_value().strip().encode()
        self._key = hmac.digest(self._token, b"i2v gallery cookie 1", "sha256")
        self._clock = clock
        self.wrong = FailedLoginLimiter()

    def admits(self, request: Request) -> bool:
        """Whether the request bears a cookie of ours, or the token itself."""
        return self.knows_cookie(request.cookies.get(COOKIE, "")) or self._knows_bearer(request)

    def is_locked(self, request: Request) -> bool:
        """Whether its client guessed too often."""
        return self.wrong.are_too_many(_client(request))

    def tries(self, request: Request, token: bytes) -> bool:
        """Whether it is the token; a wrong one is remembered. The time it takes tells nothing."""
        if self.is_locked(request):
            return False
        given, ours = (hashlib.sha256(each).digest() for each in (token, self._token))
        if hmac.compare_digest(given, ours):
            return True
        self.wrong.add(_client(request))
        return False

    def _knows_bearer(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.tries(request, given.strip().encode("latin-1"))

    def knows_cookie(self, value: str) -> bool:
        """Whether it was made here and has not ended."""
        end, _, _ = value.partition(".")
        if not (end.isascii() and end.isdecimal() and len(end) < 15):  # noqa: PLR2004 - a Unix time
            return False
        is_ours = hmac.compare_digest(self._cookie(int(end)).encode(), value.encode(errors="surrogatepass"))
        return is_ours and self._clock() < int(end)

    def _cookie(self, end: int) -> str:
        return f"{end}.{hmac.digest(self._key, str(end).encode(), 'sha256').hex()}"

    def let_in(self, request: Request, response: Response) -> Response:
        """Give the browser its cookie: not for scripts, not for requests from elsewhere, over https only there."""
        value = self._cookie(int(self._clock()) + COOKIE_SECONDS)
        response.set_cookie(
            COOKIE,
            value,
            max_age=COOKIE_SECONDS,
            path=COOKIE_PATH,
            secure=_is_https(request),
            httponly=True,
            samesite="strict",
        )
        return response

    def let_out(self, request: Request, response: Response) -> Response:
        """Take the cookie away."""
        response.delete_cookie(COOKIE, path=COOKIE_PATH, secure=_is_https(request), httponly=True, samesite="strict")
        return response


def _is_https(request: Request) -> bool:
    """As the browser sees it, through a proxy too."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return "https" in {request.url.scheme, forwarded}


def _client(request: Request) -> str:
    return request.client.host if request.client else ""
