"""The pure functions that change a job record. Each returns the new record, or `None` if it does not apply.

`Ledger.change` writes what they return if `validate_change` allows it. The diagram is in `i2v.ledger.job`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from i2v.ledger.attempt import FORGOTTEN, Attempt, AttemptEnd, EndKind, Reason, StoredVideo
from i2v.ledger.job import JobImage, JobRecord, JobState
from i2v.request import Request

_FIXED = ("number", "claim", "run_id", "claimed_at", "price_usd", "day", "delivery")
_MAY_REPLACE: Mapping[EndKind | None, frozenset[EndKind]] = {
    None: frozenset(EndKind),
    EndKind.LOST: frozenset({EndKind.UNPAID, EndKind.REFUSED, EndKind.FAILED, EndKind.DROPPED}),
}
"""Which ends may follow. A lost answer may still become known; every other end is final."""


def validate_change(old: JobRecord, new: JobRecord) -> None:
    """Raise `ValueError` if `new` has another identity, or loses or rewrites an attempt, a task id or an end."""
    name = f"job {old.key[:12]}"
    if old.key != new.key or not new.has_request_of(old):
        raise ValueError(f"{name}: a record's identity cannot change")
    if len(new.attempts) < len(old.attempts):
        raise ValueError(f"{name}: an attempt would be lost")
    numbers = [attempt.number for attempt in new.attempts]
    if numbers != sorted(set(numbers)):
        raise ValueError(f"{name}: the numbers of attempts must rise")
    for before, after in zip(old.attempts, new.attempts, strict=False):
        _validate_attempt(name, before, after)


def _validate_attempt(name: str, old: Attempt, new: Attempt) -> None:
    name = f"{name}, attempt {old.number}"
    if any(getattr(old, field) != getattr(new, field) for field in _FIXED):
        raise ValueError(f"{name}: its claim cannot change")
    if old.task_id and new.task_id != old.task_id:
        raise ValueError(f"{name}: task id {old.task_id} would be lost")
    if old.forgotten and not new.forgotten:
        raise ValueError(f"{name}: it would no longer be forgotten")
    if old.end == new.end or (old.end and new.end and new.end.is_erased(old.end)):
        return
    if new.end is None:
        if old.task_id or not new.task_id:
            raise ValueError(f"{name}: only a late task id reopens an attempt")
    elif new.end.kind not in _MAY_REPLACE.get(old.end.kind if old.end else None, ()):
        raise ValueError(f"{name}: its end cannot change to {new.end.kind}")


def claim(
    record: JobRecord,
    image: JobImage,
    attempt: Attempt,
    extra: Mapping[str, str] | None = None,
    *,
    named: Request | None = None,
) -> JobRecord | None:
    """Claim a ready job for one POST, if `attempt` has the next number.

    The record takes the claimant's image, and its custom columns if it has any. `named` is the request of an image that
    a person named: it also claims a forgotten job.
    """
    if record.state is JobState.FORGOTTEN and named:
        record = record.model_copy(update={"request": named, "forgotten_at": None})
    elif record.state is not JobState.READY:
        return None
    if record.next_number != attempt.number:
        return None
    attempts = (*record.attempts, attempt)
    return record.model_copy(update={"image": image, "extra": extra or record.extra, "attempts": attempts})


def _end(record: JobRecord, attempt: Attempt, kind: EndKind, now: datetime, **changes: Any) -> JobRecord:
    values = {"revision": record.revision + 1, **changes}
    return record.with_attempt(attempt.model_copy(update={"end": AttemptEnd(kind=kind, at=now, **values)}))


def _unanswered(record: JobRecord, token: str) -> Attempt | None:
    """Return the attempt of a claim if its answer is not known: it is claimed or lost."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or attempt.task_id or not (attempt.is_claimed or attempt.ended_as(EndKind.LOST)):
        return None
    return attempt


def release(record: JobRecord, token: str, now: datetime) -> JobRecord | None:
    """End a claim that was not charged."""
    return reject(record, token, EndKind.UNPAID, None, now)


def reject(record: JobRecord, token: str, kind: EndKind, reason: Reason | None, now: datetime) -> JobRecord | None:
    """End a claim whose POST returned a final error and no task id: refused (not charged) or failed."""
    attempt = _unanswered(record, token)
    if attempt is None:
        return None
    late = {"revision": attempt.end.revision} if attempt.end else {}  # no newer than the end of a later attempt
    return _end(record, attempt, kind, now, reason=reason, **late)


def mark_lost(record: JobRecord, token: str, reason: Reason, now: datetime) -> JobRecord | None:
    """End a claim whose answer is lost, or whose lease expired: it was possibly charged."""
    attempt = record.attempt_for_claim(token)
    if attempt is None or not attempt.is_claimed:
        return None
    return _end(record, attempt, EndKind.LOST, now, reason=reason)


def record_task(record: JobRecord, token: str, task_id: str, now: datetime) -> JobRecord | None:
    """Record the task id of a claim; unless its image was erased, the attempt reopens.

    A second task of one claim becomes an attempt of its own, so it is polled too.
    """
    attempt = record.attempt_for_claim(token)
    if attempt is None or record.attempt_for_task(task_id):
        return None
    update: dict[str, Any] = {"task_id": task_id, "submitted_at": now, "end": None, "resubmitted": False}
    if attempt.forgotten:  # it is charged, and its video must not come back
        update["end"] = attempt.end
    if attempt.task_id or (attempt.forgotten and not attempt.cost_usd):
        number = record.next_number
        update |= {"number": number, "claim": f"{token}+{number}", "created_at": None}
        if attempt.forgotten:
            reason = Reason(code=FORGOTTEN, message=FORGOTTEN)
            update["end"] = AttemptEnd(kind=EndKind.DROPPED, at=now, revision=record.revision + 1, reason=reason)
        other = attempt.model_copy(update=update)
        return record.model_copy(update={"attempts": (*record.attempts, other)})
    reopened = attempt.reopened or (attempt.end is not None and not attempt.forgotten)
    return record.with_attempt(attempt.model_copy(update={**update, "reopened": reopened}))


