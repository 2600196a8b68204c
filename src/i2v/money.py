"""Amounts of US dollars: as `Decimal`, and as text."""

from decimal import Decimal

ZERO = Decimal(0)


def money_text(amount: Decimal) -> str:
    """Return dollars with two digits, or three where the third is not zero: `0.192`, `191.81`, `5.00`."""
    if amount < 1 and amount != amount.quantize(Decimal("0.01")):
        return f"{amount.quantize(Decimal('0.001'))}"
    return f"{amount.quantize(Decimal('0.01'))}"
