"""`read_details`: everything known about one result. A missing, replaced or unreadable object becomes a note.

It sends S3 at most four requests: the job record, or the manifest and a HEAD of the video and the image.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

from doors.gallery.listing import LINK_SECONDS, Card
from i2v.errors import LedgerError, NotFound, StorageError
from i2v.ledger.job import JobRecord
from i2v.ledger.keys import parse_video_uri, sibling_uri
from i2v.ledger.ledger import Ledger
from i2v.money import money_text
from i2v.reports.recent import Dollars, RecentItem, UtcTime
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
MANIFEST_LIMIT_BYTES = 1 << 20
Count = Annotated[int, Field(ge=0, le=10**15)]
Facts = dict[str, str | int | None]
"""Names and values in the order of display; those without a value are not shown."""
VERBATIM_FACTS = {"image", "job", "reason code", "task id", "run", "copied from", "sha256", "location"}
"""Values that users copy."""


def _in(part: str, name: str) -> Any:
    """Return an optional field that is nested in a part of the manifest."""
    return Field(None, validation_alias=AliasPath(part, name))


class Manifest(BaseModel):
    """The manifest beside a video, of any version: unknown fields are ignored, and every field may be missing."""

    model_config = ConfigDict(frozen=True)

    image: S3Uri | None = _in("image", "at")
    image_etag: str | None = _in("image", "etag")
    model: str | None = _in("request", "model")
    prompt: str | None = _in("request", "prompt")
    take: Count | None = _in("request", "take")
    width: Count | None = _in("video", "width")
    height: Count | None = _in("video", "height")
    seconds: Annotated[float, Field(ge=0, le=10**6)] | None = _in("video", "seconds")
    size: Count | None = _in("video", "size")
    codec: str | None = _in("video", "codec")
    sha256: str | None = _in("video", "sha256")
    flags: tuple[str, ...] = Field((), validation_alias=AliasPath("video", "flags"))
    label: str | None = None
    task_id: str | None = None
    cost_usd: Dollars | None = None
    attempts: Count | None = None
    run_id: str | None = None
    submitted_at: UtcTime | None = None
    rendering_ms: Count | None = None
    stored_at: UtcTime | None = None
    copied_from: str | None = None
    extra: dict[str, str] = {}

    def facts(self, cost_usd: Decimal) -> Facts:
        """Return what the manifest says about the video, which cost `cost_usd` when its run ended."""
        size = f"{self.width} x {self.height} px" if self.width and self.height else None
        megabytes = f"{self.size / 1e6:.1f} MB" if self.size else None
        return {
            "video": _join(size, _seconds(self.seconds), self.codec, megabytes),
            "take": self.take if self.take != 1 else None,
            "total cost": _dollars(self.cost_usd) if self.cost_usd != cost_usd else None,
            "paid attempts": self.attempts,
            "submitted": format_moment(self.submitted_at),
            "rendering time": _seconds(self.rendering_ms / 1000) if self.rendering_ms else None,
            "stored": format_moment(self.stored_at),
            "label": self.label,
            "model": self.model,
            "task id": self.task_id,
            "run": self.run_id,
            "copied from": self.copied_from,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Details:
    """The details of one card; `notes` are sentences about what is missing or wrong."""

    card: Card
    prompt: str | None
    facts: Facts
    notes: Sequence[str] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    """The image's custom columns."""
    download: str | None = field(default=None, repr=False)
    """A signed link to the video as a file."""


async def read_details(storage: Storage, settings: Settings, card: Card) -> Details:
    """Read the details of a card from the manifest, or from the job record if there is no video."""
    if video := parse_video_uri(card.item.video, settings):
        return await _video_details(storage, card, video)
    notes = ["The video is outside the videos prefix, so the gallery does not show it."] if card.item.video else []
    record = await _read_record(storage, settings, card.item.job)
    if record is None:
        return Details(card, None, _item_facts(card.item), notes, card.item.extra)
    facts, extra = _item_facts(card.item) | _record_facts(record), card.item.extra or record.extra
    return Details(card, record.request.prompt, facts, notes, extra)


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
    image, etag = manifest.image, manifest.image_etag
    image_note = await _check_object(storage, image, "The image", etag) if image else None
    flags = [f"{flag[:1].upper()}{flag[1:]}." for flag in manifest.flags]
    notes = [*flags, *filter(None, (video_note, manifest_note, image_note))]
    facts = _item_facts(card.item) | manifest.facts(card.item.charges.total) | {"location": str(video)}
    download = await storage.presign(video, seconds=LINK_SECONDS, disposition=_as_attachment(card.name, video))
    return Details(card, manifest.prompt, facts, notes, manifest.extra or card.item.extra, download)


def _as_attachment(name: str, video: S3Uri) -> str:
    """Return the header that makes a browser save the video under its image's name."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name.rpartition("/")[2].rpartition(".")[0]).strip("-.")
    return f'attachment; filename="{stem or "video"}.{video.key.rpartition(".")[2]}"'


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
    except StorageError as error:
        log.warning("%s could not be checked: %s", what, error)
        return f"{what} could not be checked."
    return f"{what} has been replaced since." if etag and etag != found.etag else None


def _item_facts(item: RecentItem) -> Facts:
    return {
        "image": item.image,
        "requested": _join(item.mode, f"{item.duration} s" if item.duration else None),
        "cost": str(item.charges),
        "finished": format_moment(item.at),
        "job": item.job,
    }


def _record_facts(record: JobRecord) -> Facts:
    return {
        "job state": record.state,
        "reason code": record.reason.code if record.reason else None,
        "paid attempts": record.paid_attempts,
        "task id": record.task_id,
        "run": record.attempt.run_id if record.attempt else None,
        "label": record.label,
    }


def format_moment(at: datetime | None) -> str | None:
    """Return a time in UTC, to the second."""
    return f"{at:%-d %b %Y, %H:%M:%S} UTC" if at else None


def _dollars(amount: Decimal | None) -> str | None:
    return None if amount is None else f"${money_text(amount)}"


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.3g} s" if seconds < 10 else f"{seconds:,.0f} s"  # noqa: PLR2004 - short


def _join(*parts: str | None) -> str:
    return " · ".join(filter(None, parts))
