"""The job's life as a state machine: `JobRecord` and the only functions that may change one.

    ready ─► claimed ─► submitted ─► stored | refused | failed
               │  ├──► ready      plainly refused, nothing paid
               │  ├──► refused    400, content         ├──► failed   a fail code in place of a task id
               │  └──► unknown    answer lost, or lease over without a task id
    unknown ──► submitted (adopted) | ready (its owner knows that nothing was sent, or a person) | failed (a person)
    submitted ─► ready (a transient failure, attempts left)          refused, failed ─► ready (a person)
    ready, failed ─► submitted      a person gave the job up, and then the lost answer, or a callback, came after all

Everything here is pure: a record in, a record out. `i2v.ledger.ledger` reads and writes them, and refuses what
`check_change` refuses.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from i2v.media.images import ImageFacts
from i2v.money import ZERO
from i2v.request import Request
from i2v.s3_uri import S3Uri

Delivery = Literal["poll", "callback"]
"""How a task's end is heard of: it is asked for, or the provider calls back."""
FORMAT = 1
DROPPED_CODE = "dropped"
"""The code of the reason for which a person gave a job up."""


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
ALLOWED_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
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
    """Its name below the videos prefix (`i2v.ledger.keys`)."""
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

    def transition(self, state: JobState, **changes: Any) -> JobRecord:
        """This record in another state.

        Raises:
            ValueError: the diagram knows no such change.
        """
        if state not in ALLOWED_TRANSITIONS[self.state]:
            raise ValueError(f"job {self.key[:12]}: {self.state} cannot become {state}")
        return self.model_copy(update={"state": state, **changes})

    def with_attempt(self, attempt: Attempt) -> tuple[Attempt, ...]:
        """The attempts with this one in place of the one of its number."""
        return tuple(attempt if old.number == attempt.number else old for old in self.attempts)

    def attempt_for_claim(self, claim: str) -> Attempt | None:
        """The attempt that was claimed under this token, if the record still has it."""
        return next((attempt for attempt in self.attempts if attempt.claim == claim), None)
