"""Names of objects in the bucket. Reconcile relies on them and existing buckets use them: do not change a name.

videos/<name>/<e12>-<r12>.mp4 .jpg .json | .refused.json | .failed.json     the outputs of one image version
jobs/<job key>.json  ledger.json  spend.json  open/ forgotten/ runs/ days/ months/ batches/ inputs/ tasks/    the ledger
jobs/tables/                                                                what `i2v export` writes
"""

import hashlib
import re
from datetime import datetime
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from i2v.ledger.job import JobImage
from i2v.media.images import ImageRef
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

NAME_MAX_BYTES = 900
RECENT_PREFIX = "recent/"
FORGOTTEN_PREFIX = "forgotten/"
MAX_UNIX_MILLISECONDS = 9_999_999_999_999
"""13 digits; a timestamp is subtracted from it, so that listings return the newest name first."""
_MARKER = re.compile(r"([0-9a-f]{12}-[0-9a-f]{12})-([0-9a-f]{64})(?:-([0-9]{1,9})r?)?")
RESERVED = ("_s3/", "_url/", "_long/")
"""Folders for images from outside the images prefix; no image key under the prefix may start with one."""
_VIDEO_ENDING = re.compile(r"(?:\.unverified)?\.(?:mp4|mov|webm|mkv)$")


def digest12(text: str) -> str:
    """Return the first 12 hex digits of the SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def image_name(ref: ImageRef, settings: Settings) -> str:
    """Return the folder under the videos prefix for all outputs of an image, at most 900 bytes long."""
    if ref.uri:
        return object_name(ref.uri, settings)
    host = urlsplit(ref.label).hostname or "unknown"
    return _short(f"_url/{host}/{hashlib.sha256(ref.label.encode()).hexdigest()[:16]}")


def object_name(uri: S3Uri, settings: Settings) -> str:
    """Return the `image_name` of an image in S3."""
    inside = settings.images.holds(uri)
    return _short(uri.key.removeprefix(settings.images.key) if inside else f"_s3/{uri.bucket}/{uri.key}")


def _short(name: str) -> str:
    return f"_long/{hashlib.sha256(name.encode()).hexdigest()}" if len(name.encode()) > NAME_MAX_BYTES else name


def version_of(name: str, etag: str) -> str:
    """Return `<n12>-<e12>`, as the markers of an image version are named."""
    return f"{digest12(name)}-{digest12(etag)}"


def forgotten_uri(settings: Settings, version: str) -> S3Uri:
    """Return the URI of the marker that an image version was erased, and gets a video again only if it is named."""
    return settings.jobs / f"{FORGOTTEN_PREFIX}{version}"


def forgotten_label(name: str) -> str:
    """Return what stands for the address of an erased image in the ledger."""
    return f"{FORGOTTEN_PREFIX}{digest12(name)}"


def forgotten_image(settings: Settings, image: JobImage) -> JobImage:
    """Return what stays of an erased image in its job's record: hashes, size and sides."""
    label = forgotten_label(image.name)
    facts = image.facts.model_copy(update={"fingerprint": ""})
    at = forgotten_uri(settings, version_of(image.name, image.etag))
    return JobImage(label=label, name=f"_{label}", at=at, etag=image.etag, facts=facts)


def output_uri(settings: Settings, name: str, etag: str, request_digest12: str, ending: str) -> S3Uri:
    """Return the URI of an output; `ending` is such as `.mp4`, `.jpg`, `.json`, `.refused.json` or `.failed.json`."""
    return settings.videos / f"{name}/{digest12(etag)}-{request_digest12}{ending}"


def sibling_uri(video: S3Uri, ending: str) -> S3Uri:
    """Return the URI of a video's poster (`.jpg`) or manifest (`.json`)."""
    return S3Uri(video.bucket, _VIDEO_ENDING.sub("", video.key) + ending)


def video_ending(video: S3Uri) -> str:
    """Return the ending of a video, such as `.mp4` or `.unverified.webm`; empty if it is not one."""
    found = _VIDEO_ENDING.search(video.key)
    return found[0] if found else ""


