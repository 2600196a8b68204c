"""Rows on disk until their partition is written, so that memory does not grow with them: `open_spool`."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TypeVar

from i2v.errors import I2vError
from i2v.export.rows import AttemptRow, Row, VideoRow, attempt_rows, video_rows
from i2v.ledger.job import JobRecord

R = TypeVar("R", bound=Row)


class Spool:
    """Rows of `attempts` and `videos`, in a local folder that also has room for copies of partitions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = sqlite3.connect(folder / "rows.sqlite", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            "CREATE TABLE rows (kind, day, job, attempt, body, PRIMARY KEY (kind, day, job, attempt)) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

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
    try:
        with TemporaryDirectory(prefix="i2v-export-") as folder, closing(Spool(Path(folder))) as spool:
            yield spool
    except (OSError, sqlite3.Error) as error:
        raise I2vError(f"Cannot write to {gettempdir()}: {error}", "Free space there, or set TMPDIR") from None


TABLE_OF: dict[type[Row], str] = {AttemptRow: "attempts", VideoRow: "videos"}