def note_provider_state(record: JobRecord, task_id: str, state: str) -> JobRecord | None:
    """Note an unknown state that the provider reports for a task."""
    attempt = record.attempt_for_task(task_id)
    if attempt is None or attempt.provider_state == state:
        return None
    return record.with_attempt(attempt.model_copy(update={"provider_state": state}))


def end_task(
    record: JobRecord, task_id: str, kind: EndKind, reason: Reason, now: datetime, *, max_attempts: int | None = None
) -> JobRecord | None:
    """End a task that the provider reports as failed; `max_attempts` is set if the failure is transient."""
    attempt = record.attempt_for_task(task_id)
    if attempt is None or not attempt.is_running:
        return None
    retry = max_attempts is not None and attempts_left(record, max_attempts)
    return _end(record, attempt, kind, now, reason=reason, retry=retry)


def store(
    record: JobRecord, task_id: str, video: StoredVideo, now: datetime, created_at: datetime | None = None
) -> JobRecord | None:
    """Record the published video; `created_at` is the task's creation time by the provider's clock."""
    attempt = record.attempt_for_task(task_id)
    if attempt is None or not attempt.is_running:
        return None
    return _end(record, attempt.model_copy(update={"created_at": created_at}), EndKind.STORED, now, video=video)


def adoptable(record: JobRecord, created_at: datetime | None) -> Attempt | None:
    """Return the lost or dropped attempt without a task id to which a person may assign a found task.

    Of several, take the one claimed nearest to `created_at`; without that time, the newest, an unknown one first.
    """
    ended = [one for one in record.attempts if one.ended_as(EndKind.LOST, EndKind.DROPPED)]
    candidates = [one for one in ended if not one.task_id and not one.forgotten]
    if created_at:
        return min(candidates, key=lambda one: abs(created_at - one.claimed_at), default=None)
    return max(candidates, key=lambda one: (one.is_unknown, one.number), default=None)


def adopt(record: JobRecord, task_id: str, created_at: datetime | None, now: datetime) -> JobRecord | None:
    """Set the task that a person found for an attempt without an answer; it is submitted."""
    attempt = adoptable(record, created_at)
    return record_task(record, attempt.claim, task_id, now) if attempt else None


def awaiting_callback(record: JobRecord, number: int) -> Attempt | None:
    """Return attempt `number` if it uses callbacks and has no task, so a callback may name it."""
    attempt = record.attempt_numbered(number)
    if attempt is None or attempt.delivery != "callback" or attempt.task_id is not None:
        return None
    return attempt


def adopt_from_callback(record: JobRecord, number: int, task_id: str, now: datetime) -> JobRecord | None:
    """Record the task that a callback named and the provider confirmed, if the attempt awaits one."""
    attempt = awaiting_callback(record, number)
    return record_task(record, attempt.claim, task_id, now) if attempt else None


def note_delivery(record: JobRecord, task_id: str, sha256: str) -> JobRecord | None:
    """Remember a delivery that could not be verified, unless it is the one that is remembered."""
    attempt = record.attempt_for_task(task_id)
    if attempt is None or not attempt.is_running or attempt.broken_sha256 == sha256:
        return None
    return record.with_attempt(attempt.model_copy(update={"broken_sha256": sha256}))


def keep(record: JobRecord) -> JobRecord | None:
    """Accept the job's unverified video at a person's request."""
    if record.attempt is None or not record.attempt.is_unverified:
        return None
    return record.with_attempt(record.attempt.model_copy(update={"kept": True}))


def resubmit(record: JobRecord) -> JobRecord | None:
    """Make the job ready at a person's request, with at least one attempt left. A verified video forbids it."""
    if record.state is not JobState.UNKNOWN and not _awaits_decision(record):
        return None
    for attempt in record.attempts:
        if attempt.is_unknown:
            record = record.with_attempt(attempt.model_copy(update={"resubmitted": True}))
    while record.attempt and _awaits_decision(record):  # without the unknown ones, its video or newest end decides
        record = record.with_attempt(record.attempt.model_copy(update={"resubmitted": True}))
    return record


def _awaits_decision(record: JobRecord) -> bool:
    """Whether the job was refused, has failed, or has an unverified video alone."""
    is_unverified = record.attempt is not None and record.attempt.is_unverified
    return is_unverified or record.state in {JobState.REFUSED, JobState.FAILED}


def drop(record: JobRecord, reason: Reason, now: datetime) -> JobRecord | None:
    """Fail the job at a person's request: give up every attempt that is unknown or running."""
    if record.state not in {JobState.UNKNOWN, JobState.SUBMITTED}:
        return None
    for attempt in record.attempts:
        if attempt.is_unknown or attempt.is_running:
            record = _end(record, attempt, EndKind.DROPPED, now, reason=reason)
    return record


def attempts_left(record: JobRecord, max_attempts: int) -> bool:
    """Return whether a transient failure may be followed by another attempt; a person's resubmit allows one more."""
    paid = [attempt for attempt in record.attempts if attempt.cost_usd and not attempt.forgotten]
    resubmitted = max((index for index, one in enumerate(paid, 1) if one.resubmitted), default=-1)
    return len(paid) < max(max_attempts, resubmitted + 1)
