"""Prometheus gauges of the ledger: open jobs, unknown jobs, and today's spend.

A scrape never waits for S3: it returns the last values, and starts a new read if they are over a minute old. Only the
1,000 oldest open jobs are read for their state; unknown jobs are among the oldest.
"""

import asyncio
import logging
import time

from prometheus_client import CollectorRegistry, Gauge

from i2v.clock import today_utc
from i2v.errors import I2vError
from i2v.ledger.day_spend import DaySpendStore
from i2v.ledger.job import JobState
from i2v.ledger.keys import OpenMarker
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
REFRESH_SECONDS = 60.0
READ_TIMEOUT_SECONDS = 120.0
MAX_MARKERS = 100_000
MAX_JOBS_READ = 1000


class LedgerGauges:
    """The gauges, and the background read behind them."""

    def __init__(self, storage: Storage, settings: Settings, registry: CollectorRegistry) -> None:
        self._storage = storage
        self._settings = settings
        self._open = Gauge("i2v_jobs_open", "Open jobs", registry=registry)
        self._unknown = Gauge("i2v_jobs_unknown", "Jobs whose submit response was lost", registry=registry)
        self._spent = Gauge("i2v_spent_today_usd", "Spent and reserved in the current UTC day", registry=registry)
        age = Gauge("i2v_ledger_age_seconds", "Seconds since the last successful ledger read", registry=registry)
        age.set_function(lambda: time.monotonic() - self._read_at)
        self._read_at = self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Start reading the ledger if that is due; return at once."""
        is_reading = self._reading is not None and not self._reading.done()
        if not is_reading and time.monotonic() - self._tried_at >= REFRESH_SECONDS:
            self._tried_at = time.monotonic()
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                await self._read_all()
        except (I2vError, TimeoutError) as error:
            log.warning("Cannot read the ledger; its gauges keep their last values: %s", error or type(error).__name__)
        else:
            self._read_at = time.monotonic()

    async def _read_all(self) -> None:
        markers: list[S3Entry] = []
        async for entry in self._storage.list(self._settings.jobs / "open/"):
            markers.append(entry)
            if len(markers) >= MAX_MARKERS:
                break
        oldest = sorted(markers, key=lambda entry: entry.last_modified)[:MAX_JOBS_READ]
        records = Ledger(self._storage, self._settings).read_many(sorted(set(map(_job_key, oldest))))
        found = [stored async for _, stored in records if isinstance(stored, VersionedRecord)]
        unknown = [stored for stored in found if stored.record.state is JobState.UNKNOWN]
        spend = (await DaySpendStore(self._storage, self._settings).read(today_utc())).content
        self._open.set(len(set(map(_job_key, markers))))
        self._unknown.set(len(unknown))
        self._spent.set(float(spend.total_usd))


def _job_key(marker: S3Entry) -> str:
    name = OpenMarker.parse(marker.uri.key.rpartition("/")[2])
    return name.key if name else ""
