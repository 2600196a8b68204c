"""Objects in S3 become items: prefixes, batch files, sidecars."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from i2v.errors import NoBucket, NoImages, Refused, UsageError
from i2v.inputs.metadata_text import encode_metadata
from i2v.inputs.prompts import RequestOptions, metadata_options, read_sidecar, request_metadata
from i2v.inputs.sources import InputItem, find_items
from i2v.media.images import ImageRef
from i2v.reports.run_report import Report
from i2v.request import Request
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.listing_server import listing_server, name_of


@pytest.fixture
def storage(sandbox: Sandbox) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage(client=sandbox.s3()) as storage:
        yield storage


def _put(sandbox: Sandbox, *keys: str, body: bytes = b"x") -> None:
    for key in keys:
        sandbox.s3().put_object(Bucket=sandbox.bucket, Key=key, Body=body)


def _at(sandbox: Sandbox, key: str) -> str:
    return f"s3://{sandbox.bucket}/{key}"


async def _found(sandbox: Sandbox, storage: Storage, settings: Settings, *keys: str) -> list[str]:
    items = await find_items([_at(sandbox, key) for key in keys], storage, settings)
    return [item.ref.label.removeprefix(_at(sandbox, "")) for item in items]


async def test_a_prefix_is_all_images_under_it(sandbox: Sandbox, storage: Storage, settings: Settings) -> None:
    """Images are found by suffix, ignoring case; sidecars, folder markers and other files are left out."""
    images = ["images/a/b/c.png", "images/a/tom.JPG", "images/tom cat+ü.jpeg", "images/x.jpg", "images/x.jpg.PNG"]
    _put(sandbox, *images, "images/", "images/a/", "images/x.jpg.txt", "images/x.jpg/", "images/x.webp", "images/jpg")
    _put(sandbox, "imagesx.jpg", "other/y.jpg")

    assert sorted(await _found(sandbox, storage, settings, "images/")) == sorted(images)
    assert await _found(sandbox, storage, settings, "images/a/") == ["images/a/b/c.png", "images/a/tom.JPG"]


async def test_a_listing_provides_etag_size_and_sidecar(sandbox: Sandbox, storage: Storage, settings: Settings) -> None:
    """A listed item has its etag and size, even if the image was also named by itself."""
    _put(sandbox, "images/x.jpg", body=b"four")
    listed = InputItem(
        ref=ImageRef(uri=S3Uri(sandbox.bucket, "images/x.jpg")),
        etag=sandbox.s3().head_object(Bucket=sandbox.bucket, Key="images/x.jpg")["ETag"].strip('"'),
        size=4,
        may_have_sidecar=False,
    )

    assert await find_items(_at(sandbox, "images/"), storage, settings) == [listed]
    assert await find_items([_at(sandbox, "images/x.jpg"), _at(sandbox, "images/")], storage, settings) == [
        listed.model_copy(update={"by_name": True})
    ]
    _put(sandbox, "images/x.jpg.txt", body=b"it moves")
    (item,) = await find_items(_at(sandbox, "images/"), storage, settings)
    assert item.may_have_sidecar


async def test_our_own_objects_are_not_images(
    sandbox: Sandbox, storage: Storage, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A run over the whole bucket skips posters, inputs and reserved names; the last are logged."""
    _put(
        sandbox,
        "videos/x.jpg/a-b.jpg",
        "jobs/inputs/x.jpg",
        "images/_s3/b/x.jpg",
        "images/_url/h/x.jpg",
        "images/x.jpg",
    )
    with caplog.at_level(logging.WARNING, "i2v.inputs.sources"):
        found = await _found(sandbox, storage, settings, "")

    assert found == ["images/x.jpg"]
    assert "skipped 2 objects such as" in caplog.text