def parse_video_uri(address: str | None, settings: Settings) -> S3Uri | None:
    """Parse the URI of a video; `None` if it is not one under the videos prefix."""
    try:
        uri = S3Uri.parse(address or "")
    except ValueError:
        return None
    return uri if settings.videos.holds(uri) and video_ending(uri) else None


def job_uri(settings: Settings, key: str) -> S3Uri:
    """Return the URI of a job record."""
    return settings.jobs / f"{key}.json"


def open_marker_uri(settings: Settings, image: JobImage, key: str, number: int, *, reopened: bool = False) -> S3Uri:
    """Return the URI of the marker that an attempt may be open. It is an index only; the record decides.

    A reopened attempt has a marker of its own, since a late delete may still take its first one.
    """
    attempt = f"{number}r" if reopened else str(number)
    return settings.jobs / f"open/{version_of(image.name, image.etag)}-{key}-{attempt}"


class OpenMarker(NamedTuple):
    """What the name of an open marker says; format 1 named no attempt."""

    version: str
    key: str
    number: int | None

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Parse a key without the prefix `jobs/open/`; `None` if it is not a marker."""
        match = _MARKER.fullmatch(name)
        return cls(match[1], match[2], int(match[3]) if match[3] else None) if match else None


def run_uri(settings: Settings, run_id: str) -> S3Uri:
    """Return the URI of a run's record: its heartbeat, and its report once finished."""
    return settings.jobs / f"runs/{run_id}.json"


def descending_timestamp(moment: datetime) -> str:
    """Return 13 digits that sort newest first; the name of a page under `recent/` starts with its run's."""
    return f"{MAX_UNIX_MILLISECONDS - int(moment.timestamp() * 1000):013d}"


def recent_page_uri(settings: Settings, started_at: datetime, run_id: str) -> S3Uri:
    """Return the URI of the page with a run's recent results."""
    return settings.jobs / f"{RECENT_PREFIX}{descending_timestamp(started_at)}-{run_id}.json"


def run_items_uri(settings: Settings, run_id: str) -> S3Uri:
    """Return the URI of a run's results as JSON Lines, one row per image."""
    return settings.jobs / f"runs/{run_id}.jsonl"


def daily_spend_uri(settings: Settings, day: str) -> S3Uri:
    """Return the URI of the reservations of a UTC day (`2026-11-22`)."""
    return settings.jobs / f"days/{day}.json"


def month_uri(settings: Settings, month: str) -> S3Uri:
    """Return the URI of the sums of a month's finished days (`2026-11`)."""
    return settings.jobs / f"months/{month}.json"


def input_uri(settings: Settings, sha256: str) -> S3Uri:
    """Return the URI of our copy of an image given by URL."""
    return settings.jobs / f"inputs/{sha256}"


def batch_uri(settings: Settings, batch: str, name: str) -> S3Uri:
    """Return the URI of a batch's object: `batch.json`, `spend.json`, `report.json`, or a file with a shard's rows."""
    return settings.jobs / f"batches/{batch}/{name}"


def ledger_uri(settings: Settings) -> S3Uri:
    """Return the URI of the ledger's settings: its provider, its account and the pause flag."""
    return settings.jobs / "ledger.json"


def spend_uri(settings: Settings) -> S3Uri:
    """Return the URI of the balance at the last spend report."""
    return settings.jobs / "spend.json"


def tables_uri(settings: Settings) -> S3Uri:
    """Return the prefix of the tables that `i2v export` writes by default."""
    return settings.jobs / "tables/"


def spend_chart_uri(settings: Settings, day: str) -> S3Uri:
    """Return the URI of the chart in the spend report of a UTC day."""
    return settings.jobs / f"reports/spend-{day}.png"


def task_uri(settings: Settings, task_id: str) -> S3Uri:
    """Return the URI of the object that names the job a task was adopted for, so that no other job adopts it."""
    return settings.jobs / f"tasks/{hashlib.sha256(task_id.encode()).hexdigest()}"
