"""Prices of videos, and their overrides."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from i2v.errors import UsageError
from i2v.pricing import price_usd
from i2v.request import Mode
from i2v.settings import Settings, read_settings


@pytest.mark.parametrize(
    ("mode", "duration", "usd"),
    [(Mode.STANDARD, 6, "0.192"), (Mode.STANDARD, 10, "0.320"), (Mode.PRO, 6, "0.33"), (Mode.PRO, 10, "0.33")],
)
def test_prices_are_the_providers(mode: Mode, duration: int, usd: str, make_settings: Callable[..., Settings]) -> None:
    """Standard costs $0.032 per second (10 s: $0.320), pro $0.33 per task."""
    assert price_usd(mode, duration, make_settings().prices_usd) == Decimal(usd)


def test_an_unknown_duration_has_no_price(make_settings: Callable[..., Settings]) -> None:
    """A duration that the provider does not offer is a ValueError."""
    with pytest.raises(ValueError, match="offers no standard video of 7 s"):
        price_usd(Mode.STANDARD, 7, make_settings().prices_usd)


@pytest.mark.parametrize("price", ['"0.2"', "0.2"])
def test_a_setting_overrides_a_price(price: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An override applies to its name only, and is exact."""
    monkeypatch.setenv("I2V_PRICES_USD", f'{{"standard-6": {price}}}')
    settings = read_settings()
    assert price_usd(Mode.STANDARD, 6, settings.prices_usd) == Decimal("0.2")
    assert price_usd(Mode.PRO, 6, settings.prices_usd) == Decimal("0.33")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"standard-7": "1"}', "standard-6, standard-10, pro-6"),
        ('{"pro-6": "-1"}', "pro-6"),
        ('{"pro-6": "NaN"}', "pro-6"),
        ('{"pro-6": "Infinity"}', "pro-6"),
        ('{"pro-6": "cheap"}', "pro-6"),
        ("0.2", "not a JSON object"),
        ("cheap", "not valid JSON"),
    ],
)
def test_an_invalid_price_is_refused(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, a negative or non-numeric price or invalid JSON is a UsageError that says so."""
    monkeypatch.setenv("I2V_PRICES_USD", text)
    with pytest.raises(UsageError, match="I2V_PRICES_USD") as caught:
        read_settings()
    assert reason in str(caught.value)
