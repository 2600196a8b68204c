"""The flow in this process: found, run against a Prefect server, and ended cleanly at a Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import i2v
from i2v.cli import end_at_signals
from i2v.cli.output.console import show_logs
from i2v.errors import I2vError, RunFailed, Stopped, UsageError
from i2v.pipeline.run import WATCHER

if TYPE_CHECKING:
    from i2v.cli.prefect.connection import FlowRunFacts
    from i2v.cli.progress import Progress
    from i2v.ledger.job import JobRecord
    from i2v.pipeline.run import Run
    from i2v.reports.run_report import ItemReport, Report

FLOW = Path("flows", "generate.py")
STOPPING = (
    "Stopping: nothing more is submitted, and what is submitted is written down. Once more ends at once, which is "
    "safe for the money and leaves the rest to the next run."
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a flow run ended; `signal` is the one that interrupted it, 0 for none."""

    report: Report | None
    error: I2vError | None = None
    signal: int = 0
    address: str | None = None


def project_root() -> Path:
    """Where flows and tasks lie: the working directory, else the checkout that this library is installed from.

    Raises:
        UsageError: neither is a project of i2v.
    """
    for folder in (Path.cwd(), *Path(i2v.__file__).resolve().parents):
        if (folder / "prefect.yaml").is_file() and (folder / FLOW).is_file():
            return folder
    raise UsageError(
        "The flows are not here: this is i2v's library alone",
        "Run it in a checkout of the project (the folder with prefect.yaml), or install that with: make setup",
    )


class Watch:
    """Follows the run for the command, and turns signals into a clean end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._run: Run | None = None
        self.report: Report | None = None
        self.facts: FlowRunFacts | None = None
        self.signal = 0

    def opened(self, run: Run) -> None:
        """From now on a signal interrupts the run; Prefect's own handler would break it off."""
        self._run = run
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, number)
        self._progress.opened(run)

    def _interrupt(self, number: int) -> None:
        if self.signal or self._run is None:
            self._progress.console.show_cursor()
            os._exit(128 + number)
        self.signal = number
        self._progress.say(STOPPING)
        self._run.interrupt()

    def counted(self, images: int) -> None:
        """Passed on."""
        self._progress.counted(images)

    def step(self, step: str, job: str) -> None:
        """Passed on."""
        self._progress.step(step, job)

    def submitted(self, record: JobRecord) -> None:
        """Passed on."""
        self._progress.submitted(record)

    def done(self, item: ItemReport) -> None:
        """Passed on."""
        self._progress.done(item)

    def ended(self, report: Report) -> None:
        """Keep the report, also of a run that is then stopped."""
        from i2v.cli.prefect.connection import facts_of_this_flow_run

        self.report, self.facts = report, facts_of_this_flow_run()
        self._progress.ended(report)


def run_flow(arguments: dict[str, Any], progress: Progress, *, verbose: bool) -> Ending:
    """Run `generate_videos` with these arguments.

    Raises:
        UsageError: the flows are not here.
        Stopped: no Prefect server answers.
    """
    root = project_root()
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        progress.doing("starting Prefect")
        from i2v.cli.prefect import connection, embedded_server

        api = connection.configured_api()
        embedded = None if api else stack.enter_context(embedded_server.EmbeddedServer())
        sys.path.insert(0, str(root))
        from flows.generate import generate_videos

        show_logs(progress.console, verbose=verbose)  # Prefect has set its own up meanwhile
        if embedded:
            stack.enter_context(connection.using(embedded.ready()))
        watch = Watch(progress)
        error = asyncio.run(_call(generate_videos, arguments, watch, embedded=bool(embedded)))
        end_at_signals("interrupted")
        address = connection.ui_address(watch.facts.flow_run_id) if api and watch.facts else None
        return Ending(watch.report, error, watch.signal, address)


async def _call(flow: Any, arguments: dict[str, Any], watch: Watch, *, embedded: bool) -> I2vError | None:
    from i2v.cli.prefect import connection

    if not embedded:
        await connection.check_api()
    WATCHER.set(watch)
    try:
        state = await flow(**arguments, return_state=True)
        result = await state.aresult(raise_on_failure=False)
    except I2vError:
        raise
    except Exception as error:
        if watch.report is None and watch.facts is None and isinstance(error, ImportError):
            raise
        return connection.prefect_failure(error)
    await connection.flush(watch.facts, until_recorded=embedded)
    if isinstance(result, RunFailed) or not isinstance(result, BaseException):
        return None
    return _told(result)


def _told(error: BaseException) -> I2vError:
    """What ended the flow before its report: all of that comes before the first submit."""
    if isinstance(error, UsageError | Stopped):
        return error
    if isinstance(error, I2vError):
        return Stopped(error.message, error.hint)
    return I2vError(f"The run failed: {type(error).__name__}: {error}", "Run it again with --verbose to see more")
