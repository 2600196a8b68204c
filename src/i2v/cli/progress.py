"""What is seen of a run while it lives: `Progress`, a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from i2v.reports.progress import RunProgress

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from i2v.ledger.job import JobRecord
    from i2v.pipeline.run import Run
    from i2v.reports.run_report import ItemReport, Report

LINE_SECONDS = 15.0
"""Between two lines where there is no terminal."""


class Progress:
    """A watcher (`i2v.pipeline.run.Watcher`) that shows what it is told.

    Args:
        console: where the bar or the lines go.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._started = self._told = time.monotonic()
        self._run: Run | None = None
        self._begin("")

    def _begin(self, doing: str, total: int | None = None) -> None:
        self._tally = RunProgress()
        self._bar.reset(self._task, total=total, description=doing)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def doing(self, what: str, total: int | None = None) -> None:
        """Show another stage before the run itself, such as `uploading`, of so many steps."""
        self._begin(what, total)
        if not self._bar.disable:
            return
        self._line(what if total is None else f"{what}: {total}")

    def advance(self) -> None:
        """One more of the stage's steps is done."""
        self._bar.advance(self._task)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def opened(self, run: Run) -> None:
        """The run is open."""
        self._begin("looking for images")
        self._run = run

    def counted(self, images: int) -> None:
        """So many images are in the run."""
        self._tally.counted(images)
        self._bar.update(self._task, total=images)
        self._changed()

    def step(self, step: str, job: str) -> None:
        """A job is at a step."""
        if self._tally.step(step, job):
            self._changed()

    def submitted(self, record: JobRecord) -> None:
        """A job was paid."""
        self._tally.submitted(record)
        self._changed()

    def done(self, item: ItemReport) -> None:
        """An image has ended."""
        self._tally.ended(item)
        self._bar.advance(self._task)
        self._changed()

    def ended(self, report: Report) -> None:
        """The run has its report, and Prefect is told the rest."""
        self._bar.update(self._task, description=report.summary)

    def _changed(self) -> None:
        if not self._bar.disable:
            self._bar.update(self._task, description=self.words)
        elif time.monotonic() - self._told >= LINE_SECONDS:
            self._line(f"{self._tally.done.total()} of {self._tally.total} done: {self.words}")

    def _line(self, text: str) -> None:
        self._told = time.monotonic()
        self.say(f"{text} ({self._told - self._started:.0f} s)")

    @property
    def words(self) -> str:
        """How many images are at each step, and the money so far."""
        spent = self._run.budget.spent_usd if self._run and not self._run.dry_run else Decimal(0)
        return self._tally.words(spent)
