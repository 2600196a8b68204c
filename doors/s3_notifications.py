"""Parse bucket notifications: payload bytes become `NewImage`s, and counts of dropped events by reason. Pure.

Events are S3's records (also those of MinIO, Ceph and others), EventBridge's and R2's: alone, in arrays, or in the
envelopes of `_inner`. A payload without any event that can be read raises `InvalidNotification`.
"""

import hashlib
import json
import re
import uuid
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote_plus

from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, Field, ValidationError

from i2v.errors import I2vError
from i2v.inputs.image_keys import why_no_image
from i2v.inputs.sources import IMAGE_SUFFIXES
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

MAX_NOTIFICATION_BYTES = 1 << 20
"""SQS's limit for a message. S3's own notifications have a few hundred bytes."""
MAX_KEY_BYTES = 1024
MAX_TEXTS = 3
"""JSON texts inside each other: EventBridge through two topics."""
CREATIONS = ("ObjectCreated", "Object Created", "PutObject", "POST Object", "CopyObject", "CompleteMultipartUpload")
DELETIONS = (
    *("ObjectRemoved", "Object Deleted", "LifecycleExpiration", "ObjectLifecycle:Expiration"),
    *("DeleteObject", "LifecycleDeletion"),
)
KEEPS_CONTENT = re.compile("Tagging|Retention|LegalHold|Acl")
"""MinIO and RustFS report these as ObjectCreated."""
PLAIN_KEYS = "ceph:s3"
"""The keys in this sender's S3 records are not URL-encoded; all others' should be."""
TEST_EVENT = "s3:TestEvent"
TEST_TEXT = re.compile(r'\s*"?(s3:)?test[ _-]?(event|message|notification)"?\s*', re.IGNORECASE)
HINT = "Send S3 notifications as docs/doors.md shows"


class InvalidNotification(I2vError):
    """A payload or an event that no retry can make valid."""


class DropReason(StrEnum):
    """Why an event starts no run; the metric's label."""

    TEST_EVENT = "test_event"
    DELETION = "deletion"
    OTHER_EVENT = "other_event"
    MULTIPART_START = "multipart_start"
    EMPTY_KEY = "empty_key"
    FOLDER = "folder"
    OWN_OBJECT = "own_object"
    OTHER_PREFIX = "other_prefix"
    OTHER_SUFFIX = "other_suffix"
    RESERVED_NAME = "reserved_name"
    UNREADABLE = "unreadable"


class NewImage(NamedTuple):
    """One upload. `event_time` is Unix time, used only for the metric."""

    bucket: str
    key: str
    etag: str
    sequencer: str
    event_time: float | None = None
    raw_key: str | None = None
    """The key as sent, which is meant if the bucket has no `key`: some servers do not URL-encode keys."""

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
    """The new images in one payload, the counts of its dropped events, and the error of the last unreadable one."""

    images: list[NewImage] = field(default_factory=list)
    dropped: Counter[DropReason] = field(default_factory=Counter)
    error: InvalidNotification | None = None


def _in(part: str, *names: str) -> AliasChoices:
    """Return where S3, EventBridge, R2 and a bare `detail` keep a field of the bucket or object."""
    places = (("s3", part), ("detail", part), (part,))
    return AliasChoices(*(AliasPath(*place, name) for name in names for place in places))


def _as_text(value: object) -> str:
    return "" if value is None or isinstance(value, list | dict) else str(value)


_Text = Annotated[str, BeforeValidator(_as_text)]
"""A field that no decision about the upload needs: any type is accepted."""


class _Event(BaseModel):
    name: str = Field(validation_alias=AliasChoices("eventName", "detail-type", "action", "reason"))
    source: _Text = Field("", validation_alias="eventSource")
    time: _Text = Field("", validation_alias=AliasChoices("eventTime", "time"))
    bucket: Any = Field(None, validation_alias=AliasChoices(*_in("bucket", "name").choices, "bucket"))
    key: Any = Field(None, validation_alias=_in("object", "key"))
    size: _Text = Field("", validation_alias=_in("object", "size"))
    etag: _Text = Field("", validation_alias=_in("object", "eTag", "etag"))
    sequencer: _Text = Field("", validation_alias=_in("object", "sequencer"))

    def drop_reason(self) -> DropReason | None:
        """Return why the event is not a complete upload, whatever its key."""
        name = self.name.removeprefix("s3:")
        if name.startswith(DELETIONS):
            return DropReason.DELETION
        if not name.startswith(CREATIONS) or KEEPS_CONTENT.search(name):
            return DropReason.OTHER_EVENT
        if self.size == "0" and not self.etag:
            return DropReason.MULTIPART_START  # old Ceph; an empty object has an ETag
        return DropReason.EMPTY_KEY if self.key in ("", None) and "key" in self.model_fields_set else None

    def upload(self) -> str:
        """Return what distinguishes this upload from others of the same key and ETag.

        Some servers send a constant sequencer or none. A random text means that a repeated notification starts another
        run, which the ledger makes free.
        """
        facts = [self.sequencer, self.time]
        return " ".join(filter(None, facts)) if sum(map(bool, (*facts, self.etag))) > 1 else uuid.uuid4().hex


