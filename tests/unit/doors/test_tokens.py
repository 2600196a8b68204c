"""Tokens: what is accepted, and who waits after wrong ones."""

from types import SimpleNamespace

import pytest
from cachetools import TTLCache
from pydantic import SecretStr
from starlette.requests import Request

from doors.http import tokens
from doors.http.tokens import FREE_TRIES, MAX_CLIENTS, MEMORY_SECONDS, WRONG_TRY_SECONDS, TokenCheck

TOKEN = "a-token-of-the-test"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits instead of waiting."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(tokens, "asyncio", SimpleNamespace(sleep=wait))  # servers in other threads sleep too
    return waited


def _request(client: str = "10.0.0.1") -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "headers": [], "client": (client, 1)})


async def test_wrong_tries_slow_down_the_client_that_makes_them(waits: list[float]) -> None:
    """After ten wrong tokens each further one is answered late; the right one never is, also from the same address."""
    now = 0.0
    check = TokenCheck(SecretStr(TOKEN))
    check.wrong_tries = TTLCache(MAX_CLIENTS, MEMORY_SECONDS, timer=lambda: now)
    for _ in range(FREE_TRIES):
        assert not await check.check(_request(), "guess")
    assert waits == []

    assert not await check.check(_request(), "guess")
    assert waits == [WRONG_TRY_SECONDS]
    assert check.is_slowed_down(_request())
    assert await check.check(_request(), TOKEN)
    assert not await check.check(_request("10.0.0.2"), "guess")
    now += MEMORY_SECONDS
    assert not await check.check(_request(), "guess")
    assert waits == [WRONG_TRY_SECONDS]


async def test_guessing_from_many_clients_takes_bounded_memory(waits: list[float]) -> None:
    """However many clients guess, only a fixed number of the latest ones is remembered."""
    check = TokenCheck(SecretStr(TOKEN))
    for number in range(MAX_CLIENTS * 3):
        assert not await check.check(_request(str(number)), "\ud800")
    assert len(check.wrong_tries) == MAX_CLIENTS
