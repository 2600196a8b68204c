"""What runs did not pay for, since the ledger had it: `summarize_savings`, and `read_savings` over all runs.

A run leaves its own sums in its record, so that nobody has to go through its images again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.errors import NotFound
from i2v.reports.run_report import ItemReport
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
READ_AT_ONCE = 64
CACHED, ATTACHED = "cached", "attached"


class Saving(BaseModel):
    """Images of one run that cost it nothing. `usd` is what they would have cost."""

    model_config = ConfigDict(frozen=True)

    mode: str
    folder: str
    outcome: str
    images: int
    usd: Decimal


class RunSavings(BaseModel):
    """Of a run's record what is asked for here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ended_at: datetime | None = None
    label: str | None = None
    saved: tuple[Saving, ...] = ()


class _Kind(NamedTuple):
    mode: str
    folder: str
    outcome: str


def summarize_savings(items: Iterable[ItemReport]) -> tuple[Saving, ...]:
    """What a run's images would have cost without the ledger, by mode, folder and why they cost nothing."""
    images: defaultdict[_Kind, int] = defaultdict(int)
    usd: defaultdict[_Kind, Decimal] = defaultdict(Decimal)
    for item in items:
        if item.saved_usd and item.request:
            mode = f"{item.request.mode} {item.request.duration} s"
            kind = _Kind(mode, item.folder, ATTACHED if item.attached else CACHED)
            images[kind] += 1
            usd[kind] += item.saved_usd
    return tuple(Saving(**kind._asdict(), images=images[kind], usd=usd[kind]) for kind in sorted(images))


async def read_savings(storage: Storage, settings: Settings, *, since: datetime) -> AsyncIterator[RunSavings]:
    """What the runs that ended since then have saved; a record that cannot be read is left out.

    Raises:
        StorageError: S3 did not answer well.
    """
    entries = storage.list(settings.jobs / "runs/")
    uris = [each.uri async for each in entries if each.last_modified >= since and each.uri.key.endswith(".json")]
    for start in range(0, len(uris), READ_AT_ONCE):
        for run in await asyncio.gather(*(_read(storage, uri) for uri in uris[start : start + READ_AT_ONCE])):
            if run and run.saved and run.ended_at:
                yield run


async def _read(storage: Storage, uri: S3Uri) -> RunSavings | None:
    try:
        return RunSavings.model_validate_json((await storage.get(uri)).body)
    except (NotFound, ValidationError):
        log.warning("%s cannot be read, and is left out", uri)
        return None
