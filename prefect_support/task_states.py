"""How the end of a step is called in Prefect's UI, where Prefect has no word of its own, and what is told with it.

A state named here carries what the step gave, also a failed one: `flow_states.outcome` hands it on. Never for a task
that Prefect caches, but for `validate`, whose plain value is the same from both.
"""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from i2v.apixo.models import TaskStatus
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.money import money_text
from i2v.pipeline.run import Run
from i2v.pipeline.validate import ValidationResult

REFUSED, CACHED, ATTACHED, UNKNOWN, AGAIN, STILL_OPEN = "Refused", "Cached", "Attached", "Unknown", "Again", "Open"


def validated(checked: ValidationResult) -> State[Any] | dict[str, Any]:
    """Refused by its validation, or a plain value."""
    value = checked.model_dump(mode="json")
    return value if checked.facts else Completed(name=REFUSED, message=checked.refusal, data=value)


def submitted(run: Run, held: VersionedRecord) -> State[Any]:
    """Paid just now, or taken up as it was found."""
    record, attempt = held.record, held.record.attempt
    paid = attempt is not None and attempt.run_id == run.run_id
    match record.state:
        case JobState.STORED if not paid:
            return Completed(name=CACHED, message=f"its video is there: {_video(record)}", data=held)
        case JobState.STORED:
            return Completed(message=f"its video is there: {_video(record)}", data=held)
        case JobState.SUBMITTED if attempt and paid:
            return Completed(message=f"paid ${money_text(attempt.price_usd)}: task {record.task_id}", data=held)
        case JobState.SUBMITTED:
            return Completed(name=ATTACHED, message=f"paid by another run: task {record.task_id}", data=held)
        case _:
            return _ended(held, held)


def polled(run: Run, held: VersionedRecord, status: TaskStatus | None) -> State[Any]:
    """The task has ended, or the wait for it."""
    asked = run.polls.pop(held.record.key, 0)
    polls = "1 poll" if asked == 1 else f"{asked} polls"
    if status:
        took = f"rendered in {status.cost_ms / 1000:.0f} s" if status.cost_ms is not None else "rendered"
        return Completed(message=f"{took}, {polls}", data=(held, status))
    if held.record.state is JobState.SUBMITTED:
        return Completed(name=STILL_OPEN, message=f"still rendering after {polls}", data=(held, None))
    return _ended(held, (held, None))


def stored(held: VersionedRecord) -> State[Any]:
    """The video is in the bucket."""
    return Completed(message=_video(held.record), data=held)


def _ended(held: VersionedRecord, value: Any) -> State[Any]:
    """A job that is not to become a video, or not yet."""
    reason = held.record.reason.message if held.record.reason else held.record.state.value
    match held.record.state:
        case JobState.REFUSED:
            return Completed(name=REFUSED, message=reason, data=value)
        case JobState.READY:
            return Completed(name=AGAIN, message="another attempt follows", data=value)
        case JobState.STORED:
            return Completed(name=CACHED, message=f"its video is there: {_video(held.record)}", data=value)
        case JobState.UNKNOWN | JobState.CLAIMED:
            return Failed(name=UNKNOWN, message=reason, data=value)
        case _:
            return Failed(message=reason, data=value)


def _video(record: JobRecord) -> str:
    video = record.video
    if video is None:
        return "stored"
    return f"{video.uri} ({video.width}x{video.height}, {video.seconds:.1f} s, {video.size / 1e6:.1f} MB)"
