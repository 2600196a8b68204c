"""What happens in a run, as it happens: one frozen class per event, passed to each `EventListener`.

Add an event where something outside the library must follow a run (progress bar, Prefect artifact, Prefect event).
Listeners run inside the event loop: they must not block or raise.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from i2v.errors import Stopped
from i2v.ledger.job import JobRecord
from i2v.reports.progress import RunProgress
from i2v.reports.run_report import ItemReport, Report

if TYPE_CHECKING:
    from i2v.pipeline.context import RunContext


@dataclass(frozen=True, slots=True)
class RunOpened:
    """The run is open and can be interrupted."""

    run: RunContext


@dataclass(frozen=True, slots=True)
class ImagesCounted:
    """The run has this many images."""

    count: int


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A job is `waiting`, `rendering` or `storing`."""

    step: str
    job_key: str


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """This run paid for a job, and its task id is recorded."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class JobRendered:
    """The provider has rendered a job's video; `seconds` where it says how long that took."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class ImageDone:
    """An image has its outcome."""

    item: ItemReport


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has its report; `stopped` is the error that ended it before its first submit."""

    report: Report
    stopped: Stopped | None = None


Event = RunOpened | ImagesCounted | StepStarted | JobSubmitted | JobRendered | ImageDone | RunEnded


class EventListener(Protocol):
    """Follows a run from the same process."""

    def on_event(self, event: Event) -> None:
        """Handle one event."""


LISTENER: ContextVar[EventListener | None] = ContextVar("event_listener", default=None)
"""A listener for the runs of this context. Set it before the flow is called."""


def update_progress(progress: RunProgress, event: Event) -> bool:
    """Apply an event to the counts of a run; return whether they changed."""
    match event:
        case ImagesCounted(count):
            progress.total = count
        case StepStarted(step, job_key):
            return progress.start_step(step, job_key)
        case JobSubmitted(record):
            progress.submit(record)
        case JobRendered(seconds):
            if seconds is not None:
                progress.render_seconds.append(seconds)
            return False
        case ImageDone(item):
            progress.finish_image(item)
        case RunOpened() | RunEnded():
            return False
    return True
