"""How a flow ends: its last state for each result.

An `I2vError` becomes a Failed state with one clear message, never a traceback.
"""

from typing import Any

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from i2v.errors import I2vError, RunFailed, UsageError
from i2v.recovery.backfill import ReconcileResult
from i2v.reports.run_report import Outcome, Report


def final_state(report: Report) -> State[Any]:
    """Return a run's last state: its message is the report's summary, its result the report."""
    return _ended(report.summary, report, succeeded=report.completed)


def reconciled_state(result: ReconcileResult) -> State[Any]:
    """Return the last state of a reconcile. Jobs that still render or need a person do not fail it."""
    if result.stopped:
        return stopped_state(result.stopped, result.report)
    return _ended(result.summary, result.report, succeeded=result.completed)


def _ended(summary: str, report: Report, *, succeeded: bool) -> State[Any]:
    value = report.for_json()
    if succeeded:
        return Completed(message=summary, data=value)
    return Failed(message=summary, data=RunFailed(summary, value))


def stopped_state(error: I2vError, report: Report | None = None) -> State[Any]:
    """Return the last state of a run that an error stopped; the message adds the report if any image was tried."""
    has_outcomes = report and report.count(Outcome.NOT_TRIED) < len(report.items)
    done = f" ({report.summary})" if report and has_outcomes else ""
    return Failed(message=f"{error}{done}", data=error)


def raise_for_retry(state: State[Any]) -> State[Any]:
    """Raise the error of a failed run that has retries left, such as one of `collect`; otherwise return the state.

    If the flow raises, Prefect retries it in this process. If it returns a Failed state, Prefect schedules a retry,
    then sees the process end and marks the run Crashed.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    retries_left = run is not None and run.run_count <= (run.empirical_policy.retries or 0)
    if retries_left and isinstance(state.data, I2vError) and not isinstance(state.data, UsageError):
        raise state.data
    return state
