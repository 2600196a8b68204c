"""The pause flag of a ledger, as a run that submits all the time reads it: `PauseFlag`."""

import asyncio
import time

from i2v.ledger.ledger import Ledger

RECHECK_SECONDS = 5.0
"""A pause stops submits within 10 s: this, and the time of one request."""


class PauseFlag:
    """Reads the flag at most every `RECHECK_SECONDS`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")

    async def check(self) -> None:
        """Raise `Paused` if a person has paused all submits, `StorageError` if that cannot be read."""
        async with self._lock:
            if time.monotonic() - self._read_at < RECHECK_SECONDS:
                return
            started = time.monotonic()
            await self._ledger.raise_if_paused()
            self._read_at = started
