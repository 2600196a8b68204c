"""Parse bucket notifications: payload bytes become `NewImage`s, and counts of dropped events by reason. Pure.

Four formats are known: S3's `Records` (also MinIO's and Ceph's), the same in an SNS envelope, EventBridge's "Object
Created", and `s3:TestEvent`. Anything else raises `InvalidNotification`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote_plus

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from i2v.errors import I2vError
from i2v.inputs.sources import IMAGE_SUFFIXES, why_no_image
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

MAX_NOTIFICATION_BYTES = 1 << 20
"""SQS's limit for a message. S3's own notifications have a few hundred bytes."""
MAX_KEY_BYTES = 1024
MAX_ENVELOPES = 3
"""EventBridge through SNS has two."""


class InvalidNotification(I2vError):
    """A payload that no retry can make valid."""


class DropReason(StrEnum):
    """Why a valid event needs no video; the metric's label."""

    TEST_EVENT = "test_event"
    DELETION = "deletion"
    OTHER_EVENT = "other_event"
    FOLDER = "folder"
    OWN_OBJECT = "own_object"
    OTHER_PREFIX = "other_prefix"
    OTHER_SUFFIX = "other_suffix"
    RESERVED_NAME = "reserved_name"


class NewImage(NamedTuple):
    """One upload. `event_time` is Unix time, used only for the metric."""

    bucket: str
    key: str
    etag: str
    sequencer: str
    event_time: float | None = None

    @property
    def uri(self) -> S3Uri:
        """The object's address."""
        return S3Uri(self.bucket, self.key)

    @property
    def identity(self) -> str:
        """A text that is the same for every notification of the same upload."""
        return json.dumps([self.bucket, self.key, self.etag, self.sequencer])


def idempotency_key(images: Iterable[NewImage]) -> str:
    """Return the idempotency key of a batch's flow run: the same for the same uploads in any order."""
    return hashlib.sha256("\n".join(sorted(image.identity for image in images)).encode()).hexdigest()


@dataclass(slots=True)
class Notification:
    """The new images in one payload, and the counts of its dropped events."""

    images: list[NewImage] = field(default_factory=list)
    dropped: Counter[DropReason] = field(default_factory=Counter)


class _Object(BaseModel):
    key: str
    etag: str = Field(default="", validation_alias=AliasChoices("eTag", "etag"))
    sequencer: str = ""


class _Bucket(BaseModel):
    name: str


class _Entity(BaseModel):
    bucket: _Bucket
    object: _Object


class _Record(BaseModel):
    source: str = Field(default="", validation_alias="eventSource")
    event: str = Field(validation_alias="eventName")
    time: str = Field(default="", validation_alias="eventTime")
    s3: _Entity


class _Records(BaseModel):
    records: list[_Record] = Field(min_length=1, validation_alias="Records")


class _EventBridgeEvent(BaseModel):
    kind: str = Field(validation_alias="detail-type")
    time: str = ""
    detail: _Entity


_Kind = Literal["created", "deleted", "other"]
EVENTBRIDGE_KINDS: dict[str, _Kind] = {"Object Created": "created", "Object Deleted": "deleted"}


def parse_notification(payload: bytes, settings: Settings) -> Notification:
    """Return the new images in a payload.

    Raises:
        InvalidNotification: the payload is too large, not JSON, of no known format, or names an impossible key. A
            payload is accepted whole or not at all.
    """
    if len(payload) > MAX_NOTIFICATION_BYTES:
        raise InvalidNotification(
            f"The notification exceeds {MAX_NOTIFICATION_BYTES:,} bytes", "S3's own notifications have a few hundred"
        )
    notification = Notification()
    data = _open_envelopes(payload)
    if data.get("Event") == "s3:TestEvent":
        notification.dropped[DropReason.TEST_EVENT] += 1
        return notification
    for kind, image in _events(data):
        if reason := _drop_reason(kind, image.uri, settings):
            notification.dropped[reason] += 1
        else:
            notification.images.append(image)
    return notification


def _open_envelopes(payload: bytes) -> dict[str, Any]:
    text: bytes | str = payload
    for _ in range(MAX_ENVELOPES):
        data = _load_json(text)
        if data.get("Type") != "Notification" or not isinstance(data.get("Message"), str):
            return data
        text = data["Message"]
    raise InvalidNotification(
        "The notification has too many envelopes", "Send S3's events to the queue directly, or through one topic"
    )


def _load_json(text: bytes | str) -> dict[str, Any]:
    hint = "Send only S3 notifications here"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidNotification("The notification is not JSON", hint) from None
    if not isinstance(data, dict):
        raise InvalidNotification("The notification is not a JSON object", hint)
    return data


def _events(data: dict[str, Any]) -> Iterator[tuple[_Kind, NewImage]]:
    try:
        if data.get("source") == "aws.s3":
            event = _EventBridgeEvent.model_validate(data)
            yield EVENTBRIDGE_KINDS.get(event.kind, "other"), _image(event.detail, event.detail.object.key, event.time)
            return
        for record in _Records.model_validate(data).records:
            key = record.s3.object.key
            # Ceph does not URL-encode keys
            image = _image(record.s3, key if record.source == "ceph:s3" else _decode(key), record.time)
            yield _record_kind(record.event.removeprefix("s3:")), image
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidNotification(
            f"The notification has an unknown format: {where}: {first['msg']}",
            "Send records of S3, MinIO or Ceph, raw or in an SNS envelope, or EventBridge events",
        ) from None


def _record_kind(event: str) -> _Kind:
    if event.startswith(("ObjectRemoved", "LifecycleExpiration", "ObjectLifecycle:Expiration")):
        return "deleted"
    return "created" if event.startswith("ObjectCreated") else "other"


def _image(entity: _Entity, key: str, time: str) -> NewImage:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_KEY_BYTES or "\0" in key:
        raise InvalidNotification(
            "The notification names an impossible key", f"Keys have 1 to {MAX_KEY_BYTES} bytes of UTF-8 without NUL"
        )
    sequencer = entity.object.sequencer or time  # some servers send no sequencer
    return NewImage(entity.bucket.name, key, entity.object.etag.strip('"'), sequencer, _unix_time(time))


def _decode(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise InvalidNotification(
            "The notification names a key that is not UTF-8", "S3's keys are UTF-8, URL-encoded"
        ) from None


def _drop_reason(kind: _Kind, uri: S3Uri, settings: Settings) -> DropReason | None:
    checks = {
        DropReason.DELETION: kind == "deleted",
        DropReason.OTHER_EVENT: kind == "other",
        DropReason.FOLDER: uri.is_prefix,
        DropReason.OWN_OBJECT: settings.videos.holds(uri) or settings.jobs.holds(uri),
        DropReason.OTHER_PREFIX: not settings.images.holds(uri),
        DropReason.OTHER_SUFFIX: not uri.key.lower().endswith(IMAGE_SUFFIXES),
        DropReason.RESERVED_NAME: why_no_image(uri, settings) is not None,
    }
    return next((reason for reason, applies in checks.items() if applies), None)


def _unix_time(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
