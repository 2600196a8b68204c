"""Amounts of US dollars: as `Decimal`, as text, and as `Charges`: what was charged, and what was possibly charged."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

ZERO = Decimal(0)


def money_text(amount: Decimal) -> str:
    """Return dollars with two digits, or three where the third is not zero: `0.192`, `191.81`, `5.00`."""
    if amount < 1 and amount != amount.quantize(Decimal("0.01")):
        return f"{amount.quantize(Decimal('0.001'))}"
    return f"{amount.quantize(Decimal('0.01'))}"


@dataclass(frozen=True, slots=True)
class Charges:
    """What was charged, and what was possibly charged because the answer to a submit is unknown."""

    charged: Decimal = ZERO
    possibly: Decimal = ZERO

    @property
    def total(self) -> Decimal:
        """Both: the most that was spent."""
        return self.charged + self.possibly

    def __add__(self, other: Self) -> Self:
        return type(self)(self.charged + other.charged, self.possibly + other.possibly)

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.charged - other.charged, self.possibly - other.possibly)

    def __bool__(self) -> bool:
        return self != Charges()

    def __str__(self) -> str:
        """Return e.g. `$0.96`, or `$0.96 charged, $0.192 possibly charged`."""
        if not self.possibly:
            return f"${money_text(self.charged)}"
        possibly = f"${money_text(self.possibly)} possibly charged"
        return f"${money_text(self.charged)} charged, {possibly}" if self.charged else possibly


def sum_charges(charges: Iterable[Charges]) -> Charges:
    """Return their sum."""
    return sum(charges, Charges())
