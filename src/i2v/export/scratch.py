"""Rows on the local disk for as long as a step needs them, so that memory does not grow with them: `open_scratch`."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from i2v.errors import I2vError


@contextmanager
def open_scratch(schema: str) -> Iterator[tuple[sqlite3.Connection, Path]]:
    """Make an SQLite database in a folder of its own, and delete both afterwards.

    Any thread may use it, one at a time. Raise `I2vError` if the disk fails or is full.
    """
    try:
        with TemporaryDirectory(prefix="i2v-rows-") as name:
            file = Path(name) / "rows.sqlite"
            with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as database:
                database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {schema}")
                yield database, Path(name)
    except (OSError, sqlite3.Error) as error:
        raise I2vError(f"Cannot write to {gettempdir()}: {error}", "Free space there, or set TMPDIR") from None
