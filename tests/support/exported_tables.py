"""Tables of `i2v export` as tests write and read them."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from i2v.export.parquet import read_rows
from i2v.ledger import keys
from i2v.ledger.job import JobRecord
from i2v.s3.storage import Storage
from i2v.settings import Settings
from tests.support.job_records import NOW, SUBMITTED

FIRST_DAY = date(2026, 11, 20)
Rows = list[dict[str, Any]]


def tables_in(folder: Path, table: str) -> dict[str, Rows]:
    """Return a table's rows by day, from a local copy."""
    files = sorted(folder.glob(f"{table}/day=*/*.parquet"))
    return {file.parent.name.removeprefix("day="): list(read_rows(file, table)) for file in files}


def sum_of(days: dict[str, Rows], column: str) -> Decimal:
    """Return the sum of a column over all days."""
    return sum((row[column] for rows in days.values() for row in rows), Decimal(0))


def record_of(base: JobRecord, number: int, *, at: datetime = NOW, **changes: Any) -> JobRecord:
    """Return a job like `base` with a key of its own, whose only attempt was claimed at this time."""
    (attempt,) = base.attempts
    later = at - attempt.claimed_at
    end = attempt.end and attempt.end.model_copy(update={"at": attempt.end.at + later})
    moved = attempt.model_copy(update={"claimed_at": at, "submitted_at": at, "end": end})
    return base.model_copy(update={"key": f"{number:064x}", "attempts": (moved,), **changes})


def submitted(number: int, days_later: int = 0) -> JobRecord:
    """Return a submitted job, claimed so many days after `NOW`."""
    return record_of(SUBMITTED, number, at=NOW + timedelta(days=days_later))


async def put_record(storage: Storage, settings: Settings, record: JobRecord) -> None:
    """Write a job record as it is."""
    await storage.put(keys.job_uri(settings, record.key), record.model_dump_json().encode())
