"""Rows on disk until their partition is written, so that memory does not grow with them: `open_spool`."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TypeVar

from i2v.export.rows import AttemptRow, Row, VideoRow, attempt_rows, video_rows
from i2v.export.scratch import open_scratch
from i2v.ledger.job import JobRecord

R = TypeVar("R", bound=Row)
_SCHEMA = "CREATE TABLE rows (kind, day, job, attempt, body, PRIMARY KEY (kind, day, job, attempt)) WITHOUT ROWID"


class Spool:
    """Rows of `attempts` and `videos`, in a local folder that also has room for copies of partitions."""

    def __init__(self, database: sqlite3.Connection, folder: Path) -> None:
        self.folder = folder
        self._database = database

    def add(self, record: JobRecord) -> None:
        """Add the rows of a record; those of an earlier read of it are replaced."""
        rows: list[Row] = [*attempt_rows(record), *video_rows(record)]
        values = [(type(row).__name__, str(row.day), row.job, row.attempt, row.model_dump_json()) for row in rows]
        self._database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", values)

    def days(self, kind: type[Row]) -> list[date]:
        """Return the days with rows of this kind, oldest first."""
        found = self._database.execute("SELECT DISTINCT day FROM rows WHERE kind = ? ORDER BY day", (kind.__name__,))
        return [date.fromisoformat(day) for (day,) in found]

    def rows(self, kind: type[R], day: date) -> Iterator[R]:
        """Yield the rows of a day by job and attempt."""
        query = "SELECT body FROM rows WHERE kind = ? AND day = ? ORDER BY job, attempt"
        for (body,) in self._database.execute(query, (kind.__name__, str(day))):
            yield kind.model_validate_json(body)


@contextmanager
def open_spool() -> Iterator[Spool]:
    """Make a spool that is deleted afterwards. Raise `I2vError` if the disk fails or is full."""
    with open_scratch(_SCHEMA) as (database, folder):
        yield Spool(database, folder)


TABLE_OF: dict[type[Row], str] = {AttemptRow: "attempts", VideoRow: "videos"}
