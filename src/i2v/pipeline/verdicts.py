"""Verdict files: `.refused.json` and `.failed.json`, which lie where the video of an image would have been."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from i2v.errors import Conflict
from i2v.ledger import keys
from i2v.ledger.job import JobImage, JobRecord, JobState, Reason
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.request import MODEL, Request, canonical_json
from i2v.s3.storage import Storage
from i2v.settings import Settings

FORMAT = 1


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


def refusal(image: ResolvedImage, validation: ValidationResult, request: Request) -> Verdict:
    """Return the verdict of an image that validation refused."""
    reason = Reason(code=validation.rule, message=validation.refusal or "")
    return Verdict(image.name, image.ref.label, validation.etag, request, JobState.REFUSED, reason)


def job_verdict(record: JobRecord, image: JobImage, reason: Reason) -> Verdict:
    """Return the verdict of an image whose job was refused or failed."""
    return Verdict(image.name, image.label, image.etag, record.request, record.state, reason, record.key)


async def put_verdict(storage: Storage, settings: Settings, verdict: Verdict, *, keep_existing: bool = False) -> bool:
    """Write a verdict; return `False` where one exists and `keep_existing` leaves it in place."""
    uri = keys.output_uri(settings, verdict.name, verdict.etag, verdict.request.digest12, f".{verdict.state}.json")
    value = {
        "format": FORMAT,
        "image": verdict.label,
        "etag": verdict.etag,
        "request": {"model": MODEL, **verdict.request.model_dump(mode="json")},
        "job": verdict.job,
        "reason": verdict.reason.model_dump(),
        "at": datetime.now(UTC).isoformat(),
    }
    try:
        await storage.put(uri, canonical_json(value), content_type="application/json", create=keep_existing)
    except Conflict:
        return False
    return True


async def remove_verdicts(storage: Storage, settings: Settings, image: JobImage, request: Request) -> None:
    """Delete the verdicts that an earlier attempt left and that no longer hold."""
    for state in (JobState.REFUSED, JobState.FAILED):
        await storage.delete(keys.output_uri(settings, image.name, image.etag, request.digest12, f".{state}.json"))
