"""Job records without a bucket: one in every state, and `explore`, which finds all that the transitions can make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from i2v.erasure.records import forget
from i2v.ledger import transitions
from i2v.ledger.attempt import Attempt, Delivery, EndKind, Reason, StoredVideo
from i2v.ledger.job import JobImage, JobRecord, JobState
from i2v.media.images import ImageFacts
from i2v.request import Request
from i2v.s3_uri import S3Uri

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
PRICE = Decimal("0.192")
WHY = Reason(code="why", message="because")
FACTS = ImageFacts(sha256="5" * 64, size=9, format="JPEG", width=640, height=480)
IMAGE = JobImage(label="s3://b-1/images/a.jpg", name="a.jpg", at=S3Uri("b-1", "images/a.jpg"), etag="e", facts=FACTS)
VIDEO = StoredVideo(
    uri=S3Uri("b-1", "videos/a.jpg/x.mp4"),
    poster=S3Uri("b-1", "videos/a.jpg/x.jpg"),
    manifest=S3Uri("b-1", "videos/a.jpg/x.json"),
    sha256="0" * 64,
    size=1,
    width=1344,
    height=768,
    seconds=6,
)
UNVERIFIED = VIDEO.model_copy(update={"unverified": "the video is truncated"})
REQUEST = Request(prompt="zoom")
KEY = REQUEST.job_key(FACTS.sha256)
READY = JobRecord(key=KEY, image=IMAGE, request=REQUEST, created_at=NOW, updated_at=NOW)
Change = Callable[[JobRecord], JobRecord | None]


def applied(record: JobRecord | None) -> JobRecord:
    """Return the record that a change made, with the revision that the ledger gives it."""
    assert record is not None
    return record.model_copy(update={"revision": record.revision + 1})


def new_attempt(
    record: JobRecord, token: str, *, run_id: str = "", delivery: Delivery = "poll", claimed_at: datetime = NOW
) -> Attempt:
    """Return the attempt that a claim with this token appends."""
    return Attempt(
        number=record.next_number,
        claim=token,
        run_id=run_id or f"run of {token}",
        claimed_at=claimed_at,
        price_usd=PRICE,
        day=claimed_at.date().isoformat(),
        delivery=delivery,
    )


def claim_as(record: JobRecord, token: str, **more: Any) -> JobRecord:
    """Return the job claimed with this token."""
    return applied(transitions.claim(record, IMAGE, new_attempt(record, token, **more)))


def task_of(record: JobRecord, token: str, task_id: str) -> JobRecord:
    """Return the job after the answer to this claim."""
    return applied(transitions.record_task(record, token, task_id, NOW))


def lose(record: JobRecord, token: str) -> JobRecord:
    """Return the job after the answer to this claim was lost."""
    return applied(transitions.mark_lost(record, token, WHY, NOW))


def end_task(record: JobRecord, task_id: str, kind: EndKind = EndKind.FAILED, *, most: int | None = None) -> JobRecord:
    """Return the job after the provider reported a failure of this task."""
    return applied(transitions.end_task(record, task_id, kind, WHY, NOW, max_attempts=most))


def resubmit(record: JobRecord) -> JobRecord:
    """Return the job after a person allowed another attempt."""
    return applied(transitions.resubmit(record))


CLAIMED = claim_as(READY, "A")
SUBMITTED = task_of(CLAIMED, "A", "task_a")
UNKNOWN = lose(CLAIMED, "A")
FORGOTTEN_IMAGE = JobImage(
    label="forgotten/x", name="_forgotten/x", at=S3Uri("b-1", "jobs/forgotten/x-y"), etag="e", facts=FACTS
)
BY_STATE = {
    JobState.READY: READY,
    JobState.CLAIMED: CLAIMED,
    JobState.SUBMITTED: SUBMITTED,
    JobState.STORED: applied(transitions.store(SUBMITTED, "task_a", VIDEO, NOW)),
    JobState.REFUSED: end_task(SUBMITTED, "task_a", EndKind.REFUSED),
    JobState.FAILED: end_task(SUBMITTED, "task_a"),
    JobState.UNKNOWN: UNKNOWN,
    JobState.FORGOTTEN: applied(
        forget(applied(transitions.store(SUBMITTED, "task_a", VIDEO, NOW)), FORGOTTEN_IMAGE, NOW)
    ),
}
"""A job in each state, after attempt 1 by claimant A."""
RELEASED = applied(transitions.release(CLAIMED, "A", NOW))
"""A's claim was not charged."""
BY_CALLBACK = claim_as(READY, "A", delivery="callback")
"""A claimed the job, and waits for a callback."""
RESUBMITTED = resubmit(UNKNOWN)
"""A's answer was lost, and a person resubmitted the job."""
CLAIMED_BY_B = claim_as(RESUBMITTED, "B")
"""B claimed the resubmitted job; A's answer has not arrived."""
DROPPED = applied(transitions.drop(UNKNOWN, WHY, NOW))
"""A's answer was lost, and a person dropped the job."""
LATE_TASK = task_of(CLAIMED_BY_B, "A", "task_a")
"""A's answer was lost, a person resubmitted the job, B claimed it, and then A's task id arrived."""


