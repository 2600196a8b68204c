"""The job record, format 2: a list of attempts. The job's state is computed from them and never stored as a decision.

    ready     ─► claimed | submitted (late)
    claimed   ─► submitted | ready (not charged) | refused | failed | unknown (answer lost, or lease expired)
    submitted ─► stored | refused | failed | ready (transient failure, attempts left)
              ─► claimed | unknown (another attempt has no answer)
    unknown   ─► submitted (late) | ready | refused | failed (the answer became known, or a person decided)
    refused   ─► ready (a person) | submitted (late)
    failed    ─► ready (a person) | submitted (late)
    late: a task id arrived after all; the attempt that it belongs to is open again. A stored job stays stored.

An attempt is appended by its claim and never removed; its end is written once. Only an attempt without a task id can be
reopened, by its task id. `i2v.ledger.transitions` has the functions that change a record, `i2v.ledger.ledger` reads and
writes it, `i2v.ledger.format_1` reads old records. Keep I/O out.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, computed_field, model_validator

from i2v.ledger.format_1 import upgrade_record
from i2v.media.images import ImageFacts
from i2v.money import ZERO
from i2v.request import Request
from i2v.s3_uri import S3Uri

Delivery = Literal["poll", "callback"]
"""How i2v learns that a task has ended: it polls, or the provider calls back."""
FORMAT = 2
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


class EndKind(StrEnum):
    """How an attempt ended."""

    UNPAID = "unpaid"
    """Nothing was sent, or the provider plainly rejected it for now."""
    REFUSED = "refused"
    FAILED = "failed"
    LOST = "lost"
    """The answer was lost, or the lease expired: possibly charged."""
    DROPPED = "dropped"
    """A person gave it up."""
    STORED = "stored"


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
    image_changed: bool = False
    """Whether the image was replaced or deleted before the end, so that the video may show another one."""


class AttemptEnd(_Model):
    """The end of an attempt."""

    kind: EndKind
    at: datetime
    revision: int
    """The record's revision that wrote it: the highest is the newest."""
    reason: Reason | None = None
    retry: bool = False
    """Whether a run may pay for another attempt: the failure is transient and attempts are left."""
    video: StoredVideo | None = None


