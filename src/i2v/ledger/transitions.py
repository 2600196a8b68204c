"""The pure functions that may change a job record. Each returns the new record, or `None` where it does not apply.

`i2v.ledger.ledger` reads and writes the records, and rejects what `validate_change` rejects.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from i2v.ledger.job import (
    ALLOWED_TRANSITIONS,
    DROPPED_CODE,
    Attempt,
    Delivery,
    JobImage,
    JobRecord,
    JobState,
    Reason,
    StoredVideo,
)


def validate_change(old: JobRecord, new: JobRecord) -> None:
    """Prove that `new` may follow `old`.

    Raises:
        ValueError: an illegal state, another identity, or a task id or paid attempt that would be lost.
    """
    if new.state != old.state and new.state not in ALLOWED_TRANSITIONS[old.state]:
        raise ValueError(f"job {old.key[:12]}: {old.state} cannot become {new.state}")
    if (old.key, old.request) != (new.key, new.request):
        raise ValueError(f"job {old.key[:12]}: a record's identity cannot change")
    if new.last_attempt < old.last_attempt or (old.video and new.video != old.video):
        raise ValueError(f"job {old.key[:12]}: attempts are counted for ever, and a stored video stays as it is")
    known = {attempt.number: attempt for attempt in new.attempts}
    for attempt in old.attempts:
        if attempt.fail and attempt.number not in known:
            raise ValueError(f"job {old.key[:12]}: attempt {attempt.number} may have been billed and would be lost")
        kept = known[attempt.number].task_ids if attempt.number in known else frozenset()
        if attempt.task_ids - kept:
            raise ValueError(f"job {old.key[:12]}: task ids {sorted(attempt.task_ids - kept)} would be lost")


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
    """Take a ready job for one POST; `None` where it is not ready. From now on it is the claimant's image's job."""
    if record.state is not JobState.READY:
        return None
    number = record.last_attempt + 1
    attempt = Attempt(number=number, claim=token, run_id=run_id, claimed_at=now, price_usd=price_usd, delivery=delivery)
    attempts = (*record.attempts, attempt)
    return record.transition(JobState.CLAIMED, image=image, attempts=attempts, last_attempt=number, reason=None)


def release(record: JobRecord, token: str) -> JobRecord | None:
    """The claimant knows that nothing was paid: ready again, and the attempt never was."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or attempt.task_ids or record.state not in {JobState.CLAIMED, JobState.UNKNOWN}:
        return None
    rest = tuple(other for other in record.attempts if other is not attempt)
    if attempt is not record.attempt:
        return record.model_copy(update={"attempts": rest})
    return _back_to_task(record, rest) or record.transition(JobState.READY, attempts=rest, reason=None)


def _back_to_task(record: JobRecord, attempts: tuple[Attempt, ...]) -> JobRecord | None:
    """Where the attempt before has a task after all, whose answer was given up too early, that is the job's."""
    if not attempts or attempts[-1].task_id is None or attempts[-1].ended_at:
        return None
    return record.transition(JobState.SUBMITTED, attempts=attempts, reason=None)


def record_task(record: JobRecord, token: str, task_id: str, now: datetime) -> JobRecord | None:
    """Write down the task id that came for a claim, whatever became of the record meanwhile."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or task_id in attempt.task_ids:
        return None
    if attempt.task_id is not None:
        merged = attempt.model_copy(update={"other_task_ids": (*attempt.other_task_ids, task_id)})
        return record.model_copy(update={"attempts": record.with_attempt(merged)})
    revived = attempt.revived or attempt.fail is not None
    update = {"task_id": task_id, "submitted_at": now, "ended_at": None, "fail": None, "revived": revived}
    changes: dict[str, Any] = {"attempts": record.with_attempt(attempt.model_copy(update=update))}
    if attempt is record.attempt and JobState.SUBMITTED in ALLOWED_TRANSITIONS[record.state]:
        return record.transition(JobState.SUBMITTED, reason=None, **changes)
    return record.model_copy(update=changes)


def mark_unknown(record: JobRecord, token: str, reason: Reason) -> JobRecord | None:
    """The claim's answer is lost, or its lease is over: it may have been paid, and only a fact can tell."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or attempt is not record.attempt or record.state is not JobState.CLAIMED:
        return None
    return record.transition(JobState.UNKNOWN, reason=reason)


