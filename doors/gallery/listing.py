"""The cards of one page of the gallery: `read_shelf`. Every request asks S3 a bounded number of times.

One listing of run pages, at most `MAX_RUNS` of them read, and one job record for each card that did not work: what the
ledger says of it now. Posters and videos are signed, which asks S3 nothing; the browser fetches them there.
"""

from __future__ import annotations

import asyncio
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
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

PAGE_SIZE = 24
MAX_RUNS = 40
AT_ONCE = 8
PAGE_LIMIT_BYTES = 8 << 20
"""A run's page of some 20,000 images; a larger one is not read."""
LINK_SECONDS = 15 * 60
"""How long the links to posters and videos work."""
MOST_FOLDERS = 200


class FoundItem(NamedTuple):
    """An item and where it stands."""

    spot: Cursor
    item: RecentItem


class Links(NamedTuple):
    """Signed, so never written down: only in the page that is answered."""

    video: str
    poster: str


@dataclass(frozen=True, slots=True)
class Card:
    """One image that ended."""

    spot: Cursor
    item: RecentItem
    name: str
    links: Links | None = field(default=None, repr=False)
    now: JobState | None = None
    """What the ledger says of its job now, where it did not work."""
    advice: Advice | None = None


@dataclass(slots=True)
class GalleryPage:
    """One page of cards, newest run first."""

    cards: list[Card] = field(default_factory=list)
    older: Cursor | None = None
    """Where to go on; none at the end."""
    looked_back_to: datetime | None = None
    """The start of the oldest run that was looked through."""
    unreadable: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)


class GalleryReader:
    """Reads the gallery's pages from one bucket."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._ledger = Ledger(storage, settings)

    async def read(self, filters: Filters, after: Cursor | None = None) -> GalleryPage:
        """The cards that are wanted, from that spot on.

        Raises:
            StorageError: S3 did not answer well.
        """
        shelf = GalleryPage()
        found = await self._find(filters, after, shelf)
        shelf.cards = list(await asyncio.gather(*(self.card(spot, item) for spot, item in found)))
        return shelf

    async def _find(self, filters: Filters, after: Cursor | None, shelf: GalleryPage) -> list[FoundItem]:
        found: list[FoundItem] = []
        names, is_end = await self._names(filters, after)
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            pages = await asyncio.gather(*(self._page(name) for name in some))
            for name, page in zip(some, pages, strict=True):
                most = after.number if after and name == after.page else None
                found += self._wanted(filters, name, page, most, shelf)
                if len(found) > PAGE_SIZE:
                    shelf.older = found[PAGE_SIZE - 1].spot
                    return found[:PAGE_SIZE]
        shelf.older = None if is_end or not names else Cursor(names[-1], 0)
        return found

    async def _names(self, filters: Filters, after: Cursor | None) -> tuple[list[str], bool]:
        """The pages to look through, and whether they are the last."""
        names = [after.page] if after and after.number else []
        start = max(after.page if after else "", filters.first_name)
        async for name in list_recent_pages(self._storage, self._settings, after=start):
            if name > filters.last_name:
                break
            if len(names) == MAX_RUNS:
                return names, False
            if Cursor.parse(f"{name}~0"):
                names.append(name)
        return names, True

    async def _page(self, name: str) -> RecentPage | None:
        return await read_recent_page(self._storage, self._settings, name, limit=PAGE_LIMIT_BYTES)

    def _wanted(
        self, filters: Filters, name: str, page: RecentPage | None, most: int | None, shelf: GalleryPage
    ) -> list[FoundItem]:
        if page is None:
            shelf.unreadable.append(name)
            return []
        shelf.looked_back_to = page.started_at
        items = page.items[:most]
        folders = {folder_of(item.image, self._settings) for item in items}
        shelf.folders |= set(sorted(folders - {""})[: MOST_FOLDERS - len(shelf.folders)])
        backwards = range(len(items) - 1, -1, -1)
        return [FoundItem(Cursor(name, n), items[n]) for n in backwards if filters.fit(items[n], self._settings)]

    async def find_item(self, spot: Cursor) -> RecentItem | None:
        """The item at this very spot, if there is one.

        Raises:
            StorageError: S3 did not answer well.
        """
        page = await self._page(spot.page)
        return page.items[spot.number] if page and spot.number < len(page.items) else None

    async def card(self, spot: Cursor, item: RecentItem) -> Card:
        """An item with its links, or with what to do about it.

        Raises:
            StorageError: S3 did not answer well.
        """
        now = await self._state_now(item)
        return Card(
            spot=spot,
            item=item,
            name=name_of(item.image, self._settings),
            links=await self.sign(item),
            now=now if now is not STATE_AT_END.get(item.outcome) else None,
            advice=advise(item, now),
        )

    async def _state_now(self, item: RecentItem) -> JobState | None:
        if item.job is None or item.outcome not in STATE_AT_END:
            return None
        try:
            held = await self._ledger.read(item.job)
        except LedgerError:
            return None  # the page then tells how it was
        return held.record.state if held else None

    async def sign(self, item: RecentItem) -> Links | None:
        """Short-lived links to a video of ours and its poster; none where there is no such video.

        Raises:
            StorageError: there are no credentials to sign with.
        """
        uri = video_of(item, self._settings)
        if uri is None:
            return None
        poster = sibling_uri(uri, ".jpg")
        links = await asyncio.gather(*(self._storage.presign(each, seconds=LINK_SECONDS) for each in (uri, poster)))
        return Links(*links)


def video_of(item: RecentItem, settings: Settings) -> S3Uri | None:
    """Where the video lies, if it lies where our videos do."""
    return parse_video_uri(item.video, settings)
