"""`TokenCheck`: compare a token in constant time, and slow down clients that send wrong ones."""

import asyncio
import hashlib
import hmac

from cachetools import TTLCache
from pydantic import SecretStr
from starlette.requests import Request

FREE_TRIES = 10
"""Wrong tokens of a client that are answered at once, until it has sent none for `MEMORY_SECONDS`."""
MEMORY_SECONDS = 60.0
MAX_CLIENTS = 1000
WRONG_TRY_SECONDS = 1.0


class TokenCheck:
    """Checks one token. The right one is always accepted at once: others may share the address of a guessing client."""

    def __init__(self, token: SecretStr) -> None:
        self._digest = _digest(token.get_secret_value())
        self.wrong_tries: TTLCache[str, int] = TTLCache(MAX_CLIENTS, MEMORY_SECONDS)

    def is_slowed_down(self, request: Request) -> bool:
        """Return whether the client has sent too many wrong tokens."""
        return self.wrong_tries.get(_client(request), 0) >= FREE_TRIES

    async def check(self, request: Request, token: str) -> bool:
        """Return whether the token is right; count a wrong one, and answer it late after too many of them."""
        if hmac.compare_digest(_digest(token), self._digest):
            return True
        if self.is_slowed_down(request):
            await asyncio.sleep(WRONG_TRY_SECONDS)
        self.wrong_tries[_client(request)] = self.wrong_tries.get(_client(request), 0) + 1
        return False

    async def check_bearer(self, request: Request) -> bool:
        """Return whether the request's `Authorization` header has the token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and await self.check(request, token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.strip().encode(errors="surrogatepass")).digest()


def _client(request: Request) -> str:
    return request.client.host if request.client else ""
