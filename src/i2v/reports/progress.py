"""The progress of a run, `RunProgress`, which the progress bar and the live page render."""

from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from i2v.ledger.job import JobRecord
from i2v.money import Charges, sum_charges
from i2v.reports.run_report import ItemReport, Outcome

RENDERING, STORING = "rendering", "storing"
RENDER_TIMES = 50
"""The number of render times that the estimate of the end uses."""


class JobStep(NamedTuple):
    """A job's current step and when it started."""

    step: str
    since: datetime


class RunProgress:
    """Counts the jobs of a run by step, and its images by outcome."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done: Counter[Outcome] = Counter()
        self.render_seconds: deque[float] = deque(maxlen=RENDER_TIMES)
        """The render times of the newest jobs."""
        self._steps: dict[str, JobStep] = {}
        self._done_charges = Charges()
        self._open_charges: dict[str, Charges] = {}
        """Of the jobs in progress."""

    def submit(self, record: JobRecord) -> None:
        """Count what an attempt of this run was charged."""
        if record.attempt:
            earlier = self._open_charges.get(record.key, Charges())
            self._open_charges[record.key] = earlier + record.attempt.charges
        self.start_step(RENDERING, record.key)

    def start_step(self, step: str, job: str) -> bool:
        """Record the step of a job; return whether it changed."""
        current = self._steps.get(job)
        if current and current.step == step:
            return False
        self._steps[job] = JobStep(step, datetime.now(UTC))
        return True

    def finish_image(self, item: ItemReport) -> None:
        """Count an image's outcome."""
        if item.job:
            self._steps.pop(item.job, None)
            self._open_charges.pop(item.job, None)
        if item.outcome is not Outcome.PLANNED:
            self._done_charges += item.charges
        self.done[item.outcome] += 1

    @property
    def counts(self) -> dict[str, int]:
        """The number of images by step and by outcome, without zeros."""
        steps = Counter(each.step for each in self._steps.values())
        waiting = (self.total or 0) - self.done.total() - steps[RENDERING] - steps[STORING]
        counts = {"waiting": max(0, waiting), RENDERING: steps[RENDERING], STORING: steps[STORING]}
        counts |= {outcome.text: self.done[outcome] for outcome in Outcome}
        return {words: count for words, count in counts.items() if count}

    @property
    def charges(self) -> Charges:
        """What the run was charged so far."""
        return self._done_charges + sum_charges(self._open_charges.values())

    @property
    def words(self) -> str:
        """The counts and the cost in one line."""
        money = [str(self.charges)] if self.charges else []
        return " · ".join([*(f"{count} {words}" for words, count in self.counts.items()), *money])

    @property
    def percent(self) -> float:
        """The share of images that have an outcome."""
        return 100 * self.done.total() / self.total if self.total else 0.0

    @property
    def oldest(self) -> datetime | None:
        """The start time of the job that has been rendering longest."""
        return min((each.since for each in self._steps.values() if each.step == RENDERING), default=None)

    @property
    def expected_end(self) -> datetime | None:
        """The end of the run if each job takes as long as the slowest recent one; `None` before the first."""
        slowest, now = max(self.render_seconds, default=None), datetime.now(UTC)
        if slowest is None:
            return None
        ends = [each.since + timedelta(seconds=slowest) for each in self._steps.values() if each.step == RENDERING]
        if self.counts.get("waiting"):
            ends.append(now + timedelta(seconds=slowest))
        return max([now, *ends])
