"""The heartbeat of a run: it touches the run's record in the ledger each minute, and writes the report at the end.

As long as the record is touched, reconcile leaves the run's jobs alone. This is the record's one writer: its writes
come one after another, and each replaces the version before it, so that a late one cannot overwrite the report.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from i2v.errors import Conflict, I2vError, LedgerError, NotFound, StorageError
from i2v.ledger import keys
from i2v.ledger.budget import Budget
from i2v.ledger.documents import read_document, write_document
from i2v.ledger.run_record import RunRecord
from i2v.pipeline.payment.shard_budget import ShardBudget
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 60.0


class Heartbeat:
    """Keeps one run's record fresh, whose version in the ledger is `etag` if an earlier try of the run wrote one.

    `chores` are awaited at each heartbeat and at the end; they handle their own errors.
    """

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        record: RunRecord,
        budget: Budget | ShardBudget,
        chores: Sequence[Callable[[], Awaitable[None]]] = (),
        etag: str | None = None,
    ) -> None:
        self.record = record
        self._etag = etag
        self._storage = storage
        self._settings = settings
        self._budget = budget
        self._chores = chores
        self._ending = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    async def _touch(self, **changes: Any) -> None:
        """Write the record with the current time and these changes; keep it only once it is written."""
        new = self.record.model_copy(update={"touched_at": datetime.now(UTC), **changes})
        uri = keys.run_uri(self._settings, new.run_id)
        while True:
            try:
                self._etag = await write_document(self._storage, new, uri, self._etag)
            except (Conflict, NotFound):  # our own write with a lost answer, another process, or a delete
                found = await read_document(self._storage, RunRecord, uri)
                self._etag = found.etag if found else None
            else:
                self.record = new
                return

    async def start(self) -> None:
        """Write the record, then touch it until `end`. Raise `LedgerError` if it cannot be written."""
        try:
            await self._touch()
        except StorageError as error:
            raise LedgerError(f"Cannot write to the ledger: {error.message}", error.hint) from None
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        seconds = min(HEARTBEAT_SECONDS, self._settings.run_gone_seconds / 3)
        while not await self._ends_within(seconds):
            try:
                await self._touch()
            except I2vError as error:
                log.warning("heartbeat not written: %s", error)
            await self._do_chores()

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._ending.wait()
        except TimeoutError:
            return False

    async def _do_chores(self) -> None:
        for chore in self._chores:
            await chore()

    async def end(self, **changes: Any) -> None:
        """Release unspent money and write the end of the run; from then on reconcile may take its jobs.

        A failure is logged: the run's outcome does not depend on it.
        """
        if self._beating is None or self.record.ended_at:
            return
        self._ending.set()
        await asyncio.wait({self._beating})
        try:
            await self._budget.close()
        except I2vError as error:
            log.warning("unspent money could not be released, it counts until the day ends: %s", error)
        await self._do_chores()
        try:
            await self._touch(ended_at=datetime.now(UTC), **changes)
        except I2vError as error:
            log.warning("the end of the run could not be written: %s", error)
