"""`RunMonitor`, which follows a run for the command and ends it cleanly on Ctrl-C; `Ending`, how it ended."""

import asyncio
import os
import signal
from dataclasses import dataclass

from i2v.cli.output.progress import Progress
from i2v.errors import I2vError
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import Event, RunEnded, RunOpened
from i2v.reports.run_report import Report

STOPPING = (
    "Stopping: nothing more is submitted, and submitted jobs stay in the ledger. Press Ctrl-C again to quit now; "
    "nothing is charged twice."
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended; `signal` is the one that interrupted it, 0 for none."""

    report: Report
    error: I2vError | None = None
    signal: int = 0
    url: str | None = None
    """The flow run's page in the Prefect UI."""


class RunMonitor:
    """Follows a run for the command, and turns signals into a clean end."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._run: RunContext | None = None
        self.ended: RunEnded | None = None
        self.signal = 0

    @property
    def report(self) -> Report:
        """The run's report, empty before its end."""
        return self.ended.report if self.ended else Report()

    def on_event(self, event: Event) -> None:
        """Handle signals from the start of the run, and keep its report, even if the run is stopped later."""
        match event:
            case RunOpened(run):
                self._run = run
                loop = asyncio.get_running_loop()
                for number in (signal.SIGINT, signal.SIGTERM):  # Prefect's own handler would abort the run
                    loop.add_signal_handler(number, self._interrupt, number)
            case RunEnded():
                self.ended = event
            case _:
                pass
        self.progress.on_event(event)

    def _interrupt(self, number: int) -> None:
        if self.signal or self._run is None:
            self.progress.console.show_cursor()
            os._exit(128 + number)
        self.signal = number
        self.progress.say(STOPPING)
        self._run.brake.interrupt()
