"""Parsing bucket notifications. The payloads in `fixtures/notifications` follow the vendors; see its SOURCES.md."""

import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doors.s3_notifications import (
    MAX_NOTIFICATION_BYTES,
    DropReason,
    InvalidNotification,
    NewImage,
    idempotency_key,
    parse_notification,
)
from i2v.inputs.sources import IMAGE_SUFFIXES
from tests.support.paths import FIXTURES
from tests.support.settings import SealedSettings

FIXTURES = FIXTURES / "notifications"
BUCKET = "amzn-s3-demo-bucket"
SETTINGS = SealedSettings(I2V_BUCKET=BUCKET)
CREATED = ["s3", "sns", "eventbridge", "minio", "ceph"]
SERVERS = json.loads((FIXTURES / "servers.json").read_bytes())


def _payload(name: str) -> bytes:
    return (FIXTURES / f"{name}.json").read_bytes()


def _notification(key: str, **record: Any) -> bytes:
    """Return S3's notification for one key, encoded as given."""
    data = json.loads(_payload("s3"))
    data["Records"][0]["s3"]["object"]["key"] = key
    data["Records"][0].update(record)
    return json.dumps(data).encode()


def _read(payload: bytes) -> tuple[list[str], dict[DropReason, int]]:
    found = parse_notification(payload, SETTINGS)
    return [image.key for image in found.images], dict(found.dropped)


@pytest.mark.parametrize("name", CREATED)
def test_every_vendors_upload_becomes_one_image(name: str) -> None:
    """The notifications of all vendors, in any envelope, yield the same image with its decoded key."""
    (image,) = parse_notification(_payload(name), SETTINGS).images

    assert str(image.uri) == f"s3://{BUCKET}/images/red flower.jpg"
    assert image.etag
    assert image.sequencer
    assert image.event_time is not None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("s3_test_event", "test_event"),
        ("sns_test_event", "test_event"),
        ("s3_deletion", "deletion"),
        ("eventbridge_deletion", "deletion"),
    ],
)
def test_events_that_are_not_uploads_are_dropped(name: str, why: str) -> None:
    """Test events and deletions are counted and yield no image."""
    assert _read(_payload(name)) == ([], {why: 1})


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("images/cats/", "folder"),
        ("videos/cats/tom.jpg/0-1.jpg", "own_object"),
        ("jobs/inputs/x.png", "own_object"),
        ("thumbs/tom.jpg", "other_prefix"),
        ("images/tom.jpg.txt", "other_suffix"),
        ("images/_s3/b/tom.jpg", "reserved_name"),
        ("images/_long/tom.jpg", "reserved_name"),
    ],
)
def test_objects_that_are_not_images_are_dropped_with_a_reason(key: str, why: str) -> None:
    """Objects that are not images never reach a run, because a single one would make the run reject its input."""
    assert _read(_notification(key)) == ([], {why: 1})


@pytest.mark.parametrize("name", SERVERS)
def test_every_servers_payload_becomes_what_a_user_wants(name: str) -> None:
    """Uploads become images, other events are counted, and formats that need a bridge are rejected."""
    case = SERVERS[name]
    payload = json.dumps(case["payload"]).encode()
    if case.get("invalid"):
        with pytest.raises(InvalidNotification) as caught:
            parse_notification(payload, SETTINGS)
        assert caught.value.hint
        return
    found = parse_notification(payload, SETTINGS)
    keys = [each if isinstance(each, list) else [each, None] for each in case["images"]]
    assert [[image.key, image.raw_key] for image in found.images] == keys
    assert found.dropped == case["dropped"]
    assert (found.error is None) == ("unreadable" not in case["dropped"])


def test_a_byte_order_mark_is_skipped() -> None:
    """A payload may begin with a UTF-8 byte order mark."""
    assert _read(b"\xef\xbb\xbf" + _notification("images/a.jpg")) == (["images/a.jpg"], {})


def test_other_events_are_dropped() -> None:
    """A new tag on an object is not a new image."""
    assert _read(_notification("images/a.jpg", eventName="ObjectTagging:Put")) == ([], {"other_event": 1})


def test_drop_reasons_keep_their_names() -> None:
    """The drop reasons are the metric's labels, which dashboards use."""
    names = "test_event deletion other_event folder own_object other_prefix other_suffix reserved_name"
    names += " multipart_start empty_key unreadable"
    assert {why.value for why in DropReason} == set(names.split())


