"""What ended lately, newest run first: one page a run below `jobs/recent/`, so that nobody has to list the bucket.

Pages are for looking at; the truth stays in the job records. A page is written each minute while its run lives and at
its end, so of a run that was killed the last minute may be missing here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from i2v.errors import NotFound, StorageError
from i2v.ledger import keys
from i2v.ledger.job import FORMAT
from i2v.reports.run_report import ItemReport, Outcome
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
RECENT_OUTCOMES = frozenset({Outcome.STORED, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN})
"""What is new in the bucket, or needs somebody; what was there already has its place on an older page."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("no time that UTC knows") from None


UtcTime = Annotated[datetime, AfterValidator(_in_utc)]
"""A time in UTC, whatever it was written in."""
Dollars = Annotated[Decimal, Field(ge=0, le=10**9)]


class RecentItem(BaseModel):
    """One image that ended. `at` is UTC, money US dollars, `duration` the seconds that were ordered."""

    model_config = ConfigDict(frozen=True)

    image: str
    outcome: Outcome
    at: UtcTime
    job: str | None = None
    video: str | None = None
    mode: Mode | None = None
    duration: int | None = None
    cost_usd: Dollars = Decimal(0)
    reason: str | None = None


def recent_item(item: ItemReport) -> RecentItem:
    """An image that has ended just now."""
    request = item.request
    return RecentItem(
        image=item.image,
        outcome=item.outcome,
        at=datetime.now(UTC),
        job=item.job,
        video=item.video,
        mode=request.mode if request else None,
        duration=request.duration if request else None,
        cost_usd=item.cost_usd,
        reason=item.reason,
    )


class RecentPage(BaseModel):
    """What ended in one run, in the order in which it did."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run_id: str
    started_at: UtcTime
    label: str | None = None
    items: tuple[RecentItem, ...] = ()


class RecentWriter:
    """Collects for one run."""

    def __init__(
        self, storage: Storage, settings: Settings, run_id: str, started_at: datetime, label: str | None
    ) -> None:
        self._storage = storage
        self._uri = keys.recent_page_uri(settings, started_at, run_id)
        self._page = RecentPage(run_id=run_id, started_at=started_at, label=label)
        self._new: list[RecentItem] = []
        self._merged = False

    def add(self, item: ItemReport) -> None:
        """Take an image up, if it is one to show."""
        if item.outcome in RECENT_OUTCOMES and item.is_new_outcome:
            self._new.append(recent_item(item))

    async def write(self) -> None:
        """Write what is new; a failure is logged, and tried again with the next."""
        if not self._new:
            return
        count = len(self._new)
        try:
            await self._merge()
            page = self._page.model_copy(update={"items": (*self._page.items, *self._new[:count])})
            await self._storage.put(self._uri, page.model_dump_json().encode(), content_type="application/json")
        except StorageError as error:
            log.warning("what ended lately could not be written: %s", error)
            return
        self._page, self._new = page, self._new[count:]

    async def _merge(self) -> None:
        """A retry of the run goes on where the page of the first try ends."""
        if self._merged:
            return
        try:
            self._page = RecentPage.model_validate_json((await self._storage.get(self._uri)).body)
        except (NotFound, ValidationError):
            log.debug("no earlier page at %s", self._uri)
        self._merged = True


async def list_recent_pages(storage: Storage, settings: Settings, *, after: str = "") -> AsyncIterator[str]:
    """The names of all runs' pages, newest first; `after` is the name of the last that is known.

    Raises:
        StorageError: S3 did not answer well.
    """
    place = settings.jobs / keys.RECENT
    start = (place / after).key if after else ""
    async for entry in storage.list(place, start_after=start):
        yield entry.uri.key.removeprefix(place.key)


async def read_recent_page(
    storage: Storage, settings: Settings, name: str, *, limit: int | None = None
) -> RecentPage | None:
    """The page of this name, `None` where there is none that can be read, or it has over `limit` bytes.

    Raises:
        StorageError: S3 did not answer well.
    """
    uri = settings.jobs / keys.RECENT / name
    try:
        return RecentPage.model_validate_json((await storage.get(uri, limit=limit)).body)
    except (NotFound, ValidationError):
        log.warning("%s cannot be read, and is left out", uri)
        return None


async def read_recent_pages(
    storage: Storage, settings: Settings, *, after: str = ""
) -> AsyncIterator[tuple[str, RecentPage]]:
    """The pages of all runs, newest first, each with its name; `after` is the name of the last that is known.

    Raises:
        StorageError: S3 did not answer well.
    """
    async for name in list_recent_pages(storage, settings, after=after):
        if page := await read_recent_page(storage, settings, name):
            yield name, page


def page_name_at(moment: datetime) -> str:
    """The name after which pages of runs lie that started at this moment or before."""
    return keys.descending_timestamp(moment)


def items_of(page: RecentPage) -> Sequence[RecentItem]:
    """The page's items, newest first."""
    return page.items[::-1]
