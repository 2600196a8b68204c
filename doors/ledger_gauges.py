"""Prometheus gauges of the ledger: open jobs, unknown jobs, today's spend, and the spending limits.

Only the 1,000 oldest open jobs are read for their state; unknown jobs are among the oldest.
"""

from prometheus_client import CollectorRegistry, Gauge

from doors.periodic_read import PeriodicRead
from i2v.clock import today_utc
from i2v.ledger.day_spend import DaySpendStore
from i2v.ledger.job import JobState
from i2v.ledger.keys import OpenMarker
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.reports.limit_usage import read_usage
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.settings import Settings

MAX_MARKERS = 100_000
MAX_JOBS_READ = 1000


class LedgerGauges(PeriodicRead):
    """The gauges, and the background read behind them."""

    def __init__(self, storage: Storage, settings: Settings, registry: CollectorRegistry) -> None:
        super().__init__("ledger", self._read_all, registry)
        self._storage = storage
        self._settings = settings
        self._open = Gauge("i2v_jobs_open", "Open jobs", registry=registry)
        self._unknown = Gauge("i2v_jobs_unknown", "Jobs whose submit response was lost", registry=registry)
        self._spent = Gauge("i2v_spent_today_usd", "Spent and reserved in the current UTC day", registry=registry)
        of = ("label", "period")
        self._limits = Gauge("i2v_limit_usd", "Spending limit of the current period", of, registry=registry)
        self._limit_spent = Gauge("i2v_limit_spent_usd", "Spent and reserved of a limit", of, registry=registry)

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
        for usage in await read_usage(self._storage, self._settings):
            self._limits.labels(usage.limit.label, usage.limit.period).set(float(usage.limit.usd))
            self._limit_spent.labels(usage.limit.label, usage.limit.period).set(float(usage.spent_usd))


def _job_key(marker: S3Entry) -> str:
    name = OpenMarker.parse(marker.uri.key.rpartition("/")[2])
    return name.key if name else ""
