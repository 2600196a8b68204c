"""Run the flow `generate` in this process, against a Prefect server. Ctrl-C ends it cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2v.cli import end_at_signals
from i2v.cli.output.console import show_logs
from i2v.cli.project import project_root
from i2v.errors import I2vError, RunFailed, Stopped, UsageError
from i2v.pipeline.events import LISTENER, Event, RunEnded, RunOpened

if TYPE_CHECKING:
    from i2v.cli.prefect.connection import FlowRunFacts
    from i2v.cli.progress import Progress
    from i2v.pipeline.context import RunContext
    from i2v.reports.run_report import Report

STOPPING = (
    "Stopping: nothing more is submitted, and submitted jobs stay in the ledger. Press Ctrl-C again to quit now; "
    "nothing is charged twice."
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a flow run ended; `signal` is the one that interrupted it, 0 for none."""

    report: Report | None
    error: I2vError | None = None
    signal: int = 0
    address: str | None = None


class RunMonitor:
    """Follows a run for the command, and turns signals into a clean end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._run: RunContext | None = None
        self.report: Report | None = None
        self.signal = 0

    def on_event(self, event: Event) -> None:
        """Handle signals from the run's start, and keep its report, also of a run that is then stopped."""
        match event:
            case RunOpened(run):
                self._handle_signals(run)
            case RunEnded(report):
                self.report = report
            case _:
                pass
        self._progress.on_event(event)

    def _handle_signals(self, run: RunContext) -> None:
        """Interrupt the run at a signal; Prefect's own handler would abort it."""
        self._run = run
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, number)

    def _interrupt(self, number: int) -> None:
        if self.signal or self._run is None:
            self._progress.console.show_cursor()
            os._exit(128 + number)
        self.signal = number
        self._progress.say(STOPPING)
        self._run.brake.interrupt()


class FlowRunMonitor(RunMonitor):
    """A monitor that also notes the flow run in Prefect."""

    facts: FlowRunFacts | None = None

    def on_event(self, event: Event) -> None:
        """Note the flow run at its end."""
        if isinstance(event, RunEnded):
            from i2v.cli.prefect.connection import facts_of_this_flow_run

            self.facts = facts_of_this_flow_run()
        super().on_event(event)


def run_flow(arguments: dict[str, Any], progress: Progress, *, verbose: bool) -> Ending:
    """Run `generate_videos` with these arguments.

    Raises:
        UsageError: the flows are not installed.
        Stopped: no Prefect server responds.
    """
    root = project_root()
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        progress.doing("starting Prefect")
        from i2v.cli.prefect import connection
        from i2v.cli.prefect.embedded_server import EmbeddedServer
        from i2v.cli.prefect.flow_loader import load_flow

        api = connection.configured_api()
        embedded = None if api else stack.enter_context(EmbeddedServer())
        flow = load_flow(root)
        show_logs(progress.console, verbose=verbose)  # after Prefect's import, which configures logging
        if embedded:
            stack.enter_context(connection.using(embedded.ready()))
        monitor = FlowRunMonitor(progress)
        error = asyncio.run(_call(flow, arguments, monitor, embedded=bool(embedded)))
        end_at_signals("interrupted")
        address = connection.ui_address(monitor.facts.flow_run_id) if api and monitor.facts else None
        return Ending(monitor.report, error, monitor.signal, address)


async def _call(flow: Any, arguments: dict[str, Any], monitor: FlowRunMonitor, *, embedded: bool) -> I2vError | None:
    from i2v.cli.prefect import connection

    if not embedded:
        await connection.check_api()
    LISTENER.set(monitor)
    try:
        state = await flow(**arguments, return_state=True)
        result = await state.aresult(raise_on_failure=False)
    except I2vError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever Prefect raises becomes one clear message
        return connection.prefect_failure(error)
    await connection.flush(monitor.facts, until_recorded=embedded)
    if isinstance(result, RunFailed) or not isinstance(result, BaseException):
        return None
    return _as_stopped(result)


def _as_stopped(error: BaseException) -> I2vError:
    """Return what ended the flow before its report: that always comes before the first submit."""
    if isinstance(error, UsageError | Stopped):
        return error
    if isinstance(error, I2vError):
        return Stopped(error.message, error.hint)
    return I2vError(f"The run failed: {type(error).__name__}: {error}", "Run it again with --verbose to see more")
