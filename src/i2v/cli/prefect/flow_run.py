"""Run the flow `generate` in this process, against the configured Prefect server or a temporary one."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings

from i2v.advised_commands import command
from i2v.cli.images.validate_ahead import Results, ValidatedAhead
from i2v.cli.output.console import show_logs
from i2v.cli.output.progress import Progress
from i2v.cli.prefect import connection
from i2v.cli.prefect.embedded_server import EmbeddedServer
from i2v.cli.prefect.flow_loader import load_flow, project_root
from i2v.cli.prefect.ui_links import flow_run_url
from i2v.cli.run_monitor import Ending, RunMonitor
from i2v.cli.signals import end_at_signals
from i2v.errors import I2vError, RunFailed, Stopped, UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.pipeline.events import LISTENER, Event, ImagesCounted, RunEnded, RunOpened

WAITING = "starting a temporary Prefect server; set PREFECT_API_URL to use a running one"
MANY_IMAGES = 1_000
USE_BATCH = "%d images in one process: --batch spreads them over the workers of your Prefect server"


class FlowRunMonitor(RunMonitor):
    """A monitor that also notes the flow run in Prefect, and hands the run what was validated ahead."""

    def __init__(self, progress: Progress, validated_ahead: Results) -> None:
        super().__init__(progress)
        self.flow_run: connection.FlowRunFacts | None = None
        self._validated_ahead = validated_ahead

    def on_event(self, event: Event) -> None:
        """Note the flow run at its end, and advise a batch for many images."""
        if isinstance(event, RunOpened):
            event.run.validated_ahead.update(self._validated_ahead)
        if isinstance(event, RunEnded):
            self.flow_run = connection.current_flow_run()
        if isinstance(event, ImagesCounted) and event.count > MANY_IMAGES:
            self.progress.say(USE_BATCH % event.count)
        super().on_event(event)


def run_flow(
    arguments: dict[str, Any],
    upload: Callable[[], Coroutine[Any, Any, Sequence[str | BatchRow]]],
    ahead: ValidatedAhead,
    embedded: EmbeddedServer | None,
    progress: Progress,
    *,
    verbose: bool,
) -> Ending:
    """Upload images and run `generate_videos` with them, on the configured server or on `embedded`, which is starting.

    Redirect stdout first: Prefect writes to it. Raise `UsageError` if the flows are not installed, and `Stopped` if no
    Prefect server responds; nothing is uploaded before it does.
    """
    flow = load_flow(project_root())
    show_logs(progress.console, verbose=verbose)  # after Prefect's import, which configures logging
    with ExitStack() as stack:
        stack.enter_context(temporary_settings(connection.run_settings()))
        has_server = bool(connection.configured_api())
        if has_server or embedded is None:
            progress.doing("connecting to Prefect")
            asyncio.run(connection.check_api())
        else:
            started_url = asyncio.run(ahead.until(embedded.wait_for_url(), WAITING))
            stack.enter_context(temporary_settings({PREFECT_API_URL: started_url}))
        images = asyncio.run(upload())
        monitor = FlowRunMonitor(progress, ahead.results)
        error = asyncio.run(_call(flow, arguments | {"images": images}, monitor, has_server=has_server))
        end_at_signals("interrupted")
        url = flow_run_url(monitor.flow_run.id) if has_server and monitor.flow_run else None
        return Ending(monitor.report, error, monitor.signal, url)


async def _call(flow: Any, arguments: dict[str, Any], monitor: FlowRunMonitor, *, has_server: bool) -> I2vError | None:
    """Run the flow. Return the error that stopped it, `None` if it ended with a report.

    Prefect returns a state without the flow's result if the answer to its last request was lost; the run's own report
    then shows how it ended.
    """
    LISTENER.set(monitor)
    try:
        state = await flow(**arguments, return_state=True)
        result = await state.aresult(raise_on_failure=False)
    except I2vError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever Prefect raises becomes one clear message
        if monitor.ended:
            return _as_reported(monitor, monitor.ended, error)
        return I2vError(
            f"Prefect failed during the run: {type(error).__name__}: {error}",
            f"A new run resumes submitted videos without paying again. List them with: {command('jobs')}",
        )
    await connection.flush(monitor.flow_run, until_recorded=not has_server)
    if isinstance(result, RunFailed) or not isinstance(result, BaseException):
        return None
    if monitor.ended and not isinstance(result, I2vError):
        return _as_reported(monitor, monitor.ended, result)
    return _as_stopped(result)


def _as_reported(monitor: RunMonitor, ended: RunEnded, error: BaseException) -> Stopped | None:
    """Return how a run ended whose last state Prefect may not have recorded."""
    monitor.progress.say(f"Prefect may not show how this run ended: {type(error).__name__}")
    return ended.stopped


def _as_stopped(error: BaseException) -> I2vError:
    """Return the error that ended the flow before its report, which is always before the first submit."""
    if isinstance(error, UsageError | Stopped):
        return error
    if isinstance(error, I2vError):
        return Stopped(error.message, error.hint)
    return I2vError(f"The run failed: {type(error).__name__}: {error}", "Run it again with --verbose to see more")
