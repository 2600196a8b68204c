"""The pure functions that change a job record. Each returns the new record, or `None` if it does not apply.

`Ledger.change` writes what they return, and rejects it if `validate_change` does. The diagram is in `i2v.ledger.job`.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from i2v.ledger.job import DROPPED_CODE, Attempt, Delivery, JobImage, JobRecord, JobState, Reason, StoredVideo


def validate_change(old: JobRecord, new: JobRecord) -> None:
    """Raise `ValueError` if `new` has an illegal state or another identity, or loses a task id or a charged attempt."""
    if new.state != old.state and not old.state.can_become(new.state):
        raise ValueError(f"job {old.key[:12]}: {old.state} cannot become {new.state}")
    if (old.key, old.request) != (new.key, new.request):
        raise ValueError(f"job {old.key[:12]}: a record's identity cannot change")
    if new.last_attempt < old.last_attempt or (old.video and new.video != old.video):
        raise ValueError(f"job {old.key[:12]}: `last_attempt` cannot decrease and a stored video cannot change")
    kept = {attempt.number: attempt.task_ids for attempt in new.attempts}
    for attempt in old.attempts:
        if attempt.fail and attempt.number not in kept:
            raise ValueError(f"job {old.key[:12]}: attempt {attempt.number} may have been charged and would be lost")
        if lost := attempt.task_ids - kept.get(attempt.number, frozenset()):
            raise ValueError(f"job {old.key[:12]}: task ids {sorted(lost)} would be lost")


def claim(
    record: JobRecord,
    *,
    token: str,
    run_id: str,
    image: JobImage,
    price_usd: Decimal,
    now: datetime,
    delivery: Delivery = "poll",
) -> JobRecord | None:
    """Claim a ready job for one POST. The record takes the claimant's image."""
    if record.state is not JobState.READY:
        return None
    number = record.last_attempt + 1
    attempt = Attempt(number=number, claim=token, run_id=run_id, claimed_at=now, price_usd=price_usd, delivery=delivery)
    attempts = (*record.attempts, attempt)
    return record.transition(JobState.CLAIMED, image=image, attempts=attempts, last_attempt=number, reason=None)


def release(record: JobRecord, token: str) -> JobRecord | None:
    """Remove an attempt that was not charged; the job is ready again."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or attempt.task_ids or record.state not in {JobState.CLAIMED, JobState.UNKNOWN}:
        return None
    rest = tuple(other for other in record.attempts if other is not attempt)
    if attempt is not record.attempt:
        return record.model_copy(update={"attempts": rest})
    return _resume_previous_task(record, rest) or record.transition(JobState.READY, attempts=rest, reason=None)


def _resume_previous_task(record: JobRecord, attempts: tuple[Attempt, ...]) -> JobRecord | None:
    """Return to the previous attempt if its task id arrived late and the task has not ended."""
    if not attempts or attempts[-1].task_id is None or attempts[-1].ended_at:
        return None
    return record.transition(JobState.SUBMITTED, attempts=attempts, reason=None)


def record_task(record: JobRecord, token: str, task_id: str, now: datetime) -> JobRecord | None:
    """Record the task id of a claim, in whatever state the job is now."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or task_id in attempt.task_ids:
        return None
    if attempt.task_id is not None:
        merged = attempt.model_copy(update={"other_task_ids": (*attempt.other_task_ids, task_id)})
        return record.model_copy(update={"attempts": record.with_attempt(merged)})
    revived = attempt.revived or attempt.fail is not None
    update = {"task_id": task_id, "submitted_at": now, "ended_at": None, "fail": None, "revived": revived}
    changes: dict[str, Any] = {"attempts": record.with_attempt(attempt.model_copy(update=update))}
    if attempt is record.attempt and record.state.can_become(JobState.SUBMITTED):
        return record.transition(JobState.SUBMITTED, reason=None, **changes)
    return record.model_copy(update=changes)


