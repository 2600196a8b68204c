"""How ends are told to Prefect: what i2v expects to go wrong is a Failed state with a sentence, and no traceback."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from i2v.errors import I2vError, RunFailed, UsageError
from i2v.logs import use_json_lines
from i2v.pipeline.run import WATCHER, Run
from i2v.recovery.backfill import ReconcileResult
from i2v.reports.run_report import Outcome, Report
from i2v.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
_SHOWN = {"id", "type", "name", "timestamp", "state_details"}


class _Before(State[Any]):
    """What a step waits for, to be shown after it. Its result is nobody's, where Prefect asks a thread for it."""

    def result(self, *_: Any, **__: Any) -> None:
        """Nothing."""


_BEFORE: ContextVar[_Before | None] = ContextVar("step_before", default=None)
"""The last step of the image that is being worked on; each image is an asyncio task of its own."""


async def to_state(step: Awaitable[T], name: Callable[[T], State[Any]]) -> State[Any]:
    """Await a step and name its end; an expected error becomes the task's Failed state and travels in it."""
    try:
        return name(await step)
    except I2vError as error:
        return Failed(message=error.message, data=error)


async def run_step(step: Task[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs) -> Any:
    """Run a step and give what it gave.

    The steps of an image are tied together by hand: Prefect would guess by `id()`, and tie strangers.

    Raises:
        I2vError: what the step raised.
    """
    run: Any = step
    before = _BEFORE.get()
    state: State[Any] = await run(*map(quote, args), **kwargs, wait_for=[before] if before else None, return_state=True)
    _forget_links()
    if state.is_completed():
        _BEFORE.set(_Before.model_validate(state.model_dump(include=_SHOWN)))
    given = await state.aresult(raise_on_failure=False)
    if isinstance(given, BaseException):
        raise given
    return given


def _forget_links() -> None:
    """Let go of the state of each result, which Prefect keeps until the flow ends, to guess by: here nobody guesses."""
    if context := FlowRunContext.get():
        context.run_results.clear()


def final_state(report: Report) -> State[Any]:
    """A run's last state: its message is the report in words, its result the report."""
    result = report.for_json()
    if report.succeeded:
        return Completed(message=report.summary, data=result)
    return Failed(message=report.summary, data=RunFailed(report.summary, result))


def reconciled_state(ended: ReconcileResult) -> State[Any]:
    """Reconcile's last state: jobs that still render, or wait for a person, are told and are no failure of its own."""
    if ended.stopped:
        return stopped_state(ended.stopped, ended.report)
    result = ended.report.for_json()
    if ended.succeeded:
        return Completed(message=ended.summary, data=result)
    return Failed(message=ended.summary, data=RunFailed(ended.summary, result))


def stopped_state(error: I2vError, report: Report | None = None) -> State[Any]:
    """The last state of a run that an error stopped before its first submit; what was there already is told too."""
    to_state = f" ({report.summary})" if report and report.count(Outcome.NOT_TRIED) < len(report.items) else ""
    return Failed(message=f"{error}{to_state}", data=error)


def raise_for_retry(state: State[Any]) -> State[Any]:
    """A run's last state; but the error of a failed run that has tries left, as one of `collect` has.

    Prefect tries again in this process what raises. For a failed state that is returned it plans the next try, sees the
    process end, and calls the run Crashed.

    Raises:
        Exception: the state's own error.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    tries_left = run is not None and run.run_count <= (run.empirical_policy.retries or 0)
    if tries_left and isinstance(state.data, I2vError) and not isinstance(state.data, UsageError):
        raise state.data
    return state


@contextmanager
def graceful_sigterm(run: Run) -> Iterator[None]:
    """End the run cleanly at a SIGTERM, which is how Prefect cancels and pods are stopped; then let Prefect hear of it.

    Prefect raises out of whatever runs, which would lose the answers to requests that are under way. Whoever watches
    the run from this process has handlers of its own.
    """
    if WATCHER.get():
        yield
        return
    heard: list[int] = []
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        heard.append(signal.SIGTERM)
        run.interrupt()

    try:
        loop.add_signal_handler(signal.SIGTERM, interrupt)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not in the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
    if heard:
        raise TerminationSignal(signal=signal.SIGTERM)


def send_library_logs() -> None:
    """Let Prefect show what the library logs, with the task run it belongs to."""
    _write_plainly_where_nobody_looks()
    log = logging.getLogger("i2v")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in log.handlers):
        log.addHandler(APILogHandler())
        logging.getLogger("prefect.task_runs").addFilter(_is_told_once)


def _write_plainly_where_nobody_looks() -> None:
    """Prefect lays out each line for a terminal, at half of its cost; a file or a pipe needs none of that."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, PrefectConsoleHandler) and not handler.console.is_terminal:
            plain = logging.StreamHandler(handler.stream)
            plain.setLevel(handler.level)
            plain.setFormatter(handler.formatter)
            plain.filters = handler.filters[:]
            root.removeHandler(handler)
            root.addHandler(plain)


def format_logs(settings: Settings) -> None:
    """Let what this process writes to its own output be JSON, if that is asked for."""
    if settings.log_format == "json":
        use_json_lines([logging.getLogger(), logging.getLogger("prefect")])


def _is_told_once(record: logging.LogRecord) -> bool:
    """Whether a line of Prefect's says what is not said again, by the task run's end and without a traceback.

    That a step went well is its state; as a line a step it is half of all that a run logs, and costs both sides dearly.
    """
    expected = bool(record.exc_info) and isinstance(record.exc_info[1], I2vError)  # type: ignore[index]
    again = "Task run failed with state: ", *(() if record.levelno > logging.INFO else ("Finished in state ",))
    return not expected and not record.getMessage().startswith(again)
