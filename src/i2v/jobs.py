"""The job's life as a state machine: `JobRecord` and the only functions that may change one.

    ready ─► claimed ─► submitted ─► stored | refused | failed
               │  ├──► ready      plainly refused, nothing paid
               │  ├──► refused    400, content         ├──► failed   a fail code in place of a task id
               │  └──► unknown    answer lost, or lease over without a task id
    unknown ──► submitted (adopted) | ready (its owner knows that nothing was sent, or a person) | failed (a person)
    submitted ─► ready (a transient failure, attempts left)          refused, failed ─► ready (a person)
    ready, failed ─► submitted      a person gave the job up, and then the lost answer, or a callback, came after all

Everything here is pure: a record in, a record out. `i2v.ledger` reads and writes them, and refuses what
`check_change` refuses.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from i2v.images import ImageFacts
from i2v.request import Request
from i2v.uris import S3Uri

Delivery = Literal["poll", "callback"]
"""How a task's end is heard of: it is asked for, or the provider calls back."""
FORMAT = 1
DROPPED = "dropped"
"""The code of the reason for which a person gave a job up."""
ZERO = Decimal(0)


class JobState(StrEnum):
    """Where a job stands; the diagram above is the whole truth."""

    READY = "ready"
    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    STORED = "stored"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def is_open(self) -> bool:
        """Whether money may be under way: somebody has to settle it."""
        return self in {JobState.CLAIMED, JobState.SUBMITTED, JobState.UNKNOWN}


_READY, _CLAIMED, _SUBMITTED, _STORED, _REFUSED, _FAILED, _UNKNOWN = JobState
LEGAL: dict[JobState, frozenset[JobState]] = {
    _READY: frozenset({_CLAIMED, _SUBMITTED}),
    _CLAIMED: frozenset({_SUBMITTED, _READY, _REFUSED, _FAILED, _UNKNOWN}),
    _SUBMITTED: frozenset({_STORED, _REFUSED, _FAILED, _READY}),
    _UNKNOWN: frozenset({_SUBMITTED, _READY, _FAILED}),
    _REFUSED: frozenset({_READY}),
    _FAILED: frozenset({_READY, _SUBMITTED}),
    _STORED: frozenset(),
}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Reason(_Model):
    """Why a job ended or waits for a person: the vendor's or our short code, and a sentence."""

    code: str
    message: str


class JobImage(_Model):
    """The image version that a job was made for."""

    label: str
    """The `s3://` address, or the URL without its query."""
    name: str
    """Its name below the videos prefix (`i2v.names`)."""
    at: S3Uri
    """Where its bytes lie for the provider: the object itself, or our copy of a URL's."""
    etag: str
    version_id: str | None = None
    facts: ImageFacts


class Attempt(_Model):
    """One paid submit, or one that may have been paid. Times are UTC, the price US dollars."""

    number: int
    claim: str
    """Random, so that a claimant knows its own."""
    run_id: str
    claimed_at: datetime
    price_usd: Decimal
    delivery: Delivery = "poll"
    task_id: str | None = None
    other_task_ids: tuple[str, ...] = ()
    """Task ids that came for this attempt although it had one."""
    submitted_at: datetime | None = None
    created_at: datetime | None = None
    """The provider's own creation time."""
    ended_at: datetime | None = None
    fail: Reason | None = None
    revived: bool = False
    """Whether it was given up, and its task came to light after all."""

    @property
    def task_ids(self) -> frozenset[str]:
        """All task ids known of this attempt."""
        return frozenset(task for task in (self.task_id, *self.other_task_ids) if task)

    @property
    def spent_usd(self) -> Decimal:
        """Its price once the provider answered with a task or a failure, in full also where it failed."""
        return self.price_usd if self.task_ids or self.fail else ZERO


class StoredVideo(_Model):
    """Where a job's video lies and what was measured in it."""

    uri: S3Uri
    poster: S3Uri
    manifest: S3Uri
    sha256: str
    size: int
    width: int
    height: int
    seconds: float
    flags: tuple[str, ...] = ()
    """How the delivery differs from the order, in sentences."""


