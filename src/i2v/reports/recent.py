"""Recent results, newest run first: one page per run under `jobs/recent/`, so that viewers need not list the bucket.

Pages are for display; the job records are the source of truth. A run writes its page every minute and at its end, so
the page of a killed run may lack its last minute.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from i2v.errors import StorageError
from i2v.ledger import keys
from i2v.ledger.documents import read_if_valid
from i2v.ledger.job import FORMAT
from i2v.money import Charges
from i2v.reports.run_report import ItemReport, Outcome
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
RECENT_OUTCOMES = frozenset({Outcome.STORED, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN})
"""Outcomes that are new in the bucket or need attention; a cached image is on an older page."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("out of range for UTC") from None


UtcTime = Annotated[datetime, AfterValidator(_in_utc)]
Dollars = Annotated[Decimal, Field(ge=0, le=10**9)]


class RecentItem(BaseModel):
    """The result of one image. `duration` is the requested length in seconds.

    The amounts are what all runs were charged for its job so far: a video that reconcile stored was not free.
    """

    model_config = ConfigDict(frozen=True)

    image: str
    outcome: Outcome
    at: UtcTime
    job: str | None = None
    video: str | None = None
    mode: Mode | None = None
    duration: int | None = None
    cost_usd: Dollars = Decimal(0)
    possibly_charged_usd: Dollars = Decimal(0)
    reason: str | None = None
    again: str = ""
    """The arguments of the command that runs this image again, quoted for a shell; empty if it has a video."""
    needs_prompt: bool = False
    extra: Mapping[str, str] = {}
    """Its custom columns."""

    @property
    def charges(self) -> Charges:
        """The amounts."""
        return Charges(self.cost_usd, self.possibly_charged_usd)


def recent_item(item: ItemReport) -> RecentItem:
    """Return the result of an image that has just ended."""
    request = item.request
    return RecentItem(
        **{
            name: getattr(item, name)
            for name in ("image", "outcome", "job", "video", "reason", "needs_prompt", "extra")
        },
        again="" if item.video else item.again,
        at=datetime.now(UTC),
        cost_usd=item.job_charges.charged,
        possibly_charged_usd=item.job_charges.possibly,
        mode=request.mode if request else None,
        duration=request.duration if request else None,
    )


class RecentPage(BaseModel):
    """The results of one run, oldest first."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run_id: str
    started_at: UtcTime
    label: str | None = None
    items: tuple[RecentItem, ...] = ()


class RecentWriter:
    """Collects the results of one run and writes its page."""

    def __init__(
        self, storage: Storage, settings: Settings, run_id: str, started_at: datetime, label: str | None
    ) -> None:
        self._storage = storage
        self._uri = keys.recent_page_uri(settings, started_at, run_id)
        self._page = RecentPage(run_id=run_id, started_at=started_at, label=label)
        self._new: list[RecentItem] = []
        self._merged = False
        """Whether the page that an earlier try of this run wrote was read."""

    def add(self, item: ItemReport) -> None:
        """Add an image if its outcome belongs on the page."""
        if item.outcome in RECENT_OUTCOMES and item.is_new_outcome:
            self._new.append(recent_item(item))

    async def write(self) -> None:
        """Write the page if it has new results; a failure is logged, and the next call tries again."""
        if not (count := len(self._new)):
            return
        try:
            if not self._merged:
                self._page = await read_if_valid(self._storage, RecentPage, self._uri) or self._page
                self._merged = True
            page = self._page.model_copy(update={"items": (*self._page.items, *self._new[:count])})
            await self._storage.put(self._uri, page.model_dump_json().encode(), content_type="application/json")
        except StorageError as error:
            log.warning("recent results were not written and will be retried: %s", error)
            return
        self._page, self._new = page, self._new[count:]


async def list_recent_pages(storage: Storage, settings: Settings, *, after: str = "") -> AsyncIterator[str]:
    """Yield the names of all pages, newest run first, starting after the page named `after`."""
    folder = settings.jobs / keys.RECENT_PREFIX
    start = (folder / after).key if after else ""
    async for entry in storage.list(folder, start_after=start):
        yield entry.uri.key.removeprefix(folder.key)


async def read_recent_page(
    storage: Storage, settings: Settings, name: str, *, limit: int | None = None
) -> RecentPage | None:
    """Return a page, or `None` if it is missing, cannot be parsed or has more than `limit` bytes."""
    return await read_if_valid(storage, RecentPage, settings.jobs / keys.RECENT_PREFIX / name, limit=limit)
