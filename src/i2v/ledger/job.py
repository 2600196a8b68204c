"""The job record and its state machine.

    ready ─► claimed ─► submitted ─► stored | refused | failed
               │  ├──► ready      rejected, nothing charged
               │  ├──► refused    400, content         ├──► failed   a fail code instead of a task id
               │  └──► unknown    answer lost, or lease expired without a task id
    unknown ──► submitted (adopted) | ready (nothing was sent, or a person) | failed (a person)
    submitted ─► ready (transient failure, attempts left)            refused, failed ─► ready (a person)
    ready, failed ─► submitted      a person dropped or resubmitted the job, then the lost answer or a callback arrived

`i2v.ledger.transitions` has the functions that change a record; `i2v.ledger.ledger` reads and writes it. Keep I/O out.
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
"""How i2v learns that a task has ended: it polls, or the provider calls back."""
FORMAT = 1
DROPPED_CODE = "dropped"
"""`Reason.code` of a job that a person dropped."""


class JobState(StrEnum):
    """A job's state; the diagram above shows every transition."""

    READY = "ready"
    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    STORED = "stored"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def is_open(self) -> bool:
        """Whether money may be in flight, so that the job must still be settled."""
        return self in {JobState.CLAIMED, JobState.SUBMITTED, JobState.UNKNOWN}

    def can_become(self, state: JobState) -> bool:
        """Return whether the diagram allows this transition."""
        return state in ALLOWED_TRANSITIONS[self]


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
    """Why a job ended or needs a person: a short code (the provider's or ours) and a sentence."""

    code: str
    message: str


class JobImage(_Model):
    """The image version a job was created for."""

    label: str
    """The `s3://` URI, or the URL without its query."""
    name: str
    """Its folder under the videos prefix (`keys.image_name`)."""
    at: S3Uri
    """The object the provider fetches: the image itself, or our copy of a URL's content."""
    etag: str
    version_id: str | None = None
    facts: ImageFacts


class Attempt(_Model):
    """One submit that was charged or possibly charged. Times are UTC."""

    number: int
    claim: str
    """Random token that identifies the claimant."""
    run_id: str
    claimed_at: datetime
    price_usd: Decimal
    delivery: Delivery = "poll"
    task_id: str | None = None
    other_task_ids: tuple[str, ...] = ()
    """Task ids received after `task_id` was set."""
    submitted_at: datetime | None = None
    created_at: datetime | None = None
    """The provider's own creation time."""
    ended_at: datetime | None = None
    fail: Reason | None = None
    revived: bool = False
    """Whether the attempt was given up before its task id arrived."""

    @property
    def task_ids(self) -> frozenset[str]:
        """All known task ids."""
        return frozenset(task for task in (self.task_id, *self.other_task_ids) if task)

    @property
    def spent_usd(self) -> Decimal:
        """The full price once the provider returned a task or a failure, else 0."""
        return self.price_usd if self.task_ids or self.fail else ZERO


class StoredVideo(_Model):
    """A job's published files and the video's measurements."""

    uri: S3Uri
    poster: S3Uri
    manifest: S3Uri
    sha256: str
    size: int
    width: int
    height: int
    seconds: float
    flags: tuple[str, ...] = ()
    """Sentences on how the video differs from the request."""


class JobRecord(_Model):
    """One job. Each write increments `revision` and sets a random `writer`."""

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
    """The highest attempt number ever used, including released attempts."""
    extra_attempts: int = 0
    """Attempts that people allowed beyond `max_attempts`."""
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
        """Whether an earlier result may have left a `.refused.json` or `.failed.json`."""
        return self.last_attempt > 1 or any(attempt.revived for attempt in self.attempts)

    def at_risk_usd(self, attempt: Attempt) -> Decimal:
        """Return the attempt's price if it was possibly charged without producing a video, else 0."""
        is_latest = attempt.number == (self.attempt.number if self.attempt else 0)
        return ZERO if is_latest and self.state in {JobState.SUBMITTED, JobState.STORED} else attempt.price_usd

    def transition(self, state: JobState, **changes: Any) -> JobRecord:
        """Return this record in another state. Raise `ValueError` if the diagram does not allow it."""
        if not self.state.can_become(state):
            raise ValueError(f"job {self.key[:12]}: {self.state} cannot become {state}")
        return self.model_copy(update={"state": state, **changes})

    def with_attempt(self, attempt: Attempt) -> tuple[Attempt, ...]:
        """Return the attempts with the one of the same number replaced."""
        return tuple(attempt if old.number == attempt.number else old for old in self.attempts)

    def attempt_for_claim(self, claim: str) -> Attempt | None:
        """Return the attempt with this claim token, if the record still has it."""
        return next((attempt for attempt in self.attempts if attempt.claim == claim), None)