class Attempt(_Model):
    """One claim of a job, for one submit. Times are UTC."""

    number: int
    claim: str
    """Random token that identifies the claimant."""
    run_id: str
    claimed_at: datetime
    price_usd: Decimal
    day: str = ""
    """The UTC day that the price counts for."""
    delivery: Delivery = "poll"
    task_id: str | None = None
    submitted_at: datetime | None = None
    created_at: datetime | None = None
    """The provider's own creation time."""
    provider_state: str | None = None
    """The last state that the provider reported in a word that i2v does not know."""
    reopened: bool = False
    """Whether its task id arrived after it had ended."""
    resubmitted: bool = False
    """Whether a person allowed another attempt after this one."""
    end: AttemptEnd | None = None

    @property
    def is_claimed(self) -> bool:
        """Whether its submit has no answer yet."""
        return self.end is None and self.task_id is None

    @property
    def is_running(self) -> bool:
        """Whether it has a task that has not ended."""
        return self.end is None and self.task_id is not None

    @property
    def is_unknown(self) -> bool:
        """Whether its answer is lost and no person has decided about it."""
        return self.ended_as(EndKind.LOST) and not self.resubmitted

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do for it, so that its open marker can go."""
        return self.end is not None and not self.is_unknown

    @property
    def cost_usd(self) -> Decimal:
        """The full price if it was charged or possibly charged, else 0."""
        free = self.ended_as(EndKind.UNPAID) or (self.ended_as(EndKind.REFUSED) and not self.task_id)
        return ZERO if free else self.price_usd

    @property
    def spent_usd(self) -> Decimal:
        """The full price if the provider returned a task or a failure, or a person gave it up; else 0."""
        known = self.task_id or self.ended_as(EndKind.FAILED, EndKind.DROPPED)
        return self.price_usd if known else ZERO

    @property
    def at_risk_usd(self) -> Decimal:
        """The price if it was possibly charged without producing a video, else 0."""
        return ZERO if self.is_running or self.ended_as(EndKind.STORED) else self.cost_usd

    def ended_as(self, *kinds: EndKind) -> bool:
        """Return whether it ended in one of these ways."""
        return self.end is not None and self.end.kind in kinds


class JobRecord(_Model):
    """One job. Each write increments `revision` and sets a random `writer`."""

    format: int = FORMAT
    key: str
    revision: int = 0
    writer: str = ""
    image: JobImage
    request: Request
    label: str | None = None
    created_at: datetime
    updated_at: datetime
    attempts: tuple[Attempt, ...] = ()
    was_format_1: bool = Field(default=False, exclude=True)
    """Whether it was read from format 1, whose tasks have no pages."""

    @model_validator(mode="wrap")
    @classmethod
    def _upgrade(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Read format 1 too, unless its state would become another: a job must not become ready by mistake."""
        if not isinstance(data, dict) or data.get("format") != 1:
            return validate(data)
        try:
            record = validate(upgrade_record(data))
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"not a record of format 1: {error!r}") from None
        if record.state is not JobState.SUBMITTED and record.state != data["state"]:  # submitted: by an earlier task
            raise ValueError(f"the attempts do not make this job {data['state']}")
        return record

    @computed_field  # type: ignore[prop-decorator]  # mypy does not support decorators on properties
    @property
    def state(self) -> JobState:
        """The job's state, computed from its attempts."""
        return decide(self.attempts)[0]

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that decides the state."""
        return decide(self.attempts)[1]

    @property
    def task_id(self) -> str | None:
        """That attempt's task id."""
        return self.attempt.task_id if self.attempt else None

    @property
    def reason(self) -> Reason | None:
        """Why the job failed, was refused, is unknown or was released; `None` once a person resubmitted it."""
        attempt = self.attempt
        return attempt.end.reason if attempt and attempt.end and not attempt.resubmitted else None

    @property
    def video(self) -> StoredVideo | None:
        """The job's published video."""
        return self.attempt.end.video if self.attempt and self.attempt.end else None

    @property
    def is_open(self) -> bool:
        """Whether money may be in flight, so that an attempt must still be settled."""
        return not all(attempt.is_settled for attempt in self.attempts)

    @property
    def paid_attempts(self) -> int:
        """How many attempts were charged or possibly charged."""
        return sum(1 for attempt in self.attempts if attempt.cost_usd)

    @property
    def cost_usd(self) -> Decimal:
        """What all attempts cost, including failed and possibly charged ones."""
        return sum((attempt.cost_usd for attempt in self.attempts), ZERO)

    @property
    def next_number(self) -> int:
        """The number of the next attempt."""
        return max((attempt.number for attempt in self.attempts), default=0) + 1

    @property
    def may_have_verdicts(self) -> bool:
        """Whether an earlier result may have left a `.refused.json` or `.failed.json`."""
        return len(self.attempts) > 1 or any(attempt.reopened for attempt in self.attempts)

    def with_attempt(self, attempt: Attempt) -> Self:
        """Return this record with the attempt of the same number replaced."""
        attempts = tuple(attempt if old.number == attempt.number else old for old in self.attempts)
        return self.model_copy(update={"attempts": attempts})

    def attempt_for_claim(self, claim: str) -> Attempt | None:
        """Return the attempt with this claim token."""
        return next((attempt for attempt in self.attempts if attempt.claim == claim), None)

    def attempt_for_task(self, task_id: str) -> Attempt | None:
        """Return the attempt with this task."""
        return next((attempt for attempt in self.attempts if attempt.task_id == task_id), None)

    def attempt_numbered(self, number: int) -> Attempt | None:
        """Return the attempt with this number."""
        return next((attempt for attempt in self.attempts if attempt.number == number), None)


_BY_END = {
    EndKind.UNPAID: JobState.READY,
    EndKind.LOST: JobState.READY,
    EndKind.REFUSED: JobState.REFUSED,
    EndKind.FAILED: JobState.FAILED,
    EndKind.DROPPED: JobState.FAILED,
}


def decide(attempts: Sequence[Attempt]) -> tuple[JobState, Attempt | None]:
    """Return the state that these attempts give their job, and the attempt that decides it."""
    ended = sorted((one for one in attempts if one.end), key=lambda one: one.end.revision if one.end else 0)
    if stored := next((one for one in ended if one.ended_as(EndKind.STORED)), None):
        return JobState.STORED, stored
    for state, matches in (
        (JobState.SUBMITTED, [one for one in attempts if one.is_running]),
        (JobState.CLAIMED, [one for one in attempts if one.is_claimed]),
        (JobState.UNKNOWN, [one for one in attempts if one.is_unknown]),
    ):
        if matches:
            return state, matches[-1]
    newest = ended[-1] if ended else None
    if newest is None or newest.end is None or newest.resubmitted or newest.end.retry:
        return JobState.READY, newest
    return _BY_END[newest.end.kind], newest