def reject(record: JobRecord, token: str, state: JobState, reason: Reason, now: datetime) -> JobRecord | None:
    """The POST was answered with no task id but a final word: refused (nothing paid), or failed."""
    attempt = record.attempt_for_claim(token)
    if state is JobState.REFUSED and record.state is JobState.UNKNOWN:
        return release(record, token)  # its owner knows now that nothing was paid
    if (
        attempt is None
        or attempt is not record.attempt
        or attempt.task_ids
        or state not in ALLOWED_TRANSITIONS[record.state]
    ):
        return None
    if state is JobState.REFUSED:
        rest = record.attempts[:-1]
        return _back_to_task(record, rest) or record.transition(state, attempts=rest, reason=reason)
    ended = attempt.model_copy(update={"ended_at": now, "fail": reason})
    return record.transition(state, attempts=record.with_attempt(ended), reason=reason)


def end_task(record: JobRecord, task_id: str, state: JobState, reason: Reason, now: datetime) -> JobRecord | None:
    """The provider's status said failed: refused, failed, or ready for another attempt."""
    attempt = record.attempt
    if record.state is not JobState.SUBMITTED or attempt is None or attempt.task_id != task_id:
        return None
    ended = attempt.model_copy(update={"ended_at": now, "fail": reason})
    return record.transition(state, attempts=record.with_attempt(ended), reason=reason)


def store(
    record: JobRecord, task_id: str, video: StoredVideo, now: datetime, created_at: datetime | None = None
) -> JobRecord | None:
    """The video is published; `created_at` is the task's creation by the provider's clock."""
    attempt = record.attempt
    if record.state is not JobState.SUBMITTED or attempt is None or attempt.task_id != task_id:
        return None
    ended = attempt.model_copy(update={"ended_at": now, "created_at": created_at})
    return record.transition(JobState.STORED, attempts=record.with_attempt(ended), video=video, reason=None)


def adopt(record: JobRecord, task_id: str, now: datetime) -> JobRecord | None:
    """A person found the lost task: the unknown job is submitted under it."""
    if record.state is not JobState.UNKNOWN or record.attempt is None:
        return None
    if any(task_id in attempt.task_ids for attempt in record.attempts):
        return None
    return record_task(record, record.attempt.claim, task_id, now)


def awaiting_callback(record: JobRecord, number: int) -> Attempt | None:
    """The attempt by callback of this number, if its submit was never answered: a callback may name its task."""
    attempt = next((one for one in record.attempts if one.number == number), None)
    if attempt is None or attempt.delivery != "callback" or attempt.task_id is not None:
        return None
    return attempt if attempt.fail is None or attempt.fail.code == DROPPED_CODE else None


def adopt_from_callback(record: JobRecord, number: int, task_id: str, now: datetime) -> JobRecord | None:
    """A callback named the task of an attempt that awaits one, and the provider confirmed it.

    The newest attempt makes the job submitted; an older one keeps its task, and the job stays as it is.
    """
    attempt = awaiting_callback(record, number)
    if attempt is None or any(task_id in one.task_ids for one in record.attempts):
        return None
    return record_task(record, attempt.claim, task_id, now)


def resubmit(record: JobRecord, max_attempts: int) -> JobRecord | None:
    """A person wants it paid again: ready, with one more attempt than its limit left it."""
    if record.state not in {JobState.UNKNOWN, JobState.REFUSED, JobState.FAILED}:
        return None
    needed = len(record.attempts) + 1 - max_attempts
    return record.transition(JobState.READY, reason=None, extra_attempts=max(record.extra_attempts, needed))


def drop(record: JobRecord, reason: Reason, now: datetime) -> JobRecord | None:
    """A person gives the job up: failed, and not paid again."""
    if record.state not in {JobState.UNKNOWN, JobState.SUBMITTED} or record.attempt is None:
        return None
    ended = record.attempt.model_copy(update={"ended_at": now, "fail": reason})
    return record.transition(JobState.FAILED, attempts=record.with_attempt(ended), reason=reason)


def attempts_left(record: JobRecord, max_attempts: int) -> bool:
    """Whether another attempt may be paid after a transient failure."""
    return len(record.attempts) < max_attempts + record.extra_attempts
