"""What the ledger saved: images that cost a run nothing, because their job existed already.

Each run keeps its own sums in its record (`summarize_savings`); `read_savings` reads those of all runs.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from i2v.ledger.documents import read_if_valid
from i2v.ledger.run_record import Saving
from i2v.money import ZERO
from i2v.reports.run_report import ItemReport
from i2v.s3.storage import Storage
from i2v.settings import Settings

CONCURRENT_READS = 64


class RunSavings(BaseModel):
    """The fields of a run's record that the spend report needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ended_at: datetime | None = None
    label: str | None = None
    saved: tuple[Saving, ...] = ()


def summarize_savings(items: Iterable[ItemReport]) -> tuple[Saving, ...]:
    """Sum what a run's images would have cost without the ledger, by mode, folder and outcome."""
    groups: defaultdict[tuple[str, str, str], list[Decimal]] = defaultdict(list)
    for item in items:
        if item.saved_usd and item.request:
            outcome = "attached" if item.attached else "cached"
            groups[item.request.mode_and_duration, item.folder, outcome].append(item.saved_usd)
    return tuple(
        Saving(mode=mode, folder=folder, outcome=outcome, images=len(amounts), usd=sum(amounts, ZERO))
        for (mode, folder, outcome), amounts in sorted(groups.items())
    )


async def read_savings(storage: Storage, settings: Settings, *, since: datetime) -> AsyncIterator[RunSavings]:
    """Yield the savings of the runs that ended since then; skip records that cannot be read."""
    entries = storage.list(settings.jobs / "runs/")
    uris = [each.uri async for each in entries if each.last_modified >= since and each.uri.key.endswith(".json")]
    for start in range(0, len(uris), CONCURRENT_READS):
        reads = (read_if_valid(storage, RunSavings, uri) for uri in uris[start : start + CONCURRENT_READS])
        for run in await asyncio.gather(*reads):
            if run and run.saved and run.ended_at:
                yield run
