"""`read_details`: everything known about one result. A missing, replaced or unreadable object becomes a note.

It sends S3 at most four requests: the job record, or the manifest and a HEAD of the video and the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from doors.gallery.listing import Card, video_of
from i2v.errors import LedgerError, NotFound, StorageError
from i2v.ledger.job import JobRecord
from i2v.ledger.keys import sibling_uri
from i2v.ledger.ledger import Ledger
from i2v.money import money_text
from i2v.reports.recent import Dollars, UtcTime
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

MANIFEST_LIMIT_BYTES = 1 << 20
Count = Annotated[int, Field(ge=0, le=10**15)]


class _ManifestModel(BaseModel):
    """Part of a manifest of any version: unknown fields are ignored, and every field may be missing."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _ManifestImage(_ManifestModel):
    at: S3Uri | None = None
    etag: str | None = None


class _ManifestRequest(_ManifestModel):
    model: str | None = None
    prompt: str | None = None
    take: Count | None = None


class _ManifestVideo(_ManifestModel):
    width: Count | None = None
    height: Count | None = None
    seconds: Annotated[float, Field(ge=0, le=10**6)] | None = None
    size: Count | None = None
    codec: str | None = None
    sha256: str | None = None
    flags: tuple[str, ...] = ()


class Manifest(_ManifestModel):
    """The manifest beside a video."""

    image: _ManifestImage = _ManifestImage()
    request: _ManifestRequest = _ManifestRequest()
    label: str | None = None
    task_id: str | None = None
    cost_usd: Dollars | None = None
    attempts: Count | None = None
    run_id: str | None = None
    submitted_at: UtcTime | None = None
    rendering_ms: Count | None = None
    stored_at: UtcTime | None = None
    copied_from: str | None = None
    video: _ManifestVideo = _ManifestVideo()


class Fact(NamedTuple):
    """One line of the details; `is_code` marks a value to copy verbatim."""

    name: str
    value: str
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class Details:
    """The details of one card; `notes` are sentences about what is missing or wrong."""

    card: Card
    prompt: str | None
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]


async def read_details(storage: Storage, settings: Settings, card: Card) -> Details:
    """Read the details of a card from the manifest, or from the job record if there is no video."""
    video = video_of(card.item, settings)
    if video is not None:
        return await _video_details(storage, card, video)
    notes = ("The video is outside the videos prefix, so the gallery does not show it.",) if card.item.video else ()
    record = await _read_record(storage, settings, card.item.job)
    prompt = record.request.prompt if record else None
    return Details(card, prompt, _known([*_item_facts(card), *(_record_facts(record) if record else ())]), notes)


async def _read_record(storage: Storage, settings: Settings, key: str | None) -> JobRecord | None:
    try:
        stored = await Ledger(storage, settings).read(key) if key else None
    except LedgerError:
        return None
    return stored.record if stored else None


async def _video_details(storage: Storage, card: Card, video: S3Uri) -> Details:
    (manifest, manifest_note), video_note = await asyncio.gather(
        _read_manifest(storage, sibling_uri(video, ".json")), _check_object(storage, video, "The video")
    )
    image = manifest.image
    image_note = await _check_object(storage, image.at, "The image", image.etag) if image.at else None
    flags = [f"{flag[:1].upper()}{flag[1:]}." for flag in manifest.video.flags]
    notes = [*flags, *(note for note in (video_note, manifest_note, image_note) if note)]
    facts = (*facts_of(card, manifest), Fact("location", str(video), is_code=True))
    return Details(card, manifest.request.prompt, facts, tuple(notes))


def facts_of(card: Card, manifest: Manifest) -> tuple[Fact, ...]:
    """Return the known facts about a video."""
    return _known([*_item_facts(card), *_manifest_facts(manifest, card.item.cost_usd)])


async def _read_manifest(storage: Storage, uri: S3Uri) -> tuple[Manifest, str | None]:
    try:
        return Manifest.model_validate_json((await storage.get(uri, limit=MANIFEST_LIMIT_BYTES)).body), None
    except NotFound:
        return Manifest(), "The manifest is no longer in the bucket."
    except (ValidationError, StorageError):
        return Manifest(), "The manifest cannot be read."


async def _check_object(storage: Storage, uri: S3Uri, what: str, etag: str | None = None) -> str | None:
    """Return a sentence if the object is missing, unreadable or replaced."""
    try:
        found = await storage.head(uri)
    except NotFound:
        return f"{what} is no longer in the bucket."
    except StorageError:
        return f"{what} could not be checked."
    return f"{what} has been replaced since." if etag and etag != found.etag else None


def _item_facts(card: Card) -> Iterator[Fact]:
    item = card.item
    yield Fact("image", item.image, is_code=True)
    yield Fact("requested", " · ".join(filter(None, (item.mode, f"{item.duration} s" if item.duration else ""))))
    yield Fact("cost", f"${money_text(item.cost_usd)}")
    yield Fact("finished", format_moment(item.at))
    yield Fact("job", item.job or "", is_code=True)


def _manifest_facts(manifest: Manifest, cost_usd: Decimal) -> Iterator[Fact]:
    video, request, cost = manifest.video, manifest.request, manifest.cost_usd
    yield Fact("video", " · ".join(filter(None, (_size(video), _seconds(video.seconds), video.codec, _bytes(video)))))
    yield Fact("take", str(request.take) if request.take and request.take > 1 else "")
    yield Fact("total cost", f"${money_text(cost)}" if cost is not None and cost != cost_usd else "")
    yield Fact("paid attempts", str(manifest.attempts) if manifest.attempts else "")
    yield Fact("submitted", format_moment(manifest.submitted_at))
    yield Fact("rendering time", _seconds(manifest.rendering_ms / 1000) if manifest.rendering_ms else "")
    yield Fact("stored", format_moment(manifest.stored_at))
    yield Fact("label", manifest.label or "")
    yield Fact("model", request.model or "")
    yield Fact("task id", manifest.task_id or "", is_code=True)
    yield Fact("run", manifest.run_id or "", is_code=True)
    yield Fact("copied from", manifest.copied_from or "", is_code=True)
    yield Fact("sha256", video.sha256 or "", is_code=True)


def _record_facts(record: JobRecord) -> Iterator[Fact]:
    attempt = record.attempt
    yield Fact("job state", record.state)
    yield Fact("reason code", record.reason.code if record.reason else "", is_code=True)
    yield Fact("paid attempts", str(len(record.attempts) or ""))
    yield Fact("task id", record.task_id or "", is_code=True)
    yield Fact("run", attempt.run_id if attempt else "", is_code=True)
    yield Fact("label", record.label or "")


def _known(facts: list[Fact]) -> tuple[Fact, ...]:
    return tuple(fact for fact in facts if fact.value)


def format_moment(at: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return f"{at:%-d %b %Y, %H:%M:%S} UTC" if at else ""


def format_minute(at: datetime) -> str:
    """Return a time in UTC, to the minute."""
    return f"{at:%-d %b %Y, %H:%M} UTC"


def _size(video: _ManifestVideo) -> str:
    return f"{video.width} x {video.height} px" if video.width and video.height else ""


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g} s" if seconds < 10 else f"{seconds:,.0f} s"  # noqa: PLR2004 - short


def _bytes(video: _ManifestVideo) -> str:
    return f"{video.size / 1e6:.1f} MB" if video.size else ""
