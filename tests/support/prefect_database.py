"""A Prefect database for each test server, migrated once for all of a run's test processes: `start_server`."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from sandbox.prefect_server import PrefectServer

NAME = "prefect.db"


@contextmanager
def start_server(home: Path, shared: Path) -> Iterator[PrefectServer]:
    """Start a server in `home`. The first one leaves a copy of its new database in `shared`; others begin with that.

    Creating the database takes 5 s of CPU, almost half of the server's start.
    """
    with ExitStack() as stack:
        with (shared / "prefect.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            is_first = not copy_database(shared, home)
            server = stack.enter_context(PrefectServer(home=home))
            if is_first:
                _save(home / NAME, shared)
        yield server


def copy_database(shared: Path, home: Path) -> bool:
    """Copy the database to `home`; return False if no server has created it yet."""
    if (shared / NAME).exists():
        home.mkdir(exist_ok=True)
        shutil.copy(shared / NAME, home / NAME)
        return True
    return False


def _save(database: Path, shared: Path) -> None:
    part = shared / f"{NAME}.part"
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as target:
        source.backup(target)
    part.rename(shared / NAME)
