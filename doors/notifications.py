"""Parse bucket notifications: payload bytes become `NewImage`s, and counts of dropped events by reason. Pure.

Four formats are known: S3's `Records` (also MinIO's and Ceph's), the same in an SNS envelope, EventBridge's "Object
Created", and `s3:TestEvent`. Anything else raises `InvalidNotification`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote_plus

from pydantic import AliasChoices, AliasPath, BaseModel, Field, TypeAdapter, ValidationError

from i2v.errors import I2vError
from i2v.inputs.sources import IMAGE_SUFFIXES, why_no_image
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

MAX_NOTIFICATION_BYTES = 1 << 20
"""SQS's limit for a message. S3's own notifications have a few hundred bytes."""
MAX_KEY_BYTES = 1024
MAX_ENVELOPES = 3
"""EventBridge through SNS has two."""
CREATIONS = ("ObjectCreated", "Object Created")
DELETIONS = ("ObjectRemoved", "Object Deleted", "LifecycleExpiration", "ObjectLifecycle:Expiration")
EVENTBRIDGE = "aws.s3"
SOURCES_WITH_PLAIN_KEYS = (EVENTBRIDGE, "ceph:s3")
"""All others URL-encode the keys."""


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


def _s3_or_detail(*path: str) -> AliasChoices:
    return AliasChoices(AliasPath("s3", *path), AliasPath("detail", *path))


class _Event(BaseModel):
    """A record of S3, MinIO or Ceph, whose object is in `s3`; or an EventBridge event, whose object is in `detail`."""

    name: str = Field(validation_alias=AliasChoices("eventName", "detail-type"))
    source: Any = Field("", validation_alias=AliasChoices("eventSource", "source"))  # MinIO's `source` is an object
    time: str = Field("", validation_alias=AliasChoices("eventTime", "time"))
    bucket: str = Field(validation_alias=_s3_or_detail("bucket", "name"))
    key: str = Field(validation_alias=_s3_or_detail("object", "key"))
    etag: str = Field(
        "", validation_alias=AliasChoices(AliasPath("s3", "object", "eTag"), AliasPath("detail", "object", "etag"))
    )
    sequencer: str = Field("", validation_alias=_s3_or_detail("object", "sequencer"))


_EVENTS: TypeAdapter[list[_Event]] = TypeAdapter(Annotated[list[_Event], Field(min_length=1)])


def parse_notification(payload: bytes, settings: Settings) -> Notification:
    """Return the new images in a payload. Raise `InvalidNotification` if any part of it is invalid."""
    if len(payload) > MAX_NOTIFICATION_BYTES:
        size = f"{MAX_NOTIFICATION_BYTES:,} bytes"
        raise InvalidNotification(f"The notification exceeds {size}", "S3's own notifications have a few hundred")
    notification = Notification()
    data = _open_envelopes(payload)
    if data.get("Event") == "s3:TestEvent":
        notification.dropped[DropReason.TEST_EVENT] += 1
        return notification
    for event in _events(data):
        image = _image(event)
        if reason := _drop_reason(event.name, image.uri, settings):
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


def _events(data: dict[str, Any]) -> list[_Event]:
    try:
        return _EVENTS.validate_python([data] if data.get("source") == EVENTBRIDGE else data.get("Records"))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "Records"
        raise InvalidNotification(
            f"The notification has an unknown format: {where}: {first['msg']}",
            "Send records of S3, MinIO or Ceph, raw or in an SNS envelope, or EventBridge events",
        ) from None


def _image(event: _Event) -> NewImage:
    key = event.key if event.source in SOURCES_WITH_PLAIN_KEYS else unquote_plus(event.key, errors="surrogateescape")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_KEY_BYTES or "\0" in key:
        raise InvalidNotification(
            "The notification has an invalid key", f"Keys have 1 to {MAX_KEY_BYTES} bytes of UTF-8 without NUL"
        )
    sequencer = event.sequencer or event.time  # some servers send no sequencer
    return NewImage(event.bucket, key, event.etag.strip('"'), sequencer, _unix_time(event.time))


def _drop_reason(event: str, uri: S3Uri, settings: Settings) -> DropReason | None:
    event = event.removeprefix("s3:")
    checks = {
        DropReason.DELETION: event.startswith(DELETIONS),
        DropReason.OTHER_EVENT: not event.startswith(CREATIONS),
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
