"""`PeriodicRead`: read values for gauges in the background, because a scrape must never wait for S3, SQS or Prefect."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Gauge

from i2v.errors import I2vError

log = logging.getLogger(__name__)
REFRESH_SECONDS = 60.0
READ_TIMEOUT_SECONDS = 120.0


class PeriodicRead:
    """Reads from one source, such as `ledger`, at most once a minute; `i2v_<source>_age_seconds` says how long ago."""

    def __init__(self, source: str, read: Callable[[], Awaitable[None]], registry: CollectorRegistry) -> None:
        self._source = source
        self._read_values = read
        self._read_at = self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        text = f"Seconds since the last successful read of the {source}"
        age = Gauge(f"i2v_{source}_age_seconds", text, registry=registry)
        age.set_function(lambda: time.monotonic() - self._read_at)

    def refresh(self) -> None:
        """Start reading if that is due; return at once."""
        is_reading = self._reading is not None and not self._reading.done()
        if not is_reading and time.monotonic() - self._tried_at >= REFRESH_SECONDS:
            self._tried_at = time.monotonic()
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                await self._read_values()
        except Exception as error:  # noqa: BLE001 - whatever fails, the door and its other metrics go on
            text = error if isinstance(error, I2vError) else type(error).__name__
            log.warning("Cannot read the %s; its gauges keep their last values: %s", self._source, text)
        else:
            self._read_at = time.monotonic()
