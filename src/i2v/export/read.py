"""Attempts for the spend report: `attempts_since`, from the tables where there are some, else from all records."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from i2v.clock import today_utc
from i2v.errors import I2vError, StorageError
from i2v.export.parquet import ROWS_AT_ONCE, BadParquet, check_file, has_pyarrow, read_rows
from i2v.export.places import own_place, partition
from i2v.export.rows import AttemptRow, attempt_rows
from i2v.export.state import SLACK, ExportState, read_state
from i2v.ledger.ledger import Ledger, VersionedRecord

log = logging.getLogger(__name__)


async def attempts_since(ledger: Ledger, since: datetime) -> AsyncIterator[AttemptRow]:
    """Yield the attempts claimed since then, and maybe some others of their jobs; log records that cannot be read.

    The tables beside the ledger are read with the records that were written since their export, so that both ways give
    the same attempts.
    """
    with TemporaryDirectory(prefix="i2v-export-") as name:
        folder, first = Path(name), since.astimezone(UTC).date()
        state = await _usable_state(ledger, first, folder)
        files = await _fetch_days(ledger, first, folder) if state else None
        if state is None or files is None:
            async for record in ledger.records(since=since - SLACK):
                for row in attempt_rows(record):
                    yield row
            return
        async for row in _merged(ledger, state, files):
            yield row


async def _usable_state(ledger: Ledger, first: date, folder: Path) -> ExportState | None:
    """Return the state of the tables beside the ledger if they begin early enough."""
    if not has_pyarrow():
        return None
    try:
        state, _ = await read_state(own_place(ledger.storage, ledger.settings), ledger.settings, folder)
    except I2vError as error:
        log.warning("the tables are not used: %s", error)
        return None
    return state if state and state.first_day <= first else None


async def _fetch_days(ledger: Ledger, first: date, folder: Path) -> list[tuple[date, Path]] | None:
    """Return the partitions from a day on; `None` if one cannot be read."""
    place, files = own_place(ledger.storage, ledger.settings), list[tuple[date, Path]]()
    days = (date.fromisoformat(today_utc(timedelta(days=1))) - first).days  # a host's clock may be ahead of this one's
    try:
        for day in (first + timedelta(days=back) for back in range(days + 1)):
            path = folder / str(day)
            if await place.fetch(partition("attempts", day), path) is not None:
                await asyncio.to_thread(check_file, path, "attempts")
                files.append((day, path))
    except (I2vError, BadParquet, OSError) as error:
        log.warning("the tables at %s are not used: %s", place, error)
        return None
    return files


async def _merged(ledger: Ledger, state: ExportState, files: list[tuple[date, Path]]) -> AsyncIterator[AttemptRow]:
    """Yield the attempts of changed records, then those of all other jobs in the files."""
    changed: set[str] = set()
    async for record in ledger.records(since=state.changed_since):
        changed.add(record.key)
        for row in attempt_rows(record):
            yield row
    async for key, found in ledger.read_many(sorted(set(state.unread) - changed)):
        if isinstance(found, VersionedRecord):
            changed.add(key)
            for row in attempt_rows(found.record):
                yield row
    for day, path in files:
        lines = read_rows(path, "attempts")
        while some := await asyncio.to_thread(_next_lines, lines):
            for line in some:
                if line["job"] not in changed:
                    yield AttemptRow.model_construct(day=day, **line)


def _next_lines(lines: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return list(islice(lines, ROWS_AT_ONCE))
    except BadParquet as error:
        raise StorageError(f"A file of the tables is damaged: {error}", "Delete tables/ in the jobs prefix") from None
