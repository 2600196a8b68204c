from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2v.errors import UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items, refuse_signed_urls
from i2v.media.images import ImageRef
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from i2v.urls import is_signed


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    """An S3 client that is never used."""
    with Storage() as storage:
        yield storage


@pytest.fixture
def default_settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings with the default prefixes."""
    return make_settings(I2V_BUCKET="bucket")


def _item(name: str, **options: object) -> InputItem:
    return InputItem(ref=ImageRef.parse(name), options=RequestOptions.model_validate(options))


def _named(name: str, **options: object) -> InputItem:
    return _item(name, **options).model_copy(update={"by_name": True})


async def _error(images: object, storage: Storage, default_settings: Settings) -> str:
    with pytest.raises(UsageError) as caught:
        await find_items(images, storage, default_settings)  # type: ignore[arg-type]
    assert caught.value.hint
    assert "SECRET" not in str(caught.value)
    return str(caught.value)


async def test_one_image_is_one_item(storage: Storage, default_settings: Settings) -> None:
    """A string, a row, or a list of both: each is one image, in order."""
    row = BatchRow(image="https://example.org/b.jpg?sig=1", prompt="walk", mode=Mode.PRO)

    assert await find_items("s3://bucket/images/a.jpg", storage, default_settings) == [
        _named("s3://bucket/images/a.jpg")
    ]
    assert await find_items(row, storage, default_settings) == [_named(row.image, prompt="walk", mode="pro")]
    assert await find_items([row, "s3://other/a.jpg"], storage, default_settings) == [
        _named(row.image, prompt="walk", mode="pro"),
        _named("s3://other/a.jpg"),
    ]


async def test_a_named_image_may_have_any_suffix(storage: Storage, default_settings: Settings) -> None:
    """Validation checks the bytes later; a URL that ends in .csv is an image too."""
    names = [
        "s3://bucket/images/tom",
        "s3://bucket/images/tom.txt",
        "https://example.org/a.csv",
        "http://example.org/b",
    ]

    assert [item.ref.label for item in await find_items(names, storage, default_settings)] == names


async def test_the_same_image_twice_is_one_item(storage: Storage, default_settings: Settings) -> None:
    """Duplicates are dropped; the same image with other options is another item."""
    a, b = "s3://bucket/images/a.jpg", "s3://bucket/images/b.jpg"
    rows: list[str | BatchRow] = [
        a,
        b,
        BatchRow(image=a, prompt="walk"),
        a,
        BatchRow(image=a, prompt="walk"),
        BatchRow(image=b),
    ]

    assert await find_items(rows, storage, default_settings) == [_named(a), _named(b), _named(a, prompt="walk")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3://bucket/videos/tom.jpg/poster.jpg", "I2V_VIDEOS_PREFIX"),
        ("s3://bucket/videos/", "I2V_VIDEOS_PREFIX"),
        ("s3://bucket/jobs/inputs/", "I2V_JOBS_PREFIX"),
        ("s3://bucket/jobs/x.jpg", "I2V_JOBS_PREFIX"),
        ("s3://bucket/images/_s3/other/tom.jpg", "_s3/"),
        ("s3://bucket/images/_url/host/tom.jpg", "_url/"),
        ("s3://bucket/images/_long/", "_long/"),
    ],
)
async def test_our_own_prefixes_contain_no_images(
    storage: Storage, default_settings: Settings, name: str, message: str
) -> None:
    """An object under the videos or jobs prefix, or under a reserved prefix, is not an image."""
    assert message in await _error(name, storage, default_settings)
    if not name.endswith("/"):
        assert message in await _error([BatchRow(image=name)], storage, default_settings)


async def test_the_same_names_in_other_places_are_images(storage: Storage, default_settings: Settings) -> None:
    """A reserved name is only reserved under our own prefixes."""
    names = [
        "s3://other/videos/a.jpg",
        "s3://bucket/_s3/a.jpg",
        "s3://bucket/images/a/_s3/b.jpg",
        "s3://bucket/jobs.jpg",
    ]

    assert len(await find_items(names, storage, default_settings)) == len(names)


@pytest.mark.parametrize(
    "name",
    ["tom.jpg", "./pictures", "pictures/", "/srv/tom.jpg", "~/tom.png", "C:\\tom.jpg", "tom.tsv", "x" * 5000, "a\0b"],
)
async def test_the_error_for_a_local_file_names_i2v_run(
    storage: Storage, default_settings: Settings, name: str
) -> None:
    """Flows read from S3 or https; the hint says that `i2v run` uploads local files."""
    assert "`i2v run FILE` uploads local files first" in await _error(name, storage, default_settings)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "s3://",
        "s3://bucket",
        "s3://Bucket/x.jpg",
        "ftp://u:SECRET@host/x.jpg",
        "gs://bucket/x.jpg?SECRET",
        "https://?SECRET",
        "s3:/bucket/x.jpg",
        [],
        BatchRow(image="tom.jpg"),
        BatchRow(image="s3://bucket/images/"),
    ],
)
async def test_an_invalid_name_is_wrong_usage(storage: Storage, default_settings: Settings, name: object) -> None:
    """The error lists what is accepted."""
    assert "https://" in await _error(name, storage, default_settings)


async def test_a_batch_file_may_be_local(storage: Storage, default_settings: Settings, tmp_path: Path) -> None:
    """A local batch file names its images by URI or URL."""
    path = tmp_path / "Batch.JSONL"
    rows = [
        {"image": "s3://bucket/images/a.jpg", "prompt": "walk", "take": 2},
        {"image": "https://example.org/b.png?s=1"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

    assert await find_items(str(path), storage, default_settings) == [
        _item("s3://bucket/images/a.jpg", prompt="walk", take=2),
        _item("https://example.org/b.png?s=1"),
    ]


async def test_errors_of_images_are_reported_by_line(
    storage: Storage, default_settings: Settings, tmp_path: Path
) -> None:
    """Invalid columns and invalid images are reported in one message."""
    path = tmp_path / "m.csv"
    images = ["a.jpg", "s3://bucket/videos/a.jpg", "https://u:SECRET@h/a b.jpg?SECRET", "s3://bucket/images/"]
    path.write_text("image,mode\n" + "".join(f"{image},\n" for image in images) + "s3://bucket/a.jpg,fast\n")
    message = await _error(str(path), storage, default_settings)

    for line in (2, 3, 4, 5):
        assert f"line {line}, column image" in message
    assert "line 6, column mode" in message


@pytest.mark.parametrize("name", ["none.csv", "folder.csv", "x" * 300 + ".csv", "a\0b.csv"])
async def test_an_unreadable_batch_file_is_wrong_usage(
    storage: Storage, default_settings: Settings, tmp_path: Path, name: str
) -> None:
    """A missing file, a folder and an invalid path are wrong usage."""
    (tmp_path / "folder.csv").mkdir()

    assert "Cannot read batch file" in await _error(str(tmp_path / name), storage, default_settings)


async def test_an_item_does_not_show_a_signed_url(storage: Storage, default_settings: Settings) -> None:
    """The text of an item leaves out the query of its URL."""
    (item,) = await find_items("https://example.org/a.jpg?sig=SECRET", storage, default_settings)

    assert item.ref.url == "https://example.org/a.jpg?sig=SECRET"
    assert "SECRET" not in repr(item) + str(item)
    assert S3Uri("bucket", "images/") == default_settings.images


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=SECRET",
        "AWSAccessKeyId=A&Expires=1&Signature=SECRET",
        "X-Goog-Signature=SECRET",
        "sv=2024&sig=SECRET",
        "Policy=SECRET&Key-Pair-Id=K",
        "w=800&access_token=SECRET",
        "api_key=SECRET",
        "hdnts=SECRET",
    ],
)
def test_a_signed_url_is_no_parameter(query: str) -> None:
    """Prefect stores parameters, so a signed URL is refused with the remedy, alone, in a list and in a row."""
    url = f"https://example.org/a.jpg?{query}"
    for images in (url, ["s3://b-1/images/a.jpg", url], [BatchRow(image=url)]):
        with pytest.raises(UsageError, match=r"https://example\.org/a\.jpg is signed") as caught:
            refuse_signed_urls(images)
        assert "under the images prefix" in caught.value.hint
        assert "SECRET" not in str(caught.value)
    with pytest.raises(UsageError):
        refuse_signed_urls("https://user:SECRET@example.org/a.jpg")


def test_other_urls_are_parameters() -> None:
    """Plain queries, keys with question marks, files and invalid URLs are left to later checks."""
    names = ["https://example.org/a.jpg?width=800&design=1", "s3://b-1/images/a?sig=1@x.jpg", "a@b.csv", "https://["]
    refuse_signed_urls(names)
    assert not any(map(is_signed, names[0::2]))
