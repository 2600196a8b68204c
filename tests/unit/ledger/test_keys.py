"""Names of objects in the bucket, for any image key that people and tools may choose."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from i2v.ledger import keys
from i2v.media.images import ImageRef
from i2v.request import Request
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from tests.support.job_records import IMAGE
from tests.support.settings import SealedSettings

SETTINGS = SealedSettings(I2V_BUCKET="b-1")
ELSEWHERE = SealedSettings(I2V_BUCKET="b-1", I2V_IMAGES_PREFIX="s3://photos/in/", I2V_VIDEOS_PREFIX="s3://films/out/")
KEY = "a" * 64
S3_KEY_MAX_BYTES = 1024
MAX_PREFIX_BYTES = 80
"""What 1,024 bytes leave for the videos prefix, after 900 for the name and 39 for `/<12>-<12>.refused.json`."""
ENDINGS = (".mp4", ".jpg", ".json", ".refused.json", ".failed.json")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
PARTS = st.sampled_from(
    ["a", "b.jpg", "b.jpg.png", ".", "..", "", " ", "_s3", "_url", "_long", "é", "e\u0301", "😀", "%2F"]
)
KEYS = st.lists(PARTS | TEXT, min_size=1, max_size=4).map("/".join).filter(lambda key: 0 < len(key.encode()) <= 1000)
IMAGES = st.builds(
    lambda bucket, prefix, key: ImageRef(uri=S3Uri(bucket, prefix + key)),
    st.sampled_from(["b-1", "b-2", "photos"]),
    st.sampled_from(["images/", "in/", ""]),
    KEYS,
)


def name(ref: str | ImageRef, settings: Settings = SETTINGS) -> str:
    """Return the folder of an image."""
    return keys.image_name(ImageRef.parse(ref) if isinstance(ref, str) else ref, settings)


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        ("s3://b-1/images/tom.jpg", "tom.jpg"),
        ("s3://b-1/images/cats/tom.jpg", "cats/tom.jpg"),
        ("s3://b-1/images/../tom.jpg", "../tom.jpg"),
        ("s3://b-1/images//tom.jpg", "/tom.jpg"),
        ("s3://b-1/images/K\u00e4fer \u2764 50%.jpg", "K\u00e4fer \u2764 50%.jpg"),
        ("s3://b-1/other/tom.jpg", "_s3/b-1/other/tom.jpg"),
        ("s3://b-1/imagestom.jpg", "_s3/b-1/imagestom.jpg"),
        ("s3://b-2/images/tom.jpg", "_s3/b-2/images/tom.jpg"),
    ],
)
def test_a_name_is_the_key_without_the_prefix(image: str, folder: str) -> None:
    """Outside the images prefix the name includes the bucket. Keys are not normalized."""
    assert name(image) == folder


def test_a_url_is_named_by_its_host_and_a_hash() -> None:
    """People see which host it came from."""
    assert re.fullmatch(r"_url/host\.example/[0-9a-f]{16}", name("https://host.example/deep/tom.jpg"))


def test_credentials_and_query_of_a_url_do_not_change_its_name() -> None:
    """A URL that was signed again is the same image, and no secret is in its name."""
    signed = {name(f"https://me:secret{n}@host.example/tom.jpg?X-Amz-Signature={n}") for n in range(3)}
    assert signed == {name("https://host.example/tom.jpg")}


def test_different_urls_have_different_names() -> None:
    """Scheme, host, port and path distinguish images."""
    urls = ["https://h.example/a", "http://h.example/a", "https://h.example:8443/a", "https://i.example/a"]
    urls += ["https://h.example/a/", "https://h.example/b", "https://h.example/A"]
    assert len({name(url) for url in urls}) == len(urls)


def test_a_name_over_900_bytes_is_hashed() -> None:
    """The limit is in bytes, not in characters."""
    assert name("s3://b-1/images/" + "x" * 900) == "x" * 900
    for key in ("x" * 901, "é" * 451, "x" * 1017):
        assert re.fullmatch(r"_long/[0-9a-f]{64}", name("s3://b-1/images/" + key))
    assert re.fullmatch(r"_long/[0-9a-f]{64}", name("s3://b-2/" + "x" * 1024))
    assert re.fullmatch(r"_long/[0-9a-f]{64}", name("https://" + "h" * 900 + ".example/a"))


@example(ImageRef.parse("s3://b-1/images/x.jpg"), ImageRef.parse("s3://b-1/images/x.jpg.png"))
@example(ImageRef.parse("s3://b-1/images/é.jpg"), ImageRef.parse("s3://b-1/images/e\u0301.jpg"))
@example(ImageRef.parse("s3://b-1/images/a/b.jpg"), ImageRef.parse("s3://b-1/images/a//b.jpg"))
@given(IMAGES, IMAGES)
def test_names_of_distinct_images_differ(one: ImageRef, two: ImageRef) -> None:
    """Two objects never share a folder; keys with a reserved prefix are never images."""
    both = {name(ref) for ref in (one, two) if not _is_reserved(ref)}
    assert len(both) == len({ref for ref in (one, two) if not _is_reserved(ref)})


def _is_reserved(ref: ImageRef) -> bool:
    return ref.label.removeprefix("s3://b-1/images/").startswith(keys.RESERVED)


@given(IMAGES, IMAGES, st.sampled_from(ENDINGS), st.sampled_from(ENDINGS))
def test_outputs_of_distinct_images_never_collide(one: ImageRef, two: ImageRef, first: str, second: str) -> None:
    """Folders may be nested, since an image may be named like an output, but their files differ."""
    if one == two or _is_reserved(one) or _is_reserved(two):
        return
    assert keys.output_uri(SETTINGS, name(one), "e", "0" * 12, first) != keys.output_uri(
        SETTINGS, name(two), "e", "0" * 12, second
    )


@given(IMAGES, st.sampled_from(ENDINGS))
def test_the_folder_is_the_part_of_an_output_key_before_the_last_slash(image: ImageRef, ending: str) -> None:
    """Reconcile parses listings this way, whatever the name contains."""
    key = keys.output_uri(SETTINGS, name(image), "etag", "0" * 12, ending).key
    assert key.removeprefix("videos/").rpartition("/")[0] == name(image)


@given(
    st.builds(
        lambda bucket, key: ImageRef(uri=S3Uri(bucket, key)),
        st.sampled_from(["b-1", "b" * 63]),
        st.integers(1, S3_KEY_MAX_BYTES).map(
            lambda size: ("images/" + "é" * 512 + "x" * 512)[:size].encode()[:1024].decode(errors="ignore")
        ),
    ),
    st.sampled_from(ENDINGS),
)
def test_no_key_exceeds_the_s3_limit(image: ImageRef, ending: str) -> None:
    """With an image key of up to 1,024 bytes and a prefix of up to 80, outputs and markers fit in 1,024."""
    settings = SealedSettings(I2V_BUCKET="b-1", I2V_VIDEOS_PREFIX="v" * (MAX_PREFIX_BYTES - 1) + "/")
    folder = name(image, settings)
    assert len(keys.output_uri(settings, folder, "e", "0" * 12, ending).key.encode()) <= S3_KEY_MAX_BYTES
    marker = keys.open_marker_uri(
        settings, IMAGE.model_copy(update={"name": folder}), "k" * 64, 999_999_999, reopened=True
    )
    assert len(marker.key.encode()) <= S3_KEY_MAX_BYTES


def test_an_output_is_named_by_image_version_and_request() -> None:
    """Another content or request has other outputs; the etag is hashed, so it cannot break a key."""
    request = Request(prompt="zoom")
    output = keys.output_uri(SETTINGS, "cats/tom.jpg", "a/b", request.digest12, ".mp4")
    assert re.fullmatch(r"s3://b-1/videos/cats/tom\.jpg/[0-9a-f]{12}-[0-9a-f]{12}\.mp4", str(output))
    others = [
        keys.output_uri(SETTINGS, "cats/tom.jpg", "a/c", request.digest12, ".mp4"),
        keys.output_uri(SETTINGS, "cats/tom.jpg", "a/b", Request(prompt="pan").digest12, ".mp4"),
        keys.output_uri(SETTINGS, "cats/tom.jpg", "a/b", Request(prompt="zoom", take=2).digest12, ".mp4"),
    ]
    assert len({output, *others}) == 4


@pytest.mark.parametrize(("number", "reopened", "ending"), [(1, False, "1"), (12, False, "12"), (2, True, "2r")])
def test_an_open_marker_names_image_version_job_and_attempt(number: int, reopened: bool, ending: str) -> None:
    """From `jobs/open/<n12>-<e12>-<job key>-<attempt>` reconcile learns all three."""
    version = f"{keys.digest12(IMAGE.name)}-{keys.digest12(IMAGE.etag)}"
    marker = keys.open_marker_uri(SETTINGS, IMAGE, KEY, number, reopened=reopened)
    assert str(marker) == f"s3://b-1/jobs/open/{version}-{KEY}-{ending}"
    assert keys.OpenMarker.parse(marker.key.removeprefix("jobs/open/")) == (version, KEY, number)


def test_no_two_attempts_share_a_marker() -> None:
    """A late delete of one attempt's marker hides no other attempt, and not the same attempt once it is reopened."""
    other = IMAGE.model_copy(update={"etag": "f"})
    markers = [
        keys.open_marker_uri(SETTINGS, image, key, number, reopened=reopened)
        for image in (IMAGE, other)
        for key in (KEY, "b" * 64)
        for number in (1, 2, 11)
        for reopened in (False, True)
    ]
    assert len(set(markers)) == len(markers)


