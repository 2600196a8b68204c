"""How far a run is, image by image: `RunProgress`, which whoever watches a run keeps and shows in its own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from i2v.ledger.job import JobRecord
from i2v.money import money_text
from i2v.reports.run_report import ItemReport, Outcome

RENDERING, STORING = "rendering", "storing"


class At(NamedTuple):
    """What a job is at, and since when."""

    step: str
    since: datetime


class RunProgress:
    """Told what a watcher is told (`i2v.pipeline.run.Watcher`). Jobs are counted; their images end one by one."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done: Counter[Outcome] = Counter()
        self._at: dict[str, At] = {}

    def counted(self, images: int) -> None:
        """So many images are in the run."""
        self.total = images

    def step(self, step: str, job: str) -> bool:
        """A job is at a step; whether that is new."""
        at = self._at.get(job)
        if at and at.step == step:
            return False
        self._at[job] = At(step, datetime.now(UTC))
        return True

    def submitted(self, record: JobRecord) -> None:
        """A job was paid, and renders from now on."""
        self.step(RENDERING, record.key)

    def ended(self, item: ItemReport) -> None:
        """An image has ended."""
        if item.job:
            self._at.pop(item.job, None)
        self.done[item.outcome] += 1

    @property
    def counts(self) -> dict[str, int]:
        """How many images are at each step, and how many ended how; none that are 0."""
        at = Counter(each.step for each in self._at.values())
        waiting = (self.total or 0) - self.done.total() - at[RENDERING] - at[STORING]
        counts = {"waiting": max(0, waiting), RENDERING: at[RENDERING], STORING: at[STORING]}
        counts |= {outcome.text: self.done[outcome] for outcome in Outcome}
        return {words: count for words, count in counts.items() if count}

    def words(self, spent_usd: Decimal) -> str:
        """All in one line, with the money so far."""
        money = [f"${money_text(spent_usd)}"] if spent_usd else []
        return " · ".join([*(f"{count} {words}" for words, count in self.counts.items()), *money])

    @property
    def percent(self) -> float:
        """How many of the images have ended."""
        return 100 * self.done.total() / self.total if self.total else 0.0

    @property
    def oldest(self) -> datetime | None:
        """Since when the job renders that does so longest."""
        return min((at.since for at in self._at.values() if at.step == RENDERING), default=None)

    def expected_end(self, rendered_seconds: Iterable[float]) -> datetime | None:
        """When all will have ended if each renders as long as the slowest of these; None where there are none."""
        slowest, now = max(rendered_seconds, default=None), datetime.now(UTC)
        if slowest is None:
            return None
        ends = [at.since + timedelta(seconds=slowest) for at in self._at.values() if at.step == RENDERING]
        if self.counts.get("waiting"):
            ends.append(now + timedelta(seconds=slowest))
        return max([now, *ends])
