"""What all runs have reserved on one UTC day: `DaySpend`, the document `jobs/days/<UTC day>.json`.

Each process has one entry with absolute sums, so a repeated write changes nothing. What is reserved for a submit
stays listed by its claim until it is known to be paid: the job's record shows later whether it was.
"""

import secrets
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from i2v.errors import Conflict
from i2v.ledger import keys
from i2v.ledger.documents import Document, read_document, write_document
from i2v.ledger.job import FORMAT
from i2v.money import ZERO
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from i2v.spending_limits import Limit


class Reservation(BaseModel):
    """The price of one submit that is about to be sent. `at` is the host's time."""

    model_config = ConfigDict(frozen=True)

    job: str
    usd: Decimal
    at: datetime


class Entry(BaseModel):
    """What one process of a run has spent on the day, and what it has reserved, by claim."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    label: str = ""
    """The run's label, empty if it has none."""
    paid_usd: Decimal = ZERO
    reserved: dict[str, Reservation] = {}

    @property
    def total_usd(self) -> Decimal:
        """Everything paid or reserved."""
        return self.paid_usd + sum((one.usd for one in self.reserved.values()), ZERO)

    def without(self, claim: str) -> Self:
        """Return the entry without one reservation."""
        rest = {other: one for other, one in self.reserved.items() if other != claim}
        return self.model_copy(update={"reserved": rest})


class DaySpend(BaseModel):
    """The entries of all processes, by their id, in US dollars."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    day: str
    writer: str = ""
    entries: dict[str, Entry] = {}

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        """Take a document of format 1, which had one sum per run."""
        if isinstance(data, dict) and data.get("format") == 1:
            sums = data.get("reserved_usd", {})
            is_valid = isinstance(sums, dict)
            entries = {run: {"run_id": run, "paid_usd": usd} for run, usd in sums.items()} if is_valid else sums
            return {"day": data.get("day"), "writer": data.get("writer", ""), "entries": entries}
        return data

    @property
    def total_usd(self) -> Decimal:
        """Everything spent or reserved on this day."""
        return sum((entry.total_usd for entry in self.entries.values()), ZERO)

    def usd_under(self, limit: Limit) -> Decimal:
        """Return what the runs that a limit covers have spent or reserved on this day."""
        return sum((entry.total_usd for entry in self.entries.values() if limit.covers(entry.label)), ZERO)


class DaySpendStore:
    """The `DaySpend` documents in S3."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self.storage = storage
        self.settings = settings

    def uri(self, day: str) -> S3Uri:
        """Return the URI of a day's document."""
        return keys.daily_spend_uri(self.settings, day)

    async def read(self, day: str) -> Document[DaySpend]:
        """Return a day's document, or an empty one without an etag. Raise `LedgerError` if it is invalid."""
        found = await read_document(self.storage, DaySpend, self.uri(day))
        return found or Document(DaySpend(day=day), "", 0.0)

    async def write(self, spend: DaySpend, etag: str) -> Document[DaySpend] | None:
        """Replace the version with this etag, or create the document; return `None` if another write came first.

        Raise `StorageError` if the write may or may not have succeeded.
        """
        new = spend.model_copy(update={"format": FORMAT, "writer": secrets.token_hex(8)})
        try:
            written = await write_document(self.storage, new, self.uri(spend.day), etag or None)
            return Document(new, written, 0.0)
        except Conflict:
            found = await self.read(spend.day)
            return found if found.content.writer == new.writer else None
