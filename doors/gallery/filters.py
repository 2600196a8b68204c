"""What a gallery URL selects: `Filters`, and the `Cursor` where the next page starts."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode

from i2v.ledger.keys import descending_timestamp
from i2v.reports.recent import RecentItem
from i2v.reports.run_report import Outcome
from i2v.request import Mode
from i2v.settings import Settings

HOME = "/gallery"
YEARS = range(2020, 2200)
"""A day outside these years is a typo."""
LONGEST_RUN = timedelta(days=2)
"""Results of a day are looked up in runs that started up to this long before it."""
T = TypeVar("T")


class Cursor(NamedTuple):
    """An item's position: its run's page, and its index there. As text: `PAGE~NUMBER`.

    Results after a cursor are the items before `number` on this page, then older pages. Pages only grow at the end, so
    a cursor stays valid.
    """

    page: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the text form; return `None` if it is malformed."""
        match = re.fullmatch(r"(?P<page>\d{13}-[^/~]{1,200}\.json)~(?P<number>\d{1,9})", text, re.ASCII)
        return cls(match["page"], int(match["number"])) if match else None

    @property
    def run_id(self) -> str:
        """The run that the page belongs to."""
        return self.page.partition("-")[2].removesuffix(".json")

    @property
    def href(self) -> str:
        """The URL of the item's details."""
        return f"{HOME}/item/{quote(str(self), safe='~')}"

    def __str__(self) -> str:
        return f"{self.page}~{self.number}"


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of one view; unset filters match everything. Days are UTC."""

    folder: str = ""
    mode: Mode | None = None
    day: date | None = None
    outcome: Outcome | None = None
    column: str = ""
    """A custom column, as `NAME=VALUE`, or as `NAME` for any value."""
    errors: tuple[str, ...] = ()
    """A sentence for each invalid value."""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        """Parse a query string; an invalid value is reported in `errors` and ignored."""
        errors: list[str] = []
        return cls(
            folder=query.get("folder", "").strip("/"),
            mode=_parse(Mode, "mode", query, errors),
            day=_parse(_parse_day, "day", query, errors),
            outcome=_parse(Outcome, "outcome", query, errors),
            column=query.get("column", "").strip(),
            errors=tuple(errors),
        )

    @property
    def is_set(self) -> bool:
        """Whether any filter is set."""
        return bool(self.folder or self.mode or self.day or self.outcome or self.column)

    def href(self, after: Cursor | None = None) -> str:
        """Return the URL of this view, starting after a cursor."""
        names = ("folder", "mode", "day", "outcome", "column")
        values = {**{name: getattr(self, name) for name in names}, "after": after}
        query = urlencode({name: str(value) for name, value in values.items() if value}, errors="replace")
        return f"{HOME}?{query}" if query else HOME

    def match(self, item: RecentItem, settings: Settings) -> bool:
        """Return whether the item passes all filters."""
        return (
            (not self.folder or f"{folder_of(item.image, settings)}/".startswith(f"{self.folder}/"))
            and self.mode in {None, item.mode}
            and self.outcome in {None, item.outcome}
            and (self.day is None or item.at.date() == self.day)
            and (not self.column or self._has_column(item))
        )

    def _has_column(self, item: RecentItem) -> bool:
        name, has_value, value = self.column.partition("=")
        found = item.extra.get(name.strip().lower())
        return found is not None and (not has_value or found == value.strip())

    @property
    def page_range(self) -> tuple[str, str]:
        """The two page names between which all matching pages sort."""
        if self.day is None:
            return "", "~"
        midnight = datetime.combine(self.day, time(), UTC)
        return descending_timestamp(midnight + timedelta(days=1)), descending_timestamp(midnight - LONGEST_RUN)


def column_href(name: str, value: str) -> str:
    """Return the URL of all results whose custom column has this value."""
    return Filters(column=f"{name}={value}").href()


def name_of(image: str, settings: Settings) -> str:
    """Return an image's display name: its key below the images prefix, else its full address."""
    return image.removeprefix(str(settings.images))


def folder_of(image: str, settings: Settings) -> str:
    """Return the folder part of an image's display name."""
    return name_of(image, settings).rpartition("/")[0]


def _parse(parse: Callable[[str], T], what: str, query: Mapping[str, str], errors: list[str]) -> T | None:
    text = query.get(what, "").strip()
    try:
        return parse(text) if text else None
    except ValueError:
        example = " (use e.g. 2026-11-22)" if what == "day" else ""
        errors.append(f"“{text[:40]}” is not a valid {what}{example}, so this filter is ignored.")
        return None


def _parse_day(text: str) -> date:
    day = date.fromisoformat(text)
    if day.year not in YEARS:
        raise ValueError
    return day
