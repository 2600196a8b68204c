"""The progress of a run: a bar on a terminal, otherwise a line every 15 seconds."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from i2v.pipeline.events import Event, ImageDone, ImagesCounted, RunEnded, RunOpened, update_progress
from i2v.reports.progress import RunProgress

LINE_SECONDS = 15.0
"""The time between two lines if there is no terminal."""


class Progress:
    """Shows the stages before a run, and then the run's events."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._started = self._last_line = time.monotonic()
        self._progress = RunProgress()

    def _begin(self, stage: str, total: int | None = None) -> None:
        self._progress = RunProgress()
        self._bar.reset(self._task, total=total, description=stage)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def doing(self, stage: str, total: int | None = None) -> None:
        """Show a stage before the run, such as `uploading`, that has `total` steps."""
        self._begin(stage, total)
        if self._bar.disable:
            self._line(stage if total is None else f"{stage}: {total}")

    def advance(self) -> None:
        """Count one step of the stage."""
        self._bar.advance(self._task)

    def say(self, text: str) -> None:
        """Print a permanent line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def on_event(self, event: Event) -> None:
        """Show an event of the run."""
        changed = update_progress(self._progress, event)
        match event:
            case RunOpened():
                self._begin("looking for images")
            case ImagesCounted(count):
                self._bar.update(self._task, total=count)
            case ImageDone():
                self._bar.advance(self._task)
            case RunEnded(report):
                self._bar.update(self._task, description=report.summary)
            case _:
                pass
        if changed:
            self._show()

    def _show(self) -> None:
        if not self._bar.disable:
            self._bar.update(self._task, description=self.words)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._line(f"{self._progress.done.total()} of {self._progress.total} done: {self.words}")

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self.say(f"{text} ({self._last_line - self._started:.0f} s)")

    @property
    def words(self) -> str:
        """Return the images by step and outcome, and what was spent so far."""
        return self._progress.words