def test_a_marker_of_format_1_names_no_attempt() -> None:
    """Markers that an older i2v left are still found."""
    version = f"{keys.digest12('a')}-{keys.digest12('b')}"
    assert keys.OpenMarker.parse(f"{version}-{KEY}") == (version, KEY, None)


@pytest.mark.parametrize(
    "name",
    ["", "README", KEY, f"{'0' * 12}-{'0' * 12}-{KEY}-", f"{'0' * 12}-{'0' * 12}-{KEY}-x", f"{'0' * 12}-{KEY}-1"],
    ids=["empty", "text", "key", "no number", "letter", "no etag"],
)
def test_other_objects_are_no_markers(name: str) -> None:
    """People put files everywhere."""
    assert keys.OpenMarker.parse(name) is None


def test_the_keys_of_the_ledger_are_stable() -> None:
    """Other tools read these objects: their keys never change."""
    uris = [
        keys.job_uri(SETTINGS, "k"),
        keys.run_uri(SETTINGS, "r"),
        keys.daily_spend_uri(SETTINGS, "2026-11-22"),
        keys.input_uri(SETTINGS, "5"),
        keys.ledger_uri(SETTINGS),
        keys.task_uri(SETTINGS, "task_1"),
    ]
    assert [uri.key for uri in uris] == [
        "jobs/k.json",
        "jobs/runs/r.json",
        "jobs/days/2026-11-22.json",
        "jobs/inputs/5",
        "jobs/ledger.json",
        f"jobs/tasks/{hashlib.sha256(b'task_1').hexdigest()}",
    ]


def test_images_and_videos_can_be_in_other_buckets() -> None:
    """A prefix may name its own bucket; images of the main bucket are then outside the prefix."""
    assert name("s3://photos/in/tom.jpg", ELSEWHERE) == "tom.jpg"
    assert name("s3://b-1/images/tom.jpg", ELSEWHERE) == "_s3/b-1/images/tom.jpg"
    assert str(keys.output_uri(ELSEWHERE, "tom.jpg", "e", "r", ".mp4")).startswith("s3://films/out/tom.jpg/")