class JobRecord(_Model):
    """One job as the ledger keeps it. `revision` rises and `writer` is random with each write."""

    format: int = FORMAT
    key: str
    state: JobState = JobState.READY
    revision: int = 0
    writer: str = ""
    image: JobImage
    request: Request
    label: str | None = None
    created_at: datetime
    updated_at: datetime
    attempts: tuple[Attempt, ...] = ()
    last_attempt: int = 0
    """The highest attempt number ever given, also to attempts that were given back unpaid."""
    extra_attempts: int = 0
    """Attempts that persons allowed beyond `max_attempts`."""
    reason: Reason | None = None
    video: StoredVideo | None = None

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def task_id(self) -> str | None:
        """The latest attempt's task id."""
        return self.attempt.task_id if self.attempt else None

    @property
    def may_have_verdicts(self) -> bool:
        """Whether an earlier end may have left `.refused.json` or `.failed.json` beside."""
        return self.last_attempt > 1 or any(attempt.revived for attempt in self.attempts)

    def at_risk_usd(self, attempt: Attempt) -> Decimal:
        """What an attempt may have cost without giving a video: failed, or its answer is lost."""
        is_latest = attempt.number == (self.attempt.number if self.attempt else 0)
        gives_a_video = is_latest and self.state in {JobState.SUBMITTED, JobState.STORED}
        return ZERO if gives_a_video else attempt.price_usd

    def moved(self, state: JobState, **changes: Any) -> JobRecord:
        """This record in another state.

        Raises:
            ValueError: the diagram knows no such change.
        """
        if state not in LEGAL[self.state]:
            raise ValueError(f"job {self.key[:12]}: {self.state} cannot become {state}")
        return self.model_copy(update={"state": state, **changes})

    def with_attempt(self, attempt: Attempt) -> tuple[Attempt, ...]:
        """The attempts with this one in place of the one of its number."""
        return tuple(attempt if old.number == attempt.number else old for old in self.attempts)

    def mine(self, claim: str) -> Attempt | None:
        """The attempt that was claimed under this token, if the record still has it."""
        return next((attempt for attempt in self.attempts if attempt.claim == claim), None)


def check_change(old: JobRecord, new: JobRecord) -> None:
    """Prove that `new` may follow `old`.

    Raises:
        ValueError: an illegal state, another identity, or a task id or paid attempt that would be lost.
    """
    if new.state != old.state and new.state not in LEGAL[old.state]:
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
    return record.moved(JobState.CLAIMED, image=image, attempts=attempts, last_attempt=number, reason=None)


def give_back(record: JobRecord, token: str) -> JobRecord | None:
    """The claimant knows that nothing was paid: ready again, and the attempt never was."""
    attempt = record.mine(token)
    if attempt is None or attempt.task_ids or record.state not in {JobState.CLAIMED, JobState.UNKNOWN}:
        return None
    rest = tuple(other for other in record.attempts if other is not attempt)
    if attempt is not record.attempt:
        return record.model_copy(update={"attempts": rest})
    return _back_to_task(record, rest) or record.moved(JobState.READY, attempts=rest, reason=None)


def _back_to_task(record: JobRecord, attempts: tuple[Attempt, ...]) -> JobRecord | None:
    """Where the attempt before has a task after all, whose answer was given up too early, that is the job's."""
    if not attempts or attempts[-1].task_id is None or attempts[-1].ended_at:
        return None
    return record.moved(JobState.SUBMITTED, attempts=attempts, reason=None)


def record_task(record: JobRecord, token: str, task_id: str, now: datetime) -> JobRecord | None:
    """Write down the task id that came for a claim, whatever became of the record meanwhile."""
    attempt = record.mine(token)
    if attempt is None or task_id in attempt.task_ids:
        return None
    if attempt.task_id is not None:
        merged = attempt.model_copy(update={"other_task_ids": (*attempt.other_task_ids, task_id)})
        return record.model_copy(update={"attempts": record.with_attempt(merged)})
    revived = attempt.revived or attempt.fail is not None
    update = {"task_id": task_id, "submitted_at": now, "ended_at": None, "fail": None, "revived": revived}
    changes: dict[str, Any] = {"attempts": record.with_attempt(attempt.model_copy(update=update))}
    if attempt is record.attempt and JobState.SUBMITTED in LEGAL[record.state]:
        return record.moved(JobState.SUBMITTED, reason=None, **changes)
    return record.model_copy(update=changes)