def mark_unknown(record: JobRecord, token: str, reason: Reason) -> JobRecord | None:
    """Mark a claim whose answer is lost, or whose lease expired: it was possibly charged."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or attempt is not record.attempt or record.state is not JobState.CLAIMED:
        return None
    return record.transition(JobState.UNKNOWN, reason=reason)


def reject(record: JobRecord, token: str, state: JobState, reason: Reason, now: datetime) -> JobRecord | None:
    """End a claim whose POST returned a final error and no task id: refused (not charged) or failed."""
    attempt = record.attempt_for_claim(token)
    if state is JobState.REFUSED and record.state is JobState.UNKNOWN:
        return release(record, token)  # the claimant now knows that nothing was charged
    if attempt is None or attempt is not record.attempt or attempt.task_ids or not record.state.can_become(state):
        return None
    if state is JobState.REFUSED:
        rest = record.attempts[:-1]
        return _resume_previous_task(record, rest) or record.transition(state, attempts=rest, reason=reason)
    return _fail(record, attempt, state, reason, now)


def _fail(record: JobRecord, attempt: Attempt, state: JobState, reason: Reason, now: datetime) -> JobRecord:
    ended = attempt.model_copy(update={"ended_at": now, "fail": reason})
    return record.transition(state, attempts=record.with_attempt(ended), reason=reason)


def end_task(record: JobRecord, task_id: str, state: JobState, reason: Reason, now: datetime) -> JobRecord | None:
    """End a task that the provider reports as failed: the job is refused, failed, or ready for another attempt."""
    attempt = record.attempt
    if attempt is None or attempt.task_id != task_id or record.state is not JobState.SUBMITTED:
        return None
    return _fail(record, attempt, state, reason, now)


def store(
    record: JobRecord, task_id: str, video: StoredVideo, now: datetime, created_at: datetime | None = None
) -> JobRecord | None:
    """Record the published video; `created_at` is the task's creation time by the provider's clock."""
    attempt = record.attempt
    if attempt is None or attempt.task_id != task_id or record.state is not JobState.SUBMITTED:
        return None
    ended = attempt.model_copy(update={"ended_at": now, "created_at": created_at})
    return record.transition(JobState.STORED, attempts=record.with_attempt(ended), video=video, reason=None)


def adopt(record: JobRecord, task_id: str, now: datetime) -> JobRecord | None:
    """Set the task of an unknown job that a person found; the job is submitted."""
    if record.state is not JobState.UNKNOWN or record.attempt is None:
        return None
    if any(task_id in attempt.task_ids for attempt in record.attempts):
        return None
    return record_task(record, record.attempt.claim, task_id, now)


def awaiting_callback(record: JobRecord, number: int) -> Attempt | None:
    """Return attempt `number` if it uses callbacks and its answer is lost, so that a callback may name its task."""
    attempt = next((one for one in record.attempts if one.number == number), None)
    if attempt is None or attempt.delivery != "callback" or attempt.task_id is not None:
        return None
    return attempt if attempt.fail is None or attempt.fail.code == DROPPED_CODE else None


def adopt_from_callback(record: JobRecord, number: int, task_id: str, now: datetime) -> JobRecord | None:
    """Record the task that a callback named and the provider confirmed, if the attempt awaits one.

    Only a task of the latest attempt changes the job's state.
    """
    attempt = awaiting_callback(record, number)
    if attempt is None or any(task_id in one.task_ids for one in record.attempts):
        return None
    return record_task(record, attempt.claim, task_id, now)


def resubmit(record: JobRecord, max_attempts: int) -> JobRecord | None:
    """Make the job ready at a person's request, with at least one attempt left."""
    if record.state not in {JobState.UNKNOWN, JobState.REFUSED, JobState.FAILED}:
        return None
    needed = len(record.attempts) + 1 - max_attempts
    return record.transition(JobState.READY, reason=None, extra_attempts=max(record.extra_attempts, needed))


def drop(record: JobRecord, reason: Reason, now: datetime) -> JobRecord | None:
    """Fail the job at a person's request."""
    if record.state not in {JobState.UNKNOWN, JobState.SUBMITTED} or record.attempt is None:
        return None
    return _fail(record, record.attempt, JobState.FAILED, reason, now)


def attempts_left(record: JobRecord, max_attempts: int) -> bool:
    """Return whether a transient failure may be followed by another attempt."""
    return len(record.attempts) < max_attempts + record.extra_attempts
