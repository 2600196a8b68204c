"""Keeps the HTTP libraries from logging addresses, whose queries are signatures."""

from __future__ import annotations

import logging


def quiet_http_logs() -> None:
    """Let httpx and httpcore log warnings only: at INFO they log every URL whole, at DEBUG every header."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
