"""What is wanted, as it stands in an address: `Filters`, and the `Cursor` from which to go on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from i2v.reports import recent
from i2v.reports.recent import RecentItem
from i2v.reports.run_report import Outcome
from i2v.request import Mode
from i2v.settings import Settings

HOME = "/gallery"
YEARS = range(2020, 2200)
"""A day in another year is a mistake."""
LONGEST_RUN = timedelta(days=2)
"""What ended on a day is looked for in runs that began up to so long before it."""
E = TypeVar("E", bound=StrEnum)


class Cursor(NamedTuple):
    """A place among all that ended: what lies before item `number` of this run's page, then older pages.

    Pages grow at their end only, so a spot stays where it is.
    """

    page: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read what `str` wrote."""
        match = re.fullmatch(r"(?P<page>\d{13}-[^/~]{1,200}\.json)~(?P<number>\d{1,9})", text, re.ASCII)
        return cls(match["page"], int(match["number"])) if match else None

    @property
    def href(self) -> str:
        """Where the item is told of."""
        return f"{HOME}/item/{quote(str(self), safe='~')}"

    def __str__(self) -> str:
        return f"{self.page}~{self.number}"


@dataclass(frozen=True, slots=True)
class Filters:
    """Each narrows what is shown; none of them is set at first. Days are UTC's."""

    folder: str = ""
    mode: Mode | None = None
    day: date | None = None
    outcome: Outcome | None = None
    faults: tuple[str, ...] = ()
    """What could not be meant, in sentences."""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Filters:
        """Read an address; what cannot be meant is told, and left out."""
        faults: list[str] = []
        return cls(
            folder=query.get("folder", "").strip("/"),
            mode=_choice(Mode, query.get("mode", "").strip(), "mode", faults),
            day=_day(query.get("day", "").strip(), faults),
            outcome=_choice(Outcome, query.get("outcome", "").strip(), "outcome", faults),
            faults=tuple(faults),
        )

    @property
    def is_set(self) -> bool:
        """Whether anything is left out."""
        return bool(self.folder or self.mode or self.day or self.outcome)

    def href(self, after: Cursor | None = None) -> str:
        """The address that shows this."""
        chosen = {"folder": self.folder, "mode": self.mode, "day": self.day, "outcome": self.outcome, "after": after}
        query = urlencode({name: str(value) for name, value in chosen.items() if value})
        return f"{HOME}?{query}" if query else HOME

    def fit(self, item: RecentItem, settings: Settings) -> bool:
        """Whether the item is wanted."""
        return (
            (not self.folder or f"{folder_of(item.image, settings)}/".startswith(f"{self.folder}/"))
            and self.mode in {None, item.mode}
            and self.outcome in {None, item.outcome}
            and (self.day is None or item.at.date() == self.day)
        )

    @property
    def first_name(self) -> str:
        """The name of a page after which all wanted pages lie."""
        return recent.page_name_at(_midnight(self.day) + timedelta(days=1)) if self.day else ""

    @property
    def last_name(self) -> str:
        """The name of a page before which all wanted pages lie."""
        return recent.page_name_at(_midnight(self.day) - LONGEST_RUN) if self.day else "~"


def name_of(image: str, settings: Settings) -> str:
    """An image as it is called here: its key below the images prefix, else its whole address."""
    return image.removeprefix(str(settings.images))


def folder_of(image: str, settings: Settings) -> str:
    """The folder of an image as it is called here; none at the top."""
    return name_of(image, settings).rpartition("/")[0]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _choice(kind: type[E], text: str, what: str, faults: list[str]) -> E | None:
    try:
        return kind(text) if text else None
    except ValueError:
        faults.append(f"There is no {what} “{text[:40]}”, so none is left out.")
        return None


def _day(text: str, faults: list[str]) -> date | None:
    try:
        day = date.fromisoformat(text) if text else None
    except ValueError:
        day = date.min
    if day is None or day.year in YEARS:
        return day
    faults.append(f"“{text[:40]}” is no day such as 2026-11-22, so all are shown.")
    return None
