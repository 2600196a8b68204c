"""The job record, format 2: a list of attempts. The job's state is computed from them and never stored as a decision.

    ready     ─► claimed | submitted (late) | forgotten (a person)
    claimed   ─► submitted | ready (not charged) | refused | failed | unknown (answer lost, or lease expired)
    submitted ─► stored | refused | failed | ready (transient failure, attempts left)
              ─► claimed | unknown (another attempt has no answer)
    unknown   ─► submitted (late) | ready | refused | failed (the answer became known, or a person decided)
    refused   ─► ready (a person) | submitted (late) | forgotten (a person)
    failed    ─► ready (a person) | submitted (late) | forgotten (a person)
    stored    ─► ready | claimed | submitted (a person, only if its video is unverified) | forgotten (a person)
    forgotten ─► claimed (a person names the image again)
    late: a task id arrived after all; the attempt that it belongs to is open again. A verified video stays the job's.

`i2v.ledger.transitions` has the functions that change a record, `i2v.ledger.ledger` reads and writes it,
`i2v.ledger.upgrade_format_1` reads old records. Keep I/O out.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, ModelWrapValidatorHandler, computed_field, model_validator

from i2v.ledger.attempt import FORGOTTEN, Attempt, EndKind, LedgerModel, Reason, StoredVideo
from i2v.ledger.upgrade_format_1 import upgrade_record
from i2v.media.images import ImageFacts
from i2v.money import Charges, sum_charges
from i2v.request import Request
from i2v.s3_uri import S3Uri

FORMAT = 2


class JobState(StrEnum):
    """A job's state; the diagram above shows every transition."""

    READY = "ready"
    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    STORED = "stored"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"
    FORGOTTEN = "forgotten"


class JobImage(LedgerModel):
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


class JobRecord(LedgerModel):
    """One job. Each write increments `revision` and sets a random `writer`."""

    format: int = FORMAT
    key: str
    revision: int = 0
    writer: str = ""
    image: JobImage
    request: Request
    label: str | None = None
    extra: Mapping[str, str] = {}
    """The image's custom columns at the newest claim that had some."""
    created_at: datetime
    updated_at: datetime
    attempts: tuple[Attempt, ...] = ()
    forgotten_at: datetime | None = None
    """When what is personal was erased; `image.name` is then `_forgotten/<digest of the name>`."""
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
        """The job's published video; `None` once a person resubmitted it."""
        attempt = self.attempt
        return attempt.end.video if attempt and attempt.end and not attempt.resubmitted else None

    @property
    def is_open(self) -> bool:
        """Whether money may be in flight, so an attempt must still be settled."""
        return not all(attempt.is_settled for attempt in self.attempts)

    @property
    def paid_attempts(self) -> int:
        """How many attempts were charged or possibly charged."""
        return sum(1 for attempt in self.attempts if attempt.cost_usd)

    @property
    def cost_usd(self) -> Decimal:
        """What all attempts cost, including failed and possibly charged ones."""
        return self.charges.total

    @property
    def charges(self) -> Charges:
        """The charges of all attempts."""
        return sum_charges(attempt.charges for attempt in self.attempts)

    @property
    def next_number(self) -> int:
        """The number of the next attempt."""
        return max((attempt.number for attempt in self.attempts), default=0) + 1

    @property
    def may_have_verdicts(self) -> bool:
        """Whether an earlier result may have left a `.refused.json` or `.failed.json`."""
        return len(self.attempts) > 1 or any(attempt.reopened for attempt in self.attempts)

    def has_request_of(self, old: Self) -> bool:
        """Return whether the request is the same; an erased prompt comes back only as the one in the key."""
        if self.state is JobState.FORGOTTEN and self.request.prompt == FORGOTTEN:
            return self.request == old.request.model_copy(update={"prompt": FORGOTTEN})
        if old.state is JobState.FORGOTTEN and self.request != old.request:
            return self.request.job_key(self.image.facts.sha256) == self.key
        return self.request == old.request

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
    live = [one for one in attempts if not one.forgotten]
    if attempts and not live:
        return JobState.FORGOTTEN, attempts[-1]
    attempts = live
    ended = sorted((one for one in attempts if one.end), key=lambda one: one.end.revision if one.end else 0)
    if stored := next((one for one in ended if one.ended_as(EndKind.STORED) and not one.resubmitted), None):
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
