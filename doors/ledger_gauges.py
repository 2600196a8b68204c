"""What Prometheus reads of the ledger: open and unknown jobs, and what was spent today.

A scrape never waits for S3: it gets what was read last, and starts the next reading if that is over a minute old. Of
very many open jobs the 1,000 oldest are read, which is where unknown ones gather.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Gauge

from i2v.errors import I2vError
from i2v.ledger.budget import DailySpendStore
from i2v.ledger.job import JobState
from i2v.ledger.ledger import Ledger
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
EVERY_SECONDS = 60.0
MOST_SECONDS = 120.0
MOST_MARKS = 100_000
MOST_READ = 1000
KEY_LENGTH = 64


class LedgerGauges:
    """The gauges, and the reading behind them."""

    def __init__(self, storage: Storage, settings: Settings, registry: CollectorRegistry) -> None:
        self._storage = storage
        self._settings = settings
        self._open = Gauge("i2v_jobs_open", "Jobs that have not ended", registry=registry)
        self._unknown = Gauge("i2v_jobs_unknown", "Jobs whose submit lost its answer", registry=registry)
        self._spent = Gauge("i2v_spent_today_usd", "Reserved and spent in this UTC day", registry=registry)
        age = Gauge("i2v_ledger_age_seconds", "Since the ledger was read well", registry=registry)
        age.set_function(lambda: time.monotonic() - self._read_at)
        self._read_at = self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Start reading the ledger if that is due; returns at once."""
        is_under_way = self._reading is not None and not self._reading.done()
        if not is_under_way and time.monotonic() - self._tried_at >= EVERY_SECONDS:
            self._tried_at = time.monotonic()
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await self._read_all()
        except (I2vError, TimeoutError) as error:
            log.warning("the ledger's gauges are as they were: %s", error or type(error).__name__)
        else:
            self._read_at = time.monotonic()

    async def _read_all(self) -> None:
        marks = await self._marks()
        oldest = sorted(marks, key=lambda entry: entry.last_modified)[:MOST_READ]
        keys = {entry.uri.key[-KEY_LENGTH:] for entry in oldest}
        unknown = 0
        async for held in Ledger(self._storage, self._settings).read_many(sorted(keys)):
            unknown += held.record.state is JobState.UNKNOWN
        page, _ = await DailySpendStore(self._storage, self._settings).read(datetime.now(UTC).date().isoformat())
        self._open.set(len({entry.uri.key[-KEY_LENGTH:] for entry in marks}))
        self._unknown.set(unknown)
        self._spent.set(float(page.total_usd))

    async def _marks(self) -> list[S3Entry]:
        marks: list[S3Entry] = []
        async for entry in self._storage.list(self._settings.jobs / "open/"):
            marks.append(entry)
            if len(marks) >= MOST_MARKS:
                break
        return marks
