"""The emulator's account and its rate limit."""

import time
from collections import deque
from dataclasses import dataclass
from decimal import Decimal

from sandbox.provider.contract import ApiError


@dataclass
class Account:
    """A balance. Use it only on the emulator's event loop, so that check and charge are one step."""

    balance_usd: Decimal
    billed_usd: Decimal = Decimal(0)

    def charge(self, price_usd: Decimal) -> None:
        """Charge a price. Raise `ApiError` 402 if the balance is too low."""
        if self.balance_usd < price_usd:
            raise ApiError(402, f"balance {self.balance_usd} USD is below the price of {price_usd} USD")
        self.balance_usd -= price_usd
        self.billed_usd += price_usd

    def refund(self, price_usd: Decimal) -> None:
        """Refund a price."""
        self.balance_usd += price_usd
        self.billed_usd -= price_usd


class RateLimit:
    """Counts the submits of the last second."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def admit(self, limit: float | None, retry_after: float | None) -> None:
        """Count one submit. Raise `ApiError` 429 if there are already `limit` within the last second."""
        if limit is None:
            return
        now = time.monotonic()
        while self._times and self._times[0] <= now - 1:
            self._times.popleft()
        if len(self._times) >= limit:
            raise ApiError(429, "rate limit reached", retry_after)
        self._times.append(now)
