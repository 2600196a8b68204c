"""A span for a run, for each of its images, and for each step. Without a recorder, the work runs unchanged."""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode
from opentelemetry.util.types import AttributeValue

from i2v.errors import Refused
from i2v.ledger.ledger import VersionedRecord
from i2v.reports.run_report import FAILING_OUTCOMES, ItemReport, Outcome, Report

TRACER = trace.get_tracer("i2v")
T = TypeVar("T")
P = ParamSpec("P")
Attributes = Mapping[str, AttributeValue]
Step = Callable[P, Coroutine[Any, Any, T]]


@contextmanager
def _span(name: str, attributes: Attributes) -> Iterator[Span]:
    """Open a span. It gets the type of an error that ends it, but no text and no traceback, which may name a secret."""
    with TRACER.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            if not isinstance(error, Refused):
                span.set_status(StatusCode.ERROR)
            raise


def run_span(run_id: str, label: str | None, *, dry_run: bool) -> AbstractContextManager[Span]:
    """Return the span of a run, which is the current one until its end."""
    attributes: dict[str, AttributeValue] = {"i2v.run_id": run_id, "i2v.dry_run": dry_run}
    return _span("i2v.run", attributes | ({"i2v.label": label} if label else {}))


def describe_run(span: Span, report: Report) -> None:
    """Add a run's outcomes and cost to its span."""
    counts = {f"i2v.images.{outcome.value}": report.count(outcome) for outcome in Outcome}
    span.set_attributes({name: count for name, count in counts.items() if count})
    span.set_attribute("i2v.cost_usd", float(report.charges.charged))
    span.set_attribute("i2v.possibly_charged_usd", float(report.charges.possibly))
    if not report.completed:
        span.set_status(StatusCode.ERROR)


def start_image(label: str) -> Span:
    """Start the span of an image, which `until_done` ends."""
    return TRACER.start_span("i2v.image", attributes={"i2v.image": label})


def inside(span: Span, work: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """Call the work inside a span."""

    async def traced_work() -> T:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            return await work(*args, **kwargs)

    return traced_work() if span.is_recording() else work(*args, **kwargs)


def until_done(span: Span, work: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """Call the work inside an image's span, which ends with the outcome if the work returns one."""

    async def traced_work() -> T:
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            line = await work(*args, **kwargs)
            if isinstance(line, ItemReport):
                _describe_image(span, line)
            return line

    return traced_work() if span.is_recording() else work(*args, **kwargs)


def _describe_image(span: Span, line: ItemReport) -> None:
    request = line.request
    span.set_attribute("i2v.outcome", line.outcome.value)
    span.set_attribute("i2v.cost_usd", float(line.cost_usd))
    span.set_attribute("i2v.possibly_charged_usd", float(line.possibly_charged_usd))
    known = {"i2v.job": line.job, "i2v.task_id": line.task_id}
    span.set_attributes({name: value for name, value in known.items() if value})
    if request:
        span.set_attributes(
            {"i2v.mode": request.mode.value, "i2v.duration": request.duration, "i2v.take": request.take}
        )
    if line.outcome in FAILING_OUTCOMES - {Outcome.SUBMITTED}:
        span.set_status(StatusCode.ERROR)


def traced(name: str, describe: Callable[[T], Attributes]) -> Callable[[Step[P, T]], Step[P, T]]:
    """Run a step inside a span, with what `describe` says of its result."""

    def decorate(step: Step[P, T]) -> Step[P, T]:
        async def traced_step(*args: P.args, **kwargs: P.kwargs) -> T:
            with _span(f"i2v.{name}", {}) as span:
                result = await step(*args, **kwargs)
                span.set_attributes(describe(result))
                return result

        @wraps(step)
        def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
            is_recorded = trace.get_current_span().is_recording()
            return (traced_step if is_recorded else step)(*args, **kwargs)

        return call

    return decorate


def describe_job(job: VersionedRecord) -> dict[str, AttributeValue]:
    """Return the attributes of a job: its key, state, newest task, and what its attempts cost."""
    record = job.record
    task = {"i2v.task_id": record.task_id} if record.task_id else {}
    cost = float(sum(attempt.cost_usd for attempt in record.attempts))
    return {"i2v.job": record.key, "i2v.job.state": record.state.value, "i2v.job.cost_usd": cost, **task}