def test_each_record_of_a_message_is_parsed() -> None:
    """Each record of a message is kept or dropped by itself."""
    records = [json.loads(_notification(key))["Records"][0] for key in ("images/a.jpg", "x.jpg", "images/b.PNG")]
    assert _read(json.dumps({"Records": records}).encode()) == (["images/a.jpg", "images/b.PNG"], {"other_prefix": 1})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"hello",
        b"[1]",
        b"{}",
        b'{"Records": []}',
        b'{"Records": [{"Sns": {}}]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": 3}}}]}',
        b'{"source": "aws.s3", "detail-type": "Object Created", "detail": {}}',
        b'{"Type": "SubscriptionConfirmation", "Message": "confirm"}',
        b'{"action": "opened", "repository": {}}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 500_000,
        b"1" * 5000,
        b" " * (MAX_NOTIFICATION_BYTES + 1),
        _notification("images/" + "a" * 1024 + ".jpg"),
        _notification("images/\0.jpg"),
        _notification("images/\ud800.jpg"),
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": [1]}}}]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": null}]}',
        _payload("eventbridge").replace(b"red flower", rb"\ud800"),
    ],
    ids=range(21),
)
def test_an_invalid_payload_is_rejected(payload: bytes) -> None:
    """A payload that is not JSON, of unknown format, with an impossible key, too large or too deep raises one error."""
    with pytest.raises(InvalidNotification) as caught:
        parse_notification(payload, SETTINGS)
    assert caught.value.hint


def test_nested_envelopes_are_limited() -> None:
    """Two nested envelopes are opened, and more are rejected."""
    text = _payload("eventbridge").decode()
    for _ in range(2):
        text = json.dumps({"Type": "Notification", "Message": text})
    assert _read(text.encode()) == (["images/red flower.jpg"], {})
    with pytest.raises(InvalidNotification):
        parse_notification(json.dumps({"Type": "Notification", "Message": text}).encode(), SETTINGS)


NAMES = st.builds(
    lambda stem, suffix: f"images/{stem}{suffix}",
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1).filter(
        lambda stem: not stem.startswith("_") and len(stem.encode()) <= 1024 - 12
    ),
    st.sampled_from([*IMAGE_SUFFIXES, ".JPG"]),
)


@given(NAMES)
@example("images/a b+c%20d%2Fe.jpg")
@example("images/ \n\t猫 🐈 é.jpg")
@example("images/" + "猫" * 337 + "ab.jpg")
def test_every_key_is_decoded_exactly(key: str) -> None:
    """Spaces, plus and percent signs, Unicode and keys of 1,024 bytes are decoded exactly, whatever the encoder."""
    assert len(key.encode()) <= 1024
    bridge = json.loads(_payload("eventbridge"))
    bridge["detail"]["object"]["key"] = key
    ceph = json.loads(_notification(key, eventSource="ceph:s3"))

    for payload in (
        _notification(quote_plus(key, safe="/")),
        _notification(quote_plus(key)),
        _notification(quote(key)),
        json.dumps(bridge).encode(),
        json.dumps(ceph, ensure_ascii=False).encode(),
    ):
        assert _read(payload) == ([key], {})


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_arbitrary_payloads_raise_only_invalid_notification(payload: bytes | str) -> None:
    """An arbitrary payload raises `InvalidNotification` and nothing else."""
    with pytest.raises(InvalidNotification):
        parse_notification(payload.encode() if isinstance(payload, str) else payload, SETTINGS)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(["eventSource", "eventTime", "awsRegion", "eTag", "sequencer", "size", "versionId"]),
)
def test_a_field_that_is_not_needed_may_hold_anything(value: Any, field: str) -> None:
    """Any value in a field that does not name the upload is accepted."""
    data = json.loads(_notification("images/a.jpg"))
    record = data["Records"][0]
    (record if field in {"eventSource", "eventTime", "awsRegion"} else record["s3"]["object"])[field] = value
    found = parse_notification(json.dumps(data).encode(), SETTINGS)
    assert [image.key for image in found.images] == ["images/a.jpg"]


def test_bare_events_never_share_a_run() -> None:
    """Uploads with identical events get different idempotency keys, even if the sequencer never changes."""
    bare = json.dumps(SERVERS["nothing but names"]["payload"]).encode()
    first, second = (parse_notification(bare, SETTINGS).images for _ in range(2))
    assert idempotency_key(first) != idempotency_key(second)

    early, late = (
        parse_notification(_notification("images/a.jpg", eventTime=f"2026-01-01T00:00:0{second}Z"), SETTINGS).images
        for second in range(2)
    )
    assert early[0].etag == late[0].etag
    assert idempotency_key(early) != idempotency_key(late)


def test_identity_is_per_upload() -> None:
    """A repeated notification has the same identity; another upload to the same key has another."""
    first, again = (parse_notification(_notification("images/a.jpg"), SETTINGS).images[0] for _ in range(2))
    assert first.identity == again.identity
    assert first.identity != first._replace(sequencer="0").identity
    assert first.identity != first._replace(etag="0").identity

    data = json.loads(_notification("images/a.jpg", eventTime="2026-01-01T00:00:00Z"))
    del data["Records"][0]["s3"]["object"]["sequencer"]
    (bare,) = parse_notification(json.dumps(data).encode(), SETTINGS).images
    assert bare.sequencer == "2026-01-01T00:00:00Z"


def test_the_idempotency_key_ignores_the_order() -> None:
    """The same uploads in another order have the same idempotency key; other uploads have another."""
    one, two = (NewImage("b", f"images/{name}.jpg", "e", "s") for name in "ab")
    assert idempotency_key([one, two]) == idempotency_key([two, one])
    assert idempotency_key([one, two]) != idempotency_key([one])
