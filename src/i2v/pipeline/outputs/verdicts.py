"""Verdicts: documents beside the videos that say why an image has none. One replaces or removes the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from i2v.errors import Conflict
from i2v.ledger import keys
from i2v.ledger.attempt import Reason
from i2v.ledger.job import JobImage, JobRecord, JobState
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.request import MODEL, Request, canonical_json
from i2v.s3.storage import Storage
from i2v.settings import Settings

FORMAT = 1
"""Of verdicts and manifests."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an image has no video: refused by validation (without a job), or refused or failed as a job."""

    name: str
    label: str
    etag: str
    request: Request
    state: JobState
    reason: Reason
    job: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


def refusal(image: ResolvedImage, validation: ValidationResult, request: Request) -> Verdict:
    """Return the verdict of an image that validation refused."""
    reason = Reason(code=validation.rule, message=validation.refusal or "")
    extra = dict(image.options.extra)
    return Verdict(image.name, image.ref.label, validation.etag, request, JobState.REFUSED, reason, extra=extra)


def job_verdict(record: JobRecord, image: JobImage, reason: Reason, extra: Mapping[str, str]) -> Verdict:
    """Return the verdict of an image whose job was refused or failed."""
    return Verdict(image.name, image.label, image.etag, record.request, record.state, reason, record.key, extra)


async def put_verdict(storage: Storage, settings: Settings, verdict: Verdict, *, keep_existing: bool = False) -> bool:
    """Write a verdict; return `False` if one exists and `keep_existing` is set."""
    uri = keys.output_uri(settings, verdict.name, verdict.etag, verdict.request.digest12, f".{verdict.state}.json")
    value = {
        "format": FORMAT,
        "image": verdict.label,
        "etag": verdict.etag,
        "request": {"model": MODEL, **verdict.request.model_dump(mode="json")},
        "job": verdict.job,
        "reason": verdict.reason.model_dump(),
        "extra": dict(verdict.extra),
        "at": datetime.now(UTC).isoformat(),
    }
    try:
        await storage.put(uri, canonical_json(value), content_type="application/json", create=keep_existing)
    except Conflict:
        return False
    return True


async def remove_verdicts(storage: Storage, settings: Settings, image: JobImage, request: Request) -> None:
    """Delete the verdicts of earlier attempts, which no longer apply."""
    for state in (JobState.REFUSED, JobState.FAILED):
        await storage.delete(keys.output_uri(settings, image.name, image.etag, request.digest12, f".{state}.json"))
