"""An attempt: one claim of a job, for one submit. `i2v.ledger.job` computes a job's state from its attempts.

An attempt is appended by its claim and never removed; its end is written once. Only an attempt without a task id can be
reopened, by its task id.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from i2v.money import ZERO, Charges
from i2v.s3_uri import S3Uri

Delivery = Literal["poll", "callback"]
"""How i2v learns that a task has ended: it polls, or the provider calls back."""
FORGOTTEN = "forgotten"
"""Stands for an erased prompt and for the words of an erased reason."""
DROPPED_CODE = "dropped"
"""`Reason.code` of a job that a person dropped."""


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


class LedgerModel(BaseModel):
    """A part of a record."""

    model_config = ConfigDict(frozen=True)


class Reason(LedgerModel):
    """Why a job ended or needs a person: a short code (the provider's or ours) and a sentence."""

    code: str
    message: str


class StoredVideo(LedgerModel):
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
    unverified: str | None = None
    """Why the file could not be verified, although it came twice with the same bytes."""
    image_changed: bool = False
    """Whether the image was replaced or deleted before the end, so the video may show another one."""


class AttemptEnd(LedgerModel):
    """The end of an attempt."""

    kind: EndKind
    at: datetime
    revision: int
    """The record's revision that wrote it: the highest is the newest."""
    reason: Reason | None = None
    retry: bool = False
    """Whether a run may pay for another attempt: the failure is transient and attempts are left."""
    video: StoredVideo | None = None

    @property
    def erased(self) -> Self:
        """The end without words and addresses, which may name the image or repeat its prompt."""
        reason = self.reason and Reason(code=self.reason.code, message=FORGOTTEN)
        return self.model_copy(update={"reason": reason, "video": None})

    def is_erased(self, old: Self) -> bool:
        """Return whether this is the old end, erased; its video may be that of an equal image."""
        is_same_video = self.video is None or (old.video is not None and self.video.sha256 == old.video.sha256)
        return is_same_video and self.model_copy(update={"video": None}) == old.erased


class Attempt(LedgerModel):
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
    broken_sha256: str = ""
    """The hash of the newest delivery that could not be verified; it is stored if it comes again."""
    kept: bool = False
    """Whether a person accepted its unverified video."""
    forgotten: bool = False
    """Whether its image was erased afterwards (`i2v forget`). It no longer decides the job's state; its cost counts."""
    end: AttemptEnd | None = None

    @property
    def erased(self) -> Self:
        """The attempt with its end erased."""
        return self.model_copy(update={"end": self.end and self.end.erased})

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
        return self.ended_as(EndKind.LOST) and not self.resubmitted and not self.forgotten

    @property
    def is_unverified(self) -> bool:
        """Whether its video could not be verified and no person has decided about it."""
        unverified = self.end and self.end.video and self.end.video.unverified
        return bool(unverified) and not self.kept and not self.resubmitted

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do for it, so its open marker can go."""
        return self.end is not None and not self.is_unknown

    @property
    def charges(self) -> Charges:
        """The full price as charged or as possibly charged, or nothing. All amounts shown come from here.

        It is charged if the provider returned a task or a failure, else possibly charged unless it was plainly refused.
        """
        if self.ended_as(EndKind.UNPAID) or (self.ended_as(EndKind.REFUSED) and not self.task_id):
            return Charges()
        if self.task_id or self.ended_as(EndKind.FAILED):
            return Charges(charged=self.price_usd)
        return Charges(possibly=self.price_usd)

    @property
    def cost_usd(self) -> Decimal:
        """The full price if it was charged or possibly charged, else 0."""
        return self.charges.total

    @property
    def at_risk_usd(self) -> Decimal:
        """The price if it was possibly charged without producing a video, else 0."""
        return ZERO if self.is_running or self.ended_as(EndKind.STORED) else self.cost_usd

    def ended_as(self, *kinds: EndKind) -> bool:
        """Return whether it ended in one of these ways."""
        return self.end is not None and self.end.kind in kinds