def lose(record: JobRecord, token: str, reason: Reason) -> JobRecord | None:
    """The claim's answer is lost, or its lease is over: it may have been paid, and only a fact can tell."""
    attempt = record.mine(token)
    if attempt is None or attempt is not record.attempt or record.state is not JobState.CLAIMED:
        return None
    return record.moved(JobState.UNKNOWN, reason=reason)


def reject(record: JobRecord, token: str, state: JobState, reason: Reason, now: datetime) -> JobRecord | None:
    """The POST was answered with no task id but a final word: refused (nothing paid), or failed."""
    attempt = record.mine(token)
    if state is JobState.REFUSED and record.state is JobState.UNKNOWN:
        return give_back(record, token)  # its owner knows now that nothing was paid
    if attempt is None or attempt is not record.attempt or attempt.task_ids or state not in LEGAL[record.state]:
        return None
    if state is JobState.REFUSED:
        rest = record.attempts[:-1]
        return _back_to_task(record, rest) or record.moved(state, attempts=rest, reason=reason)
    ended = attempt.model_copy(update={"ended_at": now, "fail": reason})
    return record.moved(state, attempts=record.with_attempt(ended), reason=reason)


def end_task(record: JobRecord, task_id: str, state: JobState, reason: Reason, now: datetime) -> JobRecord | None:
    """The provider's status said failed: refused, failed, or ready for another attempt."""
    attempt = record.attempt
    if record.state is not JobState.SUBMITTED or attempt is None or attempt.task_id != task_id:
        return None
    ended = attempt.model_copy(update={"ended_at": now, "fail": reason})
    return record.moved(state, attempts=record.with_attempt(ended), reason=reason)


def store(
    record: JobRecord, task_id: str, video: StoredVideo, now: datetime, created_at: datetime | None = None
) -> JobRecord | None:
    """The video is published; `created_at` is the task's creation by the provider's clock."""
    attempt = record.attempt
    if record.state is not JobState.SUBMITTED or attempt is None or attempt.task_id != task_id:
        return None
    ended = attempt.model_copy(update={"ended_at": now, "created_at": created_at})
    return record.moved(JobState.STORED, attempts=record.with_attempt(ended), video=video, reason=None)


def adopt(record: JobRecord, task_id: str, now: datetime) -> JobRecord | None:
    """A person found the lost task: the unknown job is submitted under it."""
    if record.state is not JobState.UNKNOWN or record.attempt is None:
        return None
    if any(task_id in attempt.task_ids for attempt in record.attempts):
        return None
    return record_task(record, record.attempt.claim, task_id, now)


def awaiting(record: JobRecord, number: int) -> Attempt | None:
    """The attempt by callback of this number, if its submit was never answered: a callback may name its task."""
    attempt = next((one for one in record.attempts if one.number == number), None)
    if attempt is None or attempt.delivery != "callback" or attempt.task_id is not None:
        return None
    return attempt if attempt.fail is None or attempt.fail.code == DROPPED else None


def hear(record: JobRecord, number: int, task_id: str, now: datetime) -> JobRecord | None:
    """A callback named the task of an attempt that awaits one, and the provider confirmed it.

    The newest attempt makes the job submitted; an older one keeps its task, and the job stays as it is.
    """
    attempt = awaiting(record, number)
    if attempt is None or any(task_id in one.task_ids for one in record.attempts):
        return None
    return record_task(record, attempt.claim, task_id, now)


def resubmit(record: JobRecord, max_attempts: int) -> JobRecord | None:
    """A person wants it paid again: ready, with one more attempt than its limit left it."""
    if record.state not in {JobState.UNKNOWN, JobState.REFUSED, JobState.FAILED}:
        return None
    needed = len(record.attempts) + 1 - max_attempts
    return record.moved(JobState.READY, reason=None, extra_attempts=max(record.extra_attempts, needed))


def drop(record: JobRecord, reason: Reason, now: datetime) -> JobRecord | None:
    """A person gives the job up: failed, and not paid again."""
    if record.state not in {JobState.UNKNOWN, JobState.SUBMITTED} or record.attempt is None:
        return None
    ended = record.attempt.model_copy(update={"ended_at": now, "fail": reason})
    return record.moved(JobState.FAILED, attempts=record.with_attempt(ended), reason=reason)


def attempts_left(record: JobRecord, max_attempts: int) -> bool:
    """Whether another attempt may be paid after a transient failure."""
    return len(record.attempts) < max_attempts + record.extra_attempts
