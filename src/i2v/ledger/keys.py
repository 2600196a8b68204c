"""What things are called in the bucket. Reconcile decides from these names alone, so they never change lightly.

videos/<name>/<e12>-<r12>.mp4 .jpg .json | .refused.json | .failed.json     the answers to one image version
jobs/<job key>.json  ledger.json  spend.json  open/  runs/  days/  inputs/  tasks/  reports/      the ledger
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from urllib.parse import urlsplit

from i2v.media.images import ImageRef
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

NAME_MAX_BYTES = 900
RECENT = "recent/"
NEWEST_FIRST_FROM = 9_999_999_999_999
"""Unix milliseconds that are far enough away."""
RESERVED = ("_s3/", "_url/", "_long/")
"""First parts of names that an image's key may not have, since they name images from elsewhere."""


def digest12(text: str) -> str:
    """Twelve hex digits of sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def image_name(ref: ImageRef, settings: Settings) -> str:
    """The folder below the videos prefix in which all answers to an image lie; at most 900 bytes."""
    if ref.uri:
        return object_name(ref.uri, settings)
    host = urlsplit(ref.label).hostname or "unknown"
    return _short(f"_url/{host}/{hashlib.sha256(ref.label.encode()).hexdigest()[:16]}")


def object_name(uri: S3Uri, settings: Settings) -> str:
    """The same for an image in S3."""
    inside = settings.images.holds(uri)
    return _short(uri.key.removeprefix(settings.images.key) if inside else f"_s3/{uri.bucket}/{uri.key}")


def _short(name: str) -> str:
    return f"_long/{hashlib.sha256(name.encode()).hexdigest()}" if len(name.encode()) > NAME_MAX_BYTES else name


def output_uri(settings: Settings, name: str, etag: str, request_digest12: str, ending: str) -> S3Uri:
    """Where an answer lies; `ending` is `.mp4`, `.jpg`, `.json`, `.refused.json` or `.failed.json`."""
    return settings.videos / f"{name}/{digest12(etag)}-{request_digest12}{ending}"


def sibling_uri(video: S3Uri, ending: str) -> S3Uri:
    """The poster (`.jpg`) or the manifest (`.json`) of a video."""
    return S3Uri(video.bucket, video.key.removesuffix(".mp4") + ending)


def parse_video_uri(address: str | None, settings: Settings) -> S3Uri | None:
    """Where a video lies, if it lies where our videos do."""
    try:
        uri = S3Uri.parse(address or "")
    except ValueError:
        return None
    return uri if settings.videos.holds(uri) and uri.key.endswith(".mp4") else None


def job_uri(settings: Settings, key: str) -> S3Uri:
    """A job's record."""
    return settings.jobs / f"{key}.json"


def open_marker_uri(settings: Settings, name: str, etag: str, key: str) -> S3Uri:
    """The mark that a job has not ended: an index, never the truth."""
    return settings.jobs / f"open/{digest12(name)}-{digest12(etag)}-{key}"


def run_uri(settings: Settings, run_id: str) -> S3Uri:
    """A run's record: its heartbeat, and its report at the end."""
    return settings.jobs / f"runs/{run_id}.json"


def descending_timestamp(moment: datetime) -> str:
    """Thirteen digits that sort the other way round than time does, so that a listing begins with what is new."""
    return f"{NEWEST_FIRST_FROM - int(moment.timestamp() * 1000):013d}"


def recent_page_uri(settings: Settings, started_at: datetime, run_id: str) -> S3Uri:
    """The page of what ended in a run."""
    return settings.jobs / f"{RECENT}{descending_timestamp(started_at)}-{run_id}.json"


def run_items_uri(settings: Settings, run_id: str) -> S3Uri:
    """A run's images as JSON lines, for tables."""
    return settings.jobs / f"runs/{run_id}.jsonl"


def daily_spend_uri(settings: Settings, day: str) -> S3Uri:
    """The money of one UTC day (`2026-11-22`)."""
    return settings.jobs / f"days/{day}.json"


def input_uri(settings: Settings, sha256: str) -> S3Uri:
    """Our copy of an image that was named by URL."""
    return settings.jobs / f"inputs/{sha256}"


def ledger_uri(settings: Settings) -> S3Uri:
    """The ledger's own page: whose it is, and whether it is paused."""
    return settings.jobs / "ledger.json"


def spend_uri(settings: Settings) -> S3Uri:
    """What the last spend report saw: its time and the provider's balance."""
    return settings.jobs / "spend.json"


def spend_chart_uri(settings: Settings, day: str) -> S3Uri:
    """The picture of the spend report of a UTC day."""
    return settings.jobs / f"reports/spend-{day}.png"


def task_uri(settings: Settings, task_id: str) -> S3Uri:
    """Which job a task was adopted for, so that no other adopts it too."""
    return settings.jobs / f"tasks/{hashlib.sha256(task_id.encode()).hexdigest()}"