def applies(change: Change) -> set[str]:
    """Return the states in which a change applies."""
    return {str(state) for state, record in BY_STATE.items() if change(record) is not None}


class Step(NamedTuple):
    """One change of a record."""

    old: JobRecord
    name: str
    new: JobRecord


def explore(max_attempts: int) -> Iterator[Step]:
    """Yield every change of every record that at most so many attempts can lead to, once for records that are alike."""
    seen, waiting = {_shape(READY)}, [READY]
    while waiting:
        old = waiting.pop()
        for name, change in changes(old, max_attempts):
            made = change(old)
            if made is None or len(made.attempts) > max_attempts:
                continue
            new = applied(made)
            yield Step(old, name, new)
            if (shape := _shape(new)) not in seen:
                seen.add(shape)
                waiting.append(new)


def changes(record: JobRecord, max_attempts: int) -> Iterator[tuple[str, Change]]:
    """Yield all that can happen to a record, by name."""
    yield "claim", lambda job: transitions.claim(job, IMAGE, new_attempt(job, f"claim {job.next_number}"))
    named = partial(transitions.claim, image=IMAGE, attempt=new_attempt(record, f"named {record.next_number}"))
    yield "claim by name", partial(named, named=REQUEST)
    yield "resubmit", transitions.resubmit
    yield "keep", transitions.keep
    yield "forget", lambda job: forget(job, FORGOTTEN_IMAGE, NOW)
    yield "drop", lambda job: transitions.drop(job, WHY, NOW)
    yield "adopt", lambda job: transitions.adopt(job, "task by a person", None, NOW)
    for attempt in record.attempts:
        token, number = attempt.claim, attempt.number
        yield "release", partial(transitions.release, token=token, now=NOW)
        yield "mark_lost", partial(transitions.mark_lost, token=token, reason=WHY, now=NOW)
        for kind in (EndKind.REFUSED, EndKind.FAILED):
            yield f"reject as {kind}", partial(transitions.reject, token=token, kind=kind, reason=WHY, now=NOW)
        yield "record_task", partial(transitions.record_task, token=token, task_id=f"task {number}", now=NOW)
        yield "record_task", partial(transitions.record_task, token=token, task_id=f"other {number}", now=NOW)
        if attempt.task_id:
            yield from _ends(attempt.task_id, max_attempts)


def _ends(task: str, most: int) -> Iterator[tuple[str, Change]]:
    """Yield what the provider can report of a task."""
    yield "note_delivery", lambda job: transitions.note_delivery(job, task, "1" * 64)
    yield "store", lambda job: transitions.store(job, task, VIDEO, NOW)
    yield "store unverified", lambda job: transitions.store(job, task, UNVERIFIED, NOW)
    yield "end_task as refused", lambda job: transitions.end_task(job, task, EndKind.REFUSED, WHY, NOW)
    yield "end_task as failed", lambda job: transitions.end_task(job, task, EndKind.FAILED, WHY, NOW)
    again = partial(transitions.end_task, task_id=task, kind=EndKind.FAILED, reason=WHY, now=NOW, max_attempts=most)
    yield "end_task for now", again


def _shape(record: JobRecord) -> tuple[object, ...]:
    """Return what distinguishes records: their attempts without names and times, and the order of their ends."""
    revisions = sorted({one.end.revision for one in record.attempts if one.end})
    return tuple(
        (
            one.task_id is not None,
            one.reopened,
            one.resubmitted,
            one.forgotten,
            one.is_unverified,
            (one.end.kind, one.end.retry, revisions.index(one.end.revision)) if one.end else None,
        )
        for one in record.attempts
    )
