"""The heartbeat of a run: it touches the run's record in the ledger each minute, and writes the report at the end.

As long as the record is touched, reconcile leaves the run's jobs alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from i2v.errors import I2vError, LedgerError, StorageError
from i2v.ledger import keys
from i2v.ledger.budget import Budget
from i2v.ledger.run_record import RunRecord
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 60.0


class Heartbeat:
    """Keeps one run's record fresh.

    Args:
        record: what to start with.
        budget: its days are part of the record, so that a retry of the run finds its reservations.
        chores: awaited at each heartbeat and at the end; they handle their own errors.
    """

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        record: RunRecord,
        budget: Budget,
        chores: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self.record = record
        self._storage = storage
        self._settings = settings
        self._budget = budget
        self._chores = chores
        self._beating: asyncio.Task[None] | None = None

    async def touch(self, **changes: Any) -> None:
        """Write the record with the current time and these changes."""
        days = tuple(dict.fromkeys((*self.record.days, *self._budget.days)))
        self.record = self.record.model_copy(update={"touched_at": datetime.now(UTC), "days": days, **changes})
        body = self.record.model_dump_json(indent=1).encode()
        uri = keys.run_uri(self._settings, self.record.run_id)
        await self._storage.put(uri, body, content_type="application/json")

    async def start(self) -> None:
        """Write the record, then touch it until `end`. Raise `LedgerError` if it cannot be written."""
        try:
            await self.touch()
        except StorageError as error:
            raise LedgerError(f"Cannot write to the ledger: {error.message}", error.hint) from None
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, self._settings.run_gone_seconds / 3))
            try:
                await self.touch()
            except I2vError as error:
                log.warning("heartbeat not written: %s", error)
            await self._do_chores()

    async def _do_chores(self) -> None:
        for chore in self._chores:
            await chore()

    async def end(self, **changes: Any) -> None:
        """Release unspent money and write the end of the run; from then on reconcile may take its jobs.

        A failure is logged: the run's outcome does not depend on it.
        """
        if self._beating is None or self.record.ended_at:
            return
        self._beating.cancel()
        await asyncio.wait({self._beating})
        try:
            await self._budget.close()
        except I2vError as error:
            log.warning("unspent money could not be released, it counts until the day ends: %s", error)
        await self._do_chores()
        try:
            await self.touch(ended_at=datetime.now(UTC), **changes)
        except I2vError as error:
            log.warning("the end of the run could not be written: %s", error)
