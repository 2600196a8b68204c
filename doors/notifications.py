"""What a bucket notification says: payload bytes become `NewImage`s, and counts of what was dropped and why. Pure.

Four shapes are known: S3's own `Records` (also MinIO's and Ceph's), the same in SNS's envelope, EventBridge's
"Object Created", and `s3:TestEvent`. Anything else is `InvalidNotification`, and will never be anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from i2v.errors import I2vError
from i2v.inputs.sources import IMAGE_SUFFIXES, why_no_image
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

MAX_NOTIFICATION_BYTES = 1 << 20
"""The most that SQS carries; S3's own notifications have a few hundred."""
KEY_MAX_BYTES = 1024
ENVELOPES = 3
"""EventBridge through SNS has two."""


class InvalidNotification(I2vError):
    """A payload that can never work, however often it is tried."""


class DropReason(StrEnum):
    """Why a well-formed event makes no video; the metric's label."""

    TEST_EVENT = "test_event"
    DELETION = "deletion"
    OTHER_EVENT = "other_event"
    FOLDER = "folder"
    OWN_OBJECT = "own_object"
    OTHER_PREFIX = "other_prefix"
    OTHER_SUFFIX = "other_suffix"
    RESERVED_NAME = "reserved_name"


class NewImage(NamedTuple):
    """One upload. Its time is seconds since 1970, for the metric alone."""

    bucket: str
    key: str
    etag: str
    sequencer: str
    event_time: float | None = None

    @property
    def uri(self) -> S3Uri:
        """Where it lies."""
        return S3Uri(self.bucket, self.key)

    @property
    def identity(self) -> str:
        """The same for the same upload, however often it is told."""
        return json.dumps([self.bucket, self.key, self.etag, self.sequencer])


def idempotency_key(images: Iterable[NewImage]) -> str:
    """The idempotency key of a batch's run: the same for the same uploads in any order."""
    return hashlib.sha256("\n".join(sorted(image.identity for image in images)).encode()).hexdigest()


@dataclass(slots=True)
class Notification:
    """What one payload told."""

    images: list[NewImage] = field(default_factory=list)
    dropped: Counter[DropReason] = field(default_factory=Counter)


class _Lenient(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class _Object(_Lenient):
    key: str
    etag: str = Field(default="", validation_alias=AliasChoices("eTag", "etag"))
    sequencer: str = ""


class _Bucket(_Lenient):
    name: str


class _Place(_Lenient):
    bucket: _Bucket
    object: _Object


class _Record(_Lenient):
    source: str = Field(default="", validation_alias="eventSource")
    event: str = Field(validation_alias="eventName")
    time: str = Field(default="", validation_alias="eventTime")
    s3: _Place


class _Records(_Lenient):
    records: list[_Record] = Field(min_length=1, validation_alias="Records")


class _BridgeEvent(_Lenient):
    kind: str = Field(validation_alias="detail-type")
    time: str = ""
    detail: _Place


class _Event(NamedTuple):
    created: bool
    deleted: bool
    place: S3Uri
    etag: str
    sequencer: str
    time: str


def parse_notification(payload: bytes, settings: Settings) -> Notification:
    """Say which new images a payload tells of.

    Raises:
        Unreadable: it is too large, no JSON, of no known shape, or names a key that no object can have. A payload is
            taken whole or not at all.
    """
    if len(payload) > MAX_NOTIFICATION_BYTES:
        raise InvalidNotification(
            f"The notification has over {MAX_NOTIFICATION_BYTES:,} bytes", "S3's own have a few hundred"
        )
    found = Notification()
    data = _unwrapped(payload)
    if data.get("Event") == "s3:TestEvent":
        found.dropped[DropReason.TEST_EVENT] += 1
        return found
    for event in _events(data):
        if why := _why_dropped(event, settings):
            found.dropped[why] += 1
        else:
            told = event.sequencer or event.time  # some servers give no sequencer
            found.images.append(NewImage(*event.place, event.etag, told, _seconds(event.time)))
    return found


def _unwrapped(payload: bytes) -> dict[str, Any]:
    """The event without SNS's envelopes."""
    text: bytes | str = payload
    for _ in range(ENVELOPES):
        data = _json(text)
        if data.get("Type") != "Notification" or not isinstance(data.get("Message"), str):
            return data
        text = data["Message"]
    raise InvalidNotification(
        "The notification has too many envelopes", "Send S3's events to the queue, or through one topic"
    )


def _json(text: bytes | str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidNotification("The notification is no JSON", "Only S3's notifications belong here") from None
    if not isinstance(data, dict):
        raise InvalidNotification("The notification is JSON, but no object", "Only S3's notifications belong here")
    return data


def _events(data: dict[str, Any]) -> Iterator[_Event]:
    try:
        if data.get("source") == "aws.s3":
            yield _of_bridge(_BridgeEvent.model_validate(data))
            return
        for record in _Records.model_validate(data).records:
            yield _of_record(record)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidNotification(
            f"The notification has no known shape: {where}: {first['msg']}",
            "Known are S3's, MinIO's and Ceph's records, raw or in SNS's envelope, and EventBridge's events",
        ) from None


def _of_record(record: _Record) -> _Event:
    name = record.event.removeprefix("s3:")
    key = record.s3.object.key
    if record.source != "ceph:s3":  # it alone gives keys as they are
        key = _decoded(key)
    return _event(record.s3, key, record.time, name.startswith("ObjectCreated"), _is_deletion(name))


def _of_bridge(event: _BridgeEvent) -> _Event:
    created, deleted = event.kind == "Object Created", event.kind == "Object Deleted"
    return _event(event.detail, event.detail.object.key, event.time, created, deleted)


def _is_deletion(name: str) -> bool:
    return name.startswith(("ObjectRemoved", "LifecycleExpiration", "ObjectLifecycle:Expiration"))


def _event(place: _Place, key: str, time: str, created: bool, deleted: bool) -> _Event:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= KEY_MAX_BYTES or "\0" in key:
        raise InvalidNotification(
            "The notification names a key that no object can have", f"Keys have 1 to {KEY_MAX_BYTES} bytes"
        )
    found = place.object
    return _Event(created, deleted, S3Uri(place.bucket.name, key), found.etag.strip('"'), found.sequencer, time)


def _decoded(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise InvalidNotification(
            "The notification names a key that is no UTF-8", "S3's keys are UTF-8, URL-encoded"
        ) from None


def _why_dropped(event: _Event, settings: Settings) -> DropReason | None:
    place = event.place
    own = settings.videos.holds(place) or settings.jobs.holds(place)
    checks = {
        DropReason.DELETION: event.deleted,
        DropReason.OTHER_EVENT: not event.created,
        DropReason.FOLDER: place.is_prefix,
        DropReason.OWN_OBJECT: own,
        DropReason.OTHER_PREFIX: not settings.images.holds(place),
        DropReason.OTHER_SUFFIX: not place.key.lower().endswith(IMAGE_SUFFIXES),
        DropReason.RESERVED_NAME: why_no_image(place, settings) is not None,
    }
    return next((why for why, holds in checks.items() if holds), None)


def _seconds(time: str) -> float | None:
    try:
        when = datetime.fromisoformat(time)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