def parse_notification(payload: bytes, settings: Settings) -> Notification:
    """Return the new images in a payload. Raise `InvalidNotification` if none of its events can be read."""
    if len(payload) > MAX_NOTIFICATION_BYTES:
        size = f"{MAX_NOTIFICATION_BYTES:,} bytes"
        raise InvalidNotification(f"The notification exceeds {size}", "S3's own notifications have a few hundred")
    notification = Notification()
    try:
        records = list(_records(_load(payload)))
    except RecursionError:
        raise InvalidNotification("The notification is nested too deeply", HINT) from None
    for record in records:
        try:
            found = _read_record(record, settings)
        except InvalidNotification as error:
            notification.error, found = error, DropReason.UNREADABLE
        if isinstance(found, DropReason):
            notification.dropped[found] += 1
        else:
            notification.images.append(found)
    if notification.dropped[DropReason.UNREADABLE] == len(records):
        raise notification.error or InvalidNotification("The notification has no events", HINT)
    return notification


def _load(text: bytes | str) -> Any:
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return {"Event": TEST_EVENT} if TEST_TEXT.fullmatch(text) else json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidNotification("The notification is not JSON", HINT) from None


def _records(data: Any, texts: int = 1) -> Iterator[Any]:
    """Yield the events in arrays and envelopes; an envelope that cannot be opened as its error."""
    is_text = isinstance(data, str | bytes)
    try:
        inner = [_load(data)] if is_text else _inner(data)
    except (InvalidNotification, ValueError) as error:
        yield error
        return
    texts += is_text
    if inner is None or texts > MAX_TEXTS:
        yield data
    else:
        for each in inner:
            yield from _records(each, texts)


def _inner(data: Any) -> list[Any] | None:
    """Return what an array or an envelope contains; `None` for an event."""
    match data:
        case list(items) | {"Records": list(items)}:
            return items
        case {"Type": "Notification", "Message": str(text)} | {"Sns": {"Message": str(text)}}:
            return [text]  # SNS, and SNS through Lambda
        case {"eventSource": "aws:sqs", "body": str(text)}:
            return [text]  # SQS through Lambda or Pipes
        case {"specversion": _, "data": dict(event)}:
            return [event]  # CloudEvents
        case {"message": {"data": str(text)}}:
            return [b64decode(text)]  # Pub/Sub push
    return None


def _read_record(record: Any, settings: Settings) -> NewImage | DropReason:
    if isinstance(record, InvalidNotification):
        raise record
    if not isinstance(record, dict):
        raise InvalidNotification("An event of the notification is not a JSON object", HINT)
    if record.get("Event") == TEST_EVENT:
        return DropReason.TEST_EVENT
    if not record.keys() & {"eventName", "detail-type", "object"}:
        raise InvalidNotification("The notification has an unknown format", HINT)
    try:
        event = _Event.model_validate(record)
    except ValidationError:
        raise InvalidNotification("The notification has an event without a name", HINT) from None
    if reason := event.drop_reason():
        return reason
    if not isinstance(event.bucket, str) or not isinstance(event.key, str):
        raise InvalidNotification("The notification names no object", HINT)
    is_encoded = "s3" in record and event.source != PLAIN_KEYS
    key, raw_key = _keys(event.key, is_encoded=is_encoded)
    image = NewImage(event.bucket, key, event.etag.strip('"'), event.upload(), _unix_time(event.time), raw_key)
    if raw_key and _why_no_upload(S3Uri(event.bucket, raw_key), settings):
        image = image._replace(raw_key=None)
    return _why_no_upload(image.uri, settings) or image


def _keys(text: str, *, is_encoded: bool) -> tuple[str, str | None]:
    """Return the key that a text means, and the text itself if it could be the key instead."""
    decoded = unquote_plus(text, errors="surrogateescape") if is_encoded else text
    keys = [key for key in dict.fromkeys((decoded, text)) if len(key.encode(errors="replace")) <= MAX_KEY_BYTES]
    keys = [key for key in keys if key and not re.search("[\0\ud800-\udfff]", key)]
    if not keys:
        raise InvalidNotification(
            "The notification has an invalid key", f"Keys have 1 to {MAX_KEY_BYTES} bytes of UTF-8 without NUL"
        )
    return keys[0], keys[1] if len(keys) > 1 else None


def _why_no_upload(uri: S3Uri, settings: Settings) -> DropReason | None:
    checks = {
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
