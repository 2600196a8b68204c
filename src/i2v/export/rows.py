"""The rows of the tables as a job record gives them: `attempt_rows`, `video_rows`. Add a column here and in `schemas`.

A row belongs to the partition `day`, and within it is known by `job` and `attempt`.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from i2v.ledger.attempt import Attempt, EndKind, StoredVideo
from i2v.ledger.job import JobRecord, JobState


class Row(BaseModel):
    """What every row says about its job. Times are UTC, amounts US dollars."""

    model_config = ConfigDict(frozen=True)

    day: date
    job: str
    attempt: int
    revision: int
    """The record's: rows of an older one are replaced."""
    image: str
    """The `s3://` URI or the URL without its query; `forgotten/<digest>` of an erased image."""
    folder: str
    label: str | None
    prompt: str
    mode: str
    duration: int
    """Seconds requested."""
    take: int
    extra: Mapping[str, str]
    """The image's custom columns."""
    image_sha256: str
    run_id: str
    task_id: str | None
    claimed_at: datetime
    submitted_at: datetime | None
    cost_usd: Decimal
    """The full price if it was charged or possibly charged, else 0."""
    forgotten: bool


class AttemptRow(Row):
    """An attempt with its end."""

    delivery: str
    ended_as: str | None
    """An `EndKind`; none while it is open."""
    ended_at: datetime | None
    outcome: str
    """The job's state for the attempt that decides it, else `failed`: what the spend report shows."""
    state: str
    """The job's."""
    reason_code: str | None
    reason: str | None
    price_usd: Decimal
    charged_usd: Decimal
    possibly_charged_usd: Decimal
    at_risk_usd: Decimal

    @property
    def stored_usd(self) -> Decimal:
        """The price, if it brought a video."""
        return self.price_usd if self.ended_as == EndKind.STORED else Decimal(0)

    @property
    def open_usd(self) -> Decimal:
        """The price, if it has a task that has not ended."""
        return self.price_usd if self.ended_as is None and self.task_id is not None else Decimal(0)

    @property
    def mode_and_duration(self) -> str:
        """Mode and duration for people: `standard 6 s`."""
        return f"{self.mode} {self.duration} s"


class VideoRow(Row):
    """A stored video. Once its image is erased, only its cost, hashes of the image and times are left."""

    stored_at: datetime
    is_current: bool
    """Whether it is its job's video, not an extra or replaced one."""
    image_width: int
    image_height: int
    image_bytes: int
    video: str | None
    poster: str | None
    manifest: str | None
    video_sha256: str | None
    video_bytes: int | None
    width: int | None
    height: int | None
    seconds: float | None
    flags: tuple[str, ...]
    unverified: str | None
    image_changed: bool | None


def attempt_rows(record: JobRecord) -> Iterator[AttemptRow]:
    """Yield a row for each attempt, by number, including those that cost nothing."""
    for attempt in sorted(record.attempts, key=lambda one: one.number):
        end, charges = attempt.end, attempt.charges
        yield AttemptRow(
            **_job_fields(record, attempt),
            day=_utc(attempt.claimed_at).date(),
            delivery=attempt.delivery,
            ended_as=end.kind.value if end else None,
            ended_at=_utc(end.at) if end else None,
            outcome=_outcome(record, attempt),
            state=record.state.value,
            reason_code=end.reason.code if end and end.reason else None,
            reason=end.reason.message if end and end.reason else None,
            price_usd=attempt.price_usd,
            charged_usd=charges.charged,
            possibly_charged_usd=charges.possibly,
            at_risk_usd=attempt.at_risk_usd,
        )


def video_rows(record: JobRecord) -> Iterator[VideoRow]:
    """Yield a row for each attempt that brought a video, by number."""
    facts = record.image.facts
    for attempt in sorted(record.attempts, key=lambda one: one.number):
        if attempt.end and attempt.ended_as(EndKind.STORED):
            yield VideoRow(
                **_job_fields(record, attempt),
                **_video_fields(attempt.end.video),
                day=_utc(attempt.end.at).date(),
                stored_at=_utc(attempt.end.at),
                is_current=record.state is JobState.STORED and attempt == record.attempt,
                image_width=facts.width,
                image_height=facts.height,
                image_bytes=facts.size,
            )


def _job_fields(record: JobRecord, attempt: Attempt) -> dict[str, object]:
    return {
        "job": record.key,
        "attempt": attempt.number,
        "revision": record.revision,
        "image": record.image.label,
        "folder": record.image.name.rpartition("/")[0],
        "label": record.label,
        **record.request.model_dump(mode="json"),
        "extra": dict(record.extra),
        "image_sha256": record.image.facts.sha256,
        "run_id": attempt.run_id,
        "task_id": attempt.task_id,
        "claimed_at": _utc(attempt.claimed_at),
        "submitted_at": attempt.submitted_at and _utc(attempt.submitted_at),
        "cost_usd": attempt.cost_usd,
        "forgotten": attempt.forgotten,
    }


def _video_fields(video: StoredVideo | None) -> dict[str, object]:
    return {
        "video": str(video.uri) if video else None,
        "poster": str(video.poster) if video else None,
        "manifest": str(video.manifest) if video else None,
        "video_sha256": video.sha256 if video else None,
        "video_bytes": video.size if video else None,
        "width": video.width if video else None,
        "height": video.height if video else None,
        "seconds": video.seconds if video else None,
        "flags": video.flags if video else (),
        "unverified": video.unverified if video else None,
        "image_changed": video.image_changed if video else None,
    }


def _outcome(record: JobRecord, attempt: Attempt) -> str:
    """Return the job's state for the attempt that decides it; erasing the image changes nothing."""
    if attempt.forgotten and attempt.end and attempt.end.kind in {EndKind.STORED, EndKind.REFUSED}:
        return attempt.end.kind.value
    if attempt.forgotten:
        return JobState.FAILED.value
    return record.state.value if attempt == record.attempt else JobState.FAILED.value


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
