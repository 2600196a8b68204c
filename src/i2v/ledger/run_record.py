"""The record of one run, `jobs/runs/<run id>.json`: its heartbeat while it lives, its report at the end.

`i2v.pipeline.heartbeat` writes it. Reconcile reads it to find out whether the run is still working on its jobs.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict

from i2v.errors import LedgerError, StorageError
from i2v.ledger import keys
from i2v.ledger.attempt import Reason
from i2v.ledger.documents import Document, read_document
from i2v.ledger.job import FORMAT
from i2v.s3.storage import Storage
from i2v.settings import Settings


class Saving(BaseModel):
    """Images of one run that were not charged; `usd` is what they would have cost."""

    model_config = ConfigDict(frozen=True)

    mode: str
    folder: str
    outcome: str
    images: int
    usd: Decimal


class RunRecord(BaseModel):
    """A run as the ledger knows it. `touched_at` is its last heartbeat; with `ended_at` it no longer owns jobs."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run_id: str
    started_at: datetime
    touched_at: datetime
    ended_at: datetime | None = None
    label: str | None = None
    batch: str | None = None
    """The batch of which the run is a shard, or which it starts."""
    saved: tuple[Saving, ...] = ()
    report: dict[str, Any] | None = None
    stopped: Reason | None = None
    """Why the run stopped submitting early."""


async def read_run(storage: Storage, settings: Settings, run_id: str) -> Document[RunRecord] | None:
    """Return the record that an earlier try of the same run wrote. Raise `LedgerError` if it cannot be read."""
    try:
        return await read_document(storage, RunRecord, keys.run_uri(settings, run_id))
    except StorageError as error:
        raise LedgerError(f"Cannot read the ledger: {error.message}", error.hint) from None


def new_run(run_id: str, label: str | None = None, batch: str | None = None) -> RunRecord:
    """Return the record of a run that starts now."""
    now = datetime.now(UTC)
    return RunRecord(run_id=run_id, started_at=now, touched_at=now, label=label, batch=batch)
