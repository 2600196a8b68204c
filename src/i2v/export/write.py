"""Write the tables: `export_tables` what changed since the last time, `rewrite_jobs` the rows of some jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from i2v.errors import Conflict, I2vError, LedgerError, UsageError
from i2v.export.focus import cost_row
from i2v.export.merge import merge_rows
from i2v.export.parquet import NO_PYARROW, BadParquet, has_pyarrow, read_rows, require_pyarrow, write_rows
from i2v.export.places import Place, own_place, partition, sha256_of
from i2v.export.rows import AttemptRow, Row, VideoRow
from i2v.export.spool import TABLE_OF, Spool, open_spool
from i2v.export.state import SLACK, ExportState, read_state, write_state
from i2v.ledger.documents import wait_briefly
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
NEW_DAYS = 30


@dataclass(slots=True)
class Export:
    """What an export did."""

    place: str
    first_day: date | None = None
    """The tables have all rows from this UTC day on."""
    records: int = 0
    """Job records that were read, because they may have changed."""
    written: dict[str, int] = field(default_factory=dict)
    """Rows by the name of the partition that was written."""
    unread: list[str] = field(default_factory=list)
    """Jobs whose records could not be read."""


async def export_tables(ledger: Ledger, place: Place, since: date) -> Export:
    """Bring the tables up to date, from this UTC day on or from an earlier one that they begin with.

    Raise `UsageError` without pyarrow, and for tables that i2v did not write. It may be repeated at any time.
    """
    require_pyarrow()
    with open_spool() as spool:
        writer = _Writer(ledger, place, spool)
        state, version = await read_state(place, ledger.settings, writer.folder)
        listed_at = await ledger.storage.server_time(ledger.settings.jobs)
        midnight = datetime(since.year, since.month, since.day, tzinfo=UTC)
        is_covered = state is not None and state.first_day <= since
        changed_since = state.changed_since if state and is_covered else midnight - SLACK
        await writer.read(_changed(ledger, changed_since, state.unread if state else (), writer.result))
        first_day = min(since, state.first_day) if state else since
        await writer.write(first_day)
        unread = tuple(sorted(writer.result.unread))
        new = ExportState(jobs=str(ledger.settings.jobs), first_day=first_day, read_until=listed_at, unread=unread)
        await write_state(place, ledger.settings, new, version, writer.folder)
        writer.result.first_day = first_day
        return writer.result


async def update_tables(storage: Storage, settings: Settings, *, days: int = 1) -> None:
    """Bring the tables beside the ledger up to date, new ones with these and the last `NEW_DAYS` days.

    Without pyarrow do nothing; a failure is logged, since reports do not need the tables.
    """
    if not has_pyarrow():
        log.info("no tables are written: pyarrow is not installed. %s", NO_PYARROW)
        return
    since = datetime.now(UTC).date() - timedelta(days=max(days, NEW_DAYS))
    try:
        await export_tables(Ledger(storage, settings), own_place(storage, settings), since)
    except I2vError as error:
        log.warning("the tables are not up to date: %s", error)


async def rewrite_jobs(ledger: Ledger, place: Place, jobs: Iterable[str]) -> list[str]:
    """Rewrite the rows of these jobs, and return the names of their partitions.

    Also if a running export may write older rows: it then finds these. Raise `UsageError` without pyarrow.
    """
    require_pyarrow()
    with open_spool() as spool:
        writer = _Writer(ledger, place, spool)
        await writer.read(_named(ledger, sorted(jobs), writer.result))
        if unread := writer.result.unread:
            raise LedgerError(f"The records of {len(unread)} jobs such as {unread[0][:12]} cannot be read", "Try again")
        state, _ = await read_state(place, ledger.settings, writer.folder)
        return await writer.write(state.first_day if state else date.max, existing=True)


async def _changed(
    ledger: Ledger, since: datetime, unread: Collection[str], result: Export
) -> AsyncIterator[JobRecord]:
    """Yield the records written since then, and those that the last export could not read."""

    def note(key: str, error: I2vError) -> None:
        log.warning("%s", error)
        result.unread.append(key)

    async for record in ledger.records(since=since, on_error=note):
        yield record
    async for record in _named(ledger, sorted(set(unread) - set(result.unread)), result):
        yield record


async def _named(ledger: Ledger, jobs: list[str], result: Export) -> AsyncIterator[JobRecord]:
    async for key, found in ledger.read_many(jobs):
        if isinstance(found, VersionedRecord):
            yield found.record
        elif found:
            result.unread.append(key)


class _Writer:
    def __init__(self, ledger: Ledger, place: Place, spool: Spool) -> None:
        self._ledger = ledger
        self._place = place
        self._spool = spool
        self.folder = spool.folder
        self.result = Export(str(place))

    async def read(self, records: AsyncIterator[JobRecord]) -> None:
        """Put the records' rows aside."""
        async for record in records:
            self._spool.add(record)
            self.result.records += 1

    async def write(self, first_day: date, *, existing: bool = False) -> list[str]:
        """Merge the rows into their partitions from this day on, and with `existing` into earlier ones that exist.

        Return the names of these partitions.
        """
        names: list[str] = []
        for kind in (AttemptRow, VideoRow):
            for day in self._spool.days(kind):
                if day >= first_day or existing:
                    names += await self._write_day(kind, day, only_existing=day < first_day)
        return names

    async def _write_day(self, kind: type[Row], day: date, *, only_existing: bool) -> list[str]:
        while True:
            try:
                return await self._try_day(kind, day, only_existing=only_existing)
            except Conflict:  # another export or forget wrote this day
                await wait_briefly()

    async def _try_day(self, kind: type[Row], day: date, *, only_existing: bool) -> list[str]:
        """Merge one day. The version of `costs` is read first, so that older attempts cannot replace newer costs."""
        name, costs = partition(TABLE_OF[kind], day), partition("costs", day)
        old, new, old_costs, new_costs = (self.folder / each for each in ("old", "new", "old-costs", "new-costs"))
        costs_version = await self._place.fetch(costs, old_costs) if kind is AttemptRow else None
        version = await self._place.fetch(name, old)
        if only_existing and version is None:
            return []
        try:
            count = await asyncio.to_thread(self._merge, kind, day, None if version is None else old, new)
            await self._put(name, count, old, new, version)
            if kind is not AttemptRow:
                return [name]
            count = await asyncio.to_thread(self._costs, day, new, new_costs)
            await self._put(costs, count, old_costs, new_costs, costs_version)
        except BadParquet as error:
            hint = f"Delete {self._place} and export again with --since {day}: tables hold nothing of their own"
            raise UsageError(f"{name} at {self._place} is not a table of this i2v ({error})", hint) from None
        return [name, costs]

    def _merge(self, kind: type[Row], day: date, old: Path | None, new: Path) -> int:
        known = read_rows(old, TABLE_OF[kind]) if old else iter(())
        changed = (row.model_dump() for row in self._spool.rows(kind, day))
        return write_rows(new, TABLE_OF[kind], merge_rows(known, changed))

    def _costs(self, day: date, attempts: Path, costs: Path) -> int:
        return write_rows(costs, "costs", self._cost_rows(day, attempts))

    def _cost_rows(self, day: date, attempts: Path) -> Iterator[dict[str, Any]]:
        for line in read_rows(attempts, "attempts"):
            row = AttemptRow.model_construct(day=day, **line)
            if row.cost_usd:
                yield cost_row(row, self._ledger.settings)

    async def _put(self, name: str, rows: int, old: Path, new: Path, version: str | None) -> None:
        """Write a partition, unless it is empty and new or has these bytes already."""
        if version is None and not rows:
            return
        if version is not None and await asyncio.to_thread(lambda: sha256_of(old) == sha256_of(new)):
            return
        await self._place.put(name, new, version)
        self.result.written[name] = rows