async def test_more_than_a_page_is_listed(aws: None, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of several pages is complete."""
    with listing_server(2005, 1) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with Storage() as storage:
            items = await find_items("s3://big/images/", storage, settings)

    assert [item.ref.label for item in items] == [f"s3://big/images/{name_of(number)}" for number in range(2005)]


async def test_a_prefix_without_images_is_an_error(sandbox: Sandbox, storage: Storage, settings: Settings) -> None:
    """The error has exit code 3, counts the objects and names the suffixes of images."""
    _put(sandbox, "images/a/", "images/a/readme.txt")
    with pytest.raises(NoImages, match=r"No images found under s3://\S+/images/a/ \(2 objects\)") as caught:
        await _found(sandbox, storage, settings, "images/a/")

    assert caught.value.exit_code == 3
    assert ".jpg" in caught.value.hint


async def test_a_prefix_without_images_among_others_is_only_logged(
    sandbox: Sandbox, storage: Storage, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The images of the other prefixes are found."""
    _put(sandbox, "images/a/x.jpg")
    with caplog.at_level(logging.WARNING, "i2v.inputs.sources"):
        assert await _found(sandbox, storage, settings, "images/b/", "images/a/") == ["images/a/x.jpg"]

    assert "No images found under" in caplog.text


async def test_a_missing_bucket_is_an_error(storage: Storage, settings: Settings) -> None:
    """The error names the bucket."""
    with pytest.raises(NoBucket, match="The bucket of s3://no-such-bucket-here/images/ does not exist"):
        await find_items("s3://no-such-bucket-here/images/", storage, settings)
    with pytest.raises(NoBucket):
        await find_items("s3://no-such-bucket-here/m.csv", storage, settings)


async def test_a_batch_file_in_s3_may_use_relative_names(
    sandbox: Sandbox, storage: Storage, settings: Settings
) -> None:
    """A name without a scheme is relative to the batch file; every row keeps its options."""
    body = f"image,prompt,duration\ntom.jpg,walk,10\nsub/x y.png,,\n{_at(sandbox, 'other/z.jpg')},run,\n"
    _put(sandbox, "images/cats/list.csv", body=body.encode())

    assert await find_items(_at(sandbox, "images/cats/list.csv"), storage, settings) == [
        InputItem(
            ref=ImageRef.parse(_at(sandbox, "images/cats/tom.jpg")),
            options=RequestOptions(prompt="walk", duration=10),
        ),
        InputItem(ref=ImageRef.parse(_at(sandbox, "images/cats/sub/x y.png"))),
        InputItem(ref=ImageRef.parse(_at(sandbox, "other/z.jpg")), options=RequestOptions(prompt="run")),
    ]


@pytest.mark.parametrize("name", ["../x.jpg", "/x.jpg", "a//b.jpg", "./x.jpg", "sub/"])
async def test_a_relative_name_stays_below_its_batch_file(
    sandbox: Sandbox, storage: Storage, settings: Settings, name: str
) -> None:
    """S3 has no parent folders, so `..` and similar names are errors."""
    _put(sandbox, "lists/m.csv", body=f"image\n{name}\n".encode())
    with pytest.raises(UsageError, match=r"line 2, column image: .* is not a valid key below s3://\S+/lists/"):
        await find_items(_at(sandbox, "lists/m.csv"), storage, settings)


async def test_a_batch_file_under_a_prefix_is_not_read(sandbox: Sandbox, storage: Storage, settings: Settings) -> None:
    """A batch file is read only if it is named itself."""
    _put(sandbox, "images/list.csv", "images/x.jpg", body=b"image\ny.jpg\n")

    assert await _found(sandbox, storage, settings, "images/") == ["images/x.jpg"]
    assert await _found(sandbox, storage, settings, "images/list.csv") == ["images/y.jpg"]


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (b"The cat walks.\n", "The cat walks.\n"),
        ("\ufeffMüde".encode(), "Müde"),
        (b"", None),
        (b" \r\n", None),
        (b"\xef\xbb\xbf", None),
    ],
)
async def test_a_sidecar_is_read(sandbox: Sandbox, storage: Storage, body: bytes, prompt: str | None) -> None:
    """A sidecar is UTF-8 with or without a byte order mark; an empty one sets no prompt."""
    _put(sandbox, "images/tom.jpg.txt", body=body)

    assert await read_sidecar(storage, S3Uri(sandbox.bucket, "images/tom.jpg")) == prompt


async def test_no_sidecar_is_no_prompt(sandbox: Sandbox, storage: Storage) -> None:
    """An image without a sidecar has no prompt from it."""
    assert await read_sidecar(storage, S3Uri(sandbox.bucket, "images/tom.jpg")) is None


@pytest.mark.parametrize(
    "body", ["müde".encode("latin-1"), "walk".encode("utf-16"), b"x" * 65_537, make_jpeg()], ids=lambda b: str(len(b))
)
async def test_an_unreadable_sidecar_is_refused(sandbox: Sandbox, storage: Storage, body: bytes) -> None:
    """The error names the sidecar."""
    _put(sandbox, "images/tom.jpg.txt", body=body)
    with pytest.raises(Refused, match=r"images/tom\.jpg\.txt") as caught:
        await read_sidecar(storage, S3Uri(sandbox.bucket, "images/tom.jpg"))

    assert caught.value.rule == "prompt_unreadable"


@pytest.mark.parametrize("prompt", ["The cat walks.", "Süße Katze, 猫", "two\nlines", "=?utf-8?q?x?=", "a  b"])
async def test_a_request_in_metadata_survives_s3(sandbox: Sandbox, storage: Storage, prompt: str) -> None:
    """Metadata that is written with an object is read back unchanged."""
    uri = S3Uri(sandbox.bucket, "images/tom.jpg")
    await storage.put(uri, b"x", metadata=request_metadata(Request(prompt=prompt, take=2)))
    found = await storage.head(uri)

    given = {"prompt": prompt, "mode": "standard", "duration": 6, "take": 2, "prompt_source": "metadata"}
    assert metadata_options(found.metadata) == RequestOptions.model_validate(given)
    assert found.metadata["prompt"] == encode_metadata(prompt)


async def test_other_files_under_a_prefix_are_counted(sandbox: Sandbox, storage: Storage, settings: Settings) -> None:
    """JPEGs with rare endings are images; what else the prefix holds is counted by ending, but for prompts."""
    _put(sandbox, *(f"images/{name}" for name in ("a.jpg", "b.jfif", "c.JPE", "a.jpg.txt", "d.webp", "e.webp", "f")))
    items = await find_items(_at(sandbox, "images/"), storage, settings)
    assert len(items) == 3
    assert items.others == {".webp": 2, "without ending": 1}
    report = Report(other_files=items.others)
    assert report.others == "3 other files (2 .webp, 1 without ending)"
    assert report.for_json()["other_files"] == items.others
