"""The emulator's account: what is on it, and the two limits on how fast it may be used."""

from __future__ import annotations

import time
from collections import deque
from decimal import Decimal

from sandbox.provider.contract import ApiError


class Account:
    """One account. It is only touched on the emulator's own loop, so nothing can come between look and leap."""

    def __init__(self, balance_usd: Decimal) -> None:
        self.balance_usd = balance_usd
        self.billed_usd = Decimal(0)

    def charge(self, price_usd: Decimal) -> None:
        """Take the price.

        Raises:
            Refusal: 402, there is less on the account.
        """
        if self.balance_usd < price_usd:
            raise ApiError(402, f"balance {self.balance_usd} USD is below the price of {price_usd} USD")
        self.balance_usd -= price_usd
        self.billed_usd += price_usd

    def refund(self, price_usd: Decimal) -> None:
        """Give a price back."""
        self.balance_usd += price_usd
        self.billed_usd -= price_usd


class RateLimit:
    """Counts submits over the last second."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def admit(self, limit: float | None, retry_after: float | None) -> None:
        """Let one more pass.

        Raises:
            Refusal: 429, the second is full.
        """
        if limit is None:
            return
        now = time.monotonic()
        while self._times and self._times[0] <= now - 1:
            self._times.popleft()
        if len(self._times) >= limit:
            raise ApiError(429, "rate limit reached", retry_after)
        self._times.append(now)
