"""What a video costs: one table, from docs/provider.md (standard $0.032 a second, pro $0.33 a task).

`I2V_PRICES_USD` overrides a price by its name here. Budgets and caps are elsewhere.
"""

from collections.abc import Mapping
from decimal import Decimal

from i2v.request import Mode

STANDARD_USD_PER_SECOND = Decimal("0.032")
PRO_USD = Decimal("0.33")
PRO_SECONDS = 6

PRICES_USD = {
    "standard-6": 6 * STANDARD_USD_PER_SECOND,
    "standard-10": 10 * STANDARD_USD_PER_SECOND,
    "pro-6": PRO_USD,
}


def price_usd(mode: Mode, duration: int, overrides: Mapping[str, Decimal]) -> Decimal:
    """Return the US dollars of one attempt; pro always has 6 s. Raise ValueError for other durations."""
    seconds = PRO_SECONDS if mode is Mode.PRO else duration
    listed = PRICES_USD.get(f"{mode}-{seconds}")
    if listed is None:
        raise ValueError(f"the provider offers no {mode} video of {duration} s, only {', '.join(PRICES_USD)}")
    return overrides.get(f"{mode}-{seconds}", listed)
