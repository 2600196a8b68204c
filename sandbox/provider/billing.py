"""The emulator's account."""

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
