"""All that is known of one card: `read_details`. What is missing, replaced or unreadable is told in words.

It asks S3 at most four times: the manifest, and whether video and image are still there; or the job's record.
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
Whole = Annotated[int, Field(ge=0, le=10**15)]


class _Lenient(BaseModel):
    """Of a manifest of any version what is understood; nothing has to be there."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ManifestImage(_Lenient):
    """The image as it was when it was paid for."""

    at: S3Uri | None = None
    etag: str | None = None


class ManifestRequest(_Lenient):
    """What was asked."""

    model: str | None = None
    prompt: str | None = None
    take: Whole | None = None


class ManifestVideo(_Lenient):
    """What was measured."""

    width: Whole | None = None
    height: Whole | None = None
    seconds: Annotated[float, Field(ge=0, le=10**6)] | None = None
    size: Whole | None = None
    codec: str | None = None
    sha256: str | None = None
    flags: tuple[str, ...] = ()


class Manifest(_Lenient):
    """What lies beside a video."""

    image: ManifestImage = ManifestImage()
    request: ManifestRequest = ManifestRequest()
    label: str | None = None
    task_id: str | None = None
    cost_usd: Dollars | None = None
    attempts: Whole | None = None
    run_id: str | None = None
    submitted_at: UtcTime | None = None
    rendering_ms: Whole | None = None
    stored_at: UtcTime | None = None
    copied_from: str | None = None
    video: ManifestVideo = ManifestVideo()


class Fact(NamedTuple):
    """One line; `is_code` where it is to be copied letter by letter."""

    name: str
    value: str
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class Details:
    """What is told of one card."""

    card: Card
    prompt: str | None
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    """What is not as it should be, in sentences."""


async def read_details(storage: Storage, settings: Settings, card: Card) -> Details:
    """Find out all that is known.

    Raises:
        StorageError: S3 did not answer well.
    """
    video = video_of(card.item, settings)
    if video is not None:
        return await _of_video(storage, card, video)
    notes = ("Its video lies where this gallery may not look.",) if card.item.video else ()
    record = await _record(storage, settings, card.item.job)
    prompt = record.request.prompt if record else None
    return Details(card, prompt, tuple(_told([*_of_item(card), *(_of_record(record) if record else ())])), notes)


async def _record(storage: Storage, settings: Settings, key: str | None) -> JobRecord | None:
    try:
        held = await Ledger(storage, settings).read(key) if key else None
    except LedgerError:
        return None
    return held.record if held else None


async def _of_video(storage: Storage, card: Card, video: S3Uri) -> Details:
    (manifest, words), video_words = await asyncio.gather(
        _manifest(storage, sibling_uri(video, ".json")), _there(storage, video, "The video")
    )
    image = manifest.image
    image_words = await _there(storage, image.at, "The image", image.etag) if image.at else None
    flags = [f"{flag[:1].upper()}{flag[1:]}." for flag in manifest.video.flags]
    notes = [*flags, *(word for word in (video_words, words, image_words) if word)]
    facts = (*facts_of(card, manifest), Fact("lies at", str(video), is_code=True))
    return Details(card, manifest.request.prompt, facts, tuple(notes))


def facts_of(card: Card, manifest: Manifest) -> tuple[Fact, ...]:
    """What is known of a video."""
    return tuple(_told([*_of_item(card), *_of_manifest(manifest, card.item.cost_usd)]))


async def _manifest(storage: Storage, uri: S3Uri) -> tuple[Manifest, str | None]:
    try:
        return Manifest.model_validate_json((await storage.get(uri, limit=MANIFEST_LIMIT_BYTES)).body), None
    except NotFound:
        return Manifest(), "Its manifest is gone from the bucket."
    except (ValidationError, StorageError):
        return Manifest(), "Its manifest cannot be read."


async def _there(storage: Storage, uri: S3Uri, what: str, etag: str | None = None) -> str | None:
    """What is wrong with an object, in words."""
    try:
        found = await storage.head(uri)
    except NotFound:
        return f"{what} is gone from the bucket."
    except StorageError:
        return f"{what} could not be looked at."
    return f"{what} has been replaced since." if etag and etag != found.etag else None


def _of_item(card: Card) -> Iterator[Fact]:
    item = card.item
    yield Fact("image", item.image, is_code=True)
    yield Fact("asked", " · ".join(filter(None, (item.mode, f"{item.duration} s" if item.duration else ""))))
    yield Fact("cost", f"${money_text(item.cost_usd)}")
    yield Fact("ended", format_moment(item.at))
    yield Fact("job", item.job or "", is_code=True)


def _of_manifest(manifest: Manifest, cost_usd: Decimal) -> Iterator[Fact]:
    video, request, cost = manifest.video, manifest.request, manifest.cost_usd
    yield Fact("video", " · ".join(filter(None, (_sides(video), _seconds(video.seconds), video.codec, _size(video)))))
    yield Fact("take", str(request.take) if request.take and request.take > 1 else "")
    yield Fact("cost in all runs", f"${money_text(cost)}" if cost is not None and cost != cost_usd else "")
    yield Fact("paid attempts", str(manifest.attempts) if manifest.attempts else "")
    yield Fact("submitted", format_moment(manifest.submitted_at))
    yield Fact("rendering took", _seconds(manifest.rendering_ms / 1000) if manifest.rendering_ms else "")
    yield Fact("stored", format_moment(manifest.stored_at))
    yield Fact("label", manifest.label or "")
    yield Fact("model", request.model or "")
    yield Fact("task id", manifest.task_id or "", is_code=True)
    yield Fact("run", manifest.run_id or "", is_code=True)
    yield Fact("copied from", manifest.copied_from or "", is_code=True)
    yield Fact("sha256", video.sha256 or "", is_code=True)


def _of_record(record: JobRecord) -> Iterator[Fact]:
    attempt = record.attempt
    yield Fact("its job is now", record.state)
    yield Fact("reason code", record.reason.code if record.reason else "", is_code=True)
    yield Fact("paid attempts", str(len(record.attempts) or ""))
    yield Fact("task id", record.task_id or "", is_code=True)
    yield Fact("run", attempt.run_id if attempt else "", is_code=True)
    yield Fact("label", record.label or "")


def _told(facts: list[Fact]) -> Iterator[Fact]:
    """What is known of them."""
    return (fact for fact in facts if fact.value)


def format_moment(at: datetime | None) -> str:
    """A time as it is read here: UTC, to the second."""
    return f"{at:%-d %b %Y, %H:%M:%S} UTC" if at else ""


def format_minute(at: datetime) -> str:
    """The same, to the minute."""
    return f"{at:%-d %b %Y, %H:%M} UTC"


def _sides(video: ManifestVideo) -> str:
    return f"{video.width} x {video.height} px" if video.width and video.height else ""


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g} s" if seconds < 10 else f"{seconds:,.0f} s"  # noqa: PLR2004 - short


def _size(video: ManifestVideo) -> str:
    return f"{video.size / 1e6:.1f} MB" if video.size else ""
