"""`GalleryReader`: read one page of recent results. Each request sends S3 a bounded number of requests.

That is one listing of run pages, at most `MAX_RUNS` page reads, and one job record for each card without a video, for
the job's current state. Links to posters and videos are signed locally; the browser fetches them from S3.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from doors.gallery.filters import Cursor, Filters, folder_of, name_of
from i2v.errors import LedgerError
from i2v.ledger.job import JobState
from i2v.ledger.keys import parse_video_uri, sibling_uri
from i2v.ledger.ledger import Ledger
from i2v.reports.advice import STATE_AT_END, Advice, advise
from i2v.reports.recent import RecentItem, RecentPage, list_recent_pages, read_recent_page
from i2v.reports.run_report import Outcome
from i2v.s3.storage import Storage
from i2v.settings import Settings

PAGE_SIZE = 24
MAX_RUNS = 40
MAX_CONCURRENT_READS = 8
RUN_PAGE_LIMIT_BYTES = 8 << 20
"""A run page of some 20,000 images. Larger ones are reported as unreadable."""
LINK_SECONDS = 15 * 60
"""Lifetime of the links to posters and videos."""
MAX_FOLDERS = 200


class Links(NamedTuple):
    """Signed links. They are secrets: put them into the response and nowhere else."""

    video: str
    poster: str


@dataclass(frozen=True, slots=True)
class Card:
    """One result in the gallery."""

    cursor: Cursor
    item: RecentItem
    name: str
    links: Links | None = field(default=None, repr=False)
    state: JobState | None = None
    """The job's current state, if it is no longer the one that `item` reports."""
    advice: Advice | None = None


@dataclass(slots=True)
class GalleryPage:
    """One page of cards, newest run first."""

    cards: list[Card] = field(default_factory=list)
    older: Cursor | None = None
    """Where the next page starts; `None` on the last page."""
    searched_back_to: datetime | None = None
    """The start of the oldest run that was read."""
    unreadable: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    @property
    def counts(self) -> str:
        """The cards by outcome: `20 stored · 3 refused`."""
        counts = Counter(card.item.outcome for card in self.cards)
        return " · ".join(f"{counts[outcome]} {outcome.text}" for outcome in Outcome if counts[outcome])


class GalleryReader:
    """Reads gallery pages from one bucket."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._ledger = Ledger(storage, settings)

    async def read(self, filters: Filters, after: Cursor | None = None) -> GalleryPage:
        """Return the page of matching cards that starts after a cursor."""
        page = GalleryPage()
        found = await self._find(filters, after, page)
        page.cards = list(await asyncio.gather(*(self.card(cursor, item) for cursor, item in found)))
        return page

    async def _find(self, filters: Filters, after: Cursor | None, page: GalleryPage) -> list[tuple[Cursor, RecentItem]]:
        found: list[tuple[Cursor, RecentItem]] = []
        names, is_end = await self._list_runs(filters, after)
        for start in range(0, len(names), MAX_CONCURRENT_READS):
            batch = names[start : start + MAX_CONCURRENT_READS]
            for name, run in zip(batch, await asyncio.gather(*map(self._read_run, batch)), strict=True):
                if run is None:
                    page.unreadable.append(name)
                    continue
                end = after.number if after and name == after.page else None
                found += self._select(filters, name, run, end, page)
                if len(found) > PAGE_SIZE:
                    page.older = found[PAGE_SIZE - 1][0]
                    return found[:PAGE_SIZE]
        page.older = None if is_end or not names else Cursor(names[-1], 0)
        return found

    async def _list_runs(self, filters: Filters, after: Cursor | None) -> tuple[list[str], bool]:
        """Return the names of the run pages to read, and whether there are no more."""
        names = [after.page] if after and after.number else []
        first, last = filters.page_range
        start = max(after.page if after else "", first)
        async for name in list_recent_pages(self._storage, self._settings, after=start):
            if name > last:
                break
            if len(names) == MAX_RUNS:
                return names, False
            if Cursor.parse(f"{name}~0"):
                names.append(name)
        return names, True

    async def _read_run(self, name: str) -> RecentPage | None:
        return await read_recent_page(self._storage, self._settings, name, limit=RUN_PAGE_LIMIT_BYTES)

    def _select(
        self, filters: Filters, name: str, run: RecentPage, end: int | None, page: GalleryPage
    ) -> list[tuple[Cursor, RecentItem]]:
        """Return the matching items before `end`, newest first; add the run's folders to the page."""
        page.searched_back_to = run.started_at
        items = run.items[:end]
        folders = {folder_of(item.image, self._settings) for item in items}
        page.folders |= set(sorted(folders - {""})[: MAX_FOLDERS - len(page.folders)])
        backwards = range(len(items) - 1, -1, -1)
        return [(Cursor(name, n), items[n]) for n in backwards if filters.match(items[n], self._settings)]

    async def find_item(self, cursor: Cursor) -> RecentItem | None:
        """Return the item at this position, if there is one."""
        run = await self._read_run(cursor.page)
        return run.items[cursor.number] if run and cursor.number < len(run.items) else None

    async def card(self, cursor: Cursor, item: RecentItem) -> Card:
        """Return the item with its signed links, or with advice if it has no video."""
        state = await self._current_state(item)
        return Card(
            cursor=cursor,
            item=item,
            name=name_of(item.image, self._settings),
            links=await self._sign(item),
            state=state if state is not STATE_AT_END.get(item.outcome) else None,
            advice=advise(item, state),
        )

    async def _current_state(self, item: RecentItem) -> JobState | None:
        if item.job is None or item.outcome not in STATE_AT_END:
            return None
        try:
            stored = await self._ledger.read(item.job)
        except LedgerError:
            return None  # the card then shows the outcome alone
        return stored.record.state if stored else None

    async def _sign(self, item: RecentItem) -> Links | None:
        video = parse_video_uri(item.video, self._settings)
        if video is None:
            return None
        uris = (video, sibling_uri(video, ".jpg"))
        return Links(*[await self._storage.presign(uri, seconds=LINK_SECONDS) for uri in uris])
