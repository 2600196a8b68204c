"""How a step runs as a Prefect task: when it is retried, its last state, and what it returns.

A state's color says what it means: green (Completed) is done, gray (Cancelled) ended without a video and is not a
failure, red (Failed) needs a person.

Every state carries the step's value, even a Failed one; `as_steps` passes the value on. Only `validate` is cached,
because it returns a plain value: if Prefect caches a named state, it renames the state to `Cached`.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.states import Cancelled, Completed, Failed
from prefect.utilities.annotations import quote

from i2v.errors import I2vError
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.money import money_text
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps
from i2v.pipeline.poll import PollResult
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.pipeline.video_order import Order

T = TypeVar("T")
StepTask = Task[Any, Coroutine[Any, Any, Any]]
REFUSED, CACHED, ATTACHED, UNKNOWN, READY, SUBMITTED = "Refused", "Cached", "Attached", "Unknown", "Ready", "Submitted"
_SHOWN = {"id", "type", "name", "timestamp", "state_details"}


def is_transient(_task: Any, _task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether Prefect may retry a free step: its error is temporary, and the run was not interrupted."""
    context = TaskRunContext.get()
    run: RunContext | None = context.parameters.get("run") if context else None
    interrupted = run is not None and run.brake.interrupted
    return isinstance(state.data, I2vError) and state.data.retryable and not interrupted


RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [2, 8],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
"""Of the free steps. `submit` has none: only the ledger decides whether to submit again."""


async def to_state(step: Awaitable[T], name: Callable[[T], State[Any]]) -> State[Any]:
    """Await a step and return its last state; an `I2vError` becomes a Failed state that carries it."""
    try:
        return name(await step)
    except I2vError as error:
        return Failed(message=error.message, data=error)


class _Predecessor(State[Any]):
    """The state that a step waits for, so that the UI draws an image's steps as a chain."""

    def result(self, *_: Any, **__: Any) -> None:
        """Return nothing: Prefect would read the result in a thread."""


_PREDECESSOR: ContextVar[_Predecessor | None] = ContextVar("predecessor", default=None)
"""The last step of the current image; each image is an asyncio task with a context of its own."""


async def run_step(step: StepTask, *args: Any) -> Any:
    """Run a step and return its value, or raise the `I2vError` that it raised.

    The steps of an image are linked explicitly: Prefect links by the `id()` of values, which are reused.
    """
    run: Any = step
    predecessor = _PREDECESSOR.get()
    waits = [predecessor] if predecessor else None
    state: State[Any] = await run(*map(quote, args), wait_for=waits, return_state=True)
    if context := FlowRunContext.get():
        context.run_results.clear()  # Prefect keeps the state of each result until the flow ends, to link by it
    if state.is_completed():
        _PREDECESSOR.set(_Predecessor.model_validate(state.model_dump(include=_SHOWN)))
    value = await state.aresult(raise_on_failure=False)
    if isinstance(value, BaseException):
        raise value
    return value


def as_steps(validate: StepTask, submit: StepTask, poll: StepTask, store: StepTask) -> Steps:
    """Return the pipeline's steps, each run as a Prefect task."""
    validations: dict[str, _Predecessor] = {}  # an image is validated in another asyncio task than it is submitted in

    async def run_validate(run: RunContext, image: ResolvedImage) -> ValidationResult:
        validation = ValidationResult.model_validate(await run_step(validate, run, image))
        if validation.facts and not run.dry_run and (predecessor := _PREDECESSOR.get()):
            validations[image.ref.label] = predecessor
        return validation

    async def run_submit(run: RunContext, order: Order) -> VersionedRecord:
        if predecessor := validations.pop(order.image.label, None):
            _PREDECESSOR.set(predecessor)
        submitted_job: VersionedRecord = await run_step(submit, run, order)
        return submitted_job

    return Steps(run_validate, run_submit, partial(run_step, poll), partial(run_step, store))


def validated(validation: ValidationResult) -> State[Any] | dict[str, Any]:
    """Return a plain value for a valid image, which Prefect may cache, and a `Refused` state for an invalid one."""
    value = validation.model_dump(mode="json")
    return value if validation.facts else Cancelled(name=REFUSED, message=validation.refusal, data=value)


def submitted(run: RunContext, job: VersionedRecord) -> State[Any]:
    """Return `Completed` for a job that this run paid for, `Attached` or `Cached` for an existing one."""
    record, attempt = job.record, job.record.attempt
    paid = attempt is not None and attempt.run_id == run.run_id
    match record.state:
        case JobState.STORED if paid:
            return Completed(message=f"already stored: {_video(record)}", data=job)
        case JobState.SUBMITTED if attempt and paid:
            return Completed(message=f"paid ${money_text(attempt.price_usd)}: task {record.task_id}", data=job)
        case JobState.SUBMITTED:
            return Completed(name=ATTACHED, message=f"paid by another run: task {record.task_id}", data=job)
        case _:
            return _ended(job, job)


def polled(result: PollResult) -> State[Any]:
    """Return `Completed` for a rendered video, `Submitted` for one still rendering, otherwise the job's last state."""
    polls = "1 poll" if result.polls == 1 else f"{result.polls} polls"
    if status := result.status:
        took = f"rendered in {status.cost_ms / 1000:.0f} s" if status.cost_ms is not None else "rendered"
        return Completed(message=f"{took}, {polls}", data=result)
    if result.job.record.state is JobState.SUBMITTED:
        return Cancelled(name=SUBMITTED, message=f"still rendering after {polls}", data=result)
    return _ended(result.job, result)


def stored(job: VersionedRecord) -> State[Any]:
    """Return `Completed` with the video's URI and size."""
    return Completed(message=_video(job.record), data=job)


def _ended(job: VersionedRecord, value: Any) -> State[Any]:
    """Return the state for a job that needs no further step in this attempt."""
    reason = job.record.reason.message if job.record.reason else job.record.state.value
    match job.record.state:
        case JobState.REFUSED | JobState.FORGOTTEN:
            return Cancelled(name=REFUSED, message=reason, data=value)
        case JobState.READY:
            return Completed(name=READY, message="another attempt follows", data=value)
        case JobState.STORED:
            return Completed(name=CACHED, message=f"already stored: {_video(job.record)}", data=value)
        case JobState.UNKNOWN | JobState.CLAIMED:
            return Failed(name=UNKNOWN, message=reason, data=value)
        case _:
            return Failed(message=reason, data=value)


def _video(record: JobRecord) -> str:
    video = record.video
    if video is None:
        return "stored"
    return f"{video.uri} ({video.width}x{video.height}, {video.seconds:.1f} s, {video.size / 1e6:.1f} MB)"
