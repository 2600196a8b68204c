from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2v.errors import UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.media.images import ImageRef
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    """A way to S3 that is never gone."""
    with Storage() as storage:
        yield storage


@pytest.fixture
def here(make_settings: Callable[..., Settings]) -> Settings:
    """Settings with the prefixes that are the default."""
    return make_settings(I2V_BUCKET="bucket")


def _item(name: str, **asked: object) -> InputItem:
    return InputItem(ref=ImageRef.parse(name), asked=RequestOptions.model_validate(asked))


async def _told(images: object, storage: Storage, here: Settings) -> str:
    with pytest.raises(UsageError) as caught:
        await find_items(images, storage, here)  # type: ignore[arg-type]
    assert caught.value.hint
    assert "SECRET" not in str(caught.value)
    return str(caught.value)


async def test_one_image_is_one_item(storage: Storage, here: Settings) -> None:
    """A text, a row, or a list of both: each names one image, in order."""
    row = BatchRow(image="https://example.org/b.jpg?sig=1", prompt="walk", mode=Mode.PRO)

    assert await find_items("s3://bucket/images/a.jpg", storage, here) == [_item("s3://bucket/images/a.jpg")]
    assert await find_items(row, storage, here) == [_item(row.image, prompt="walk", mode="pro")]
    assert await find_items([row, "s3://other/a.jpg"], storage, here) == [
        _item(row.image, prompt="walk", mode="pro"),
        _item("s3://other/a.jpg"),
    ]


async def test_an_image_that_is_named_may_have_any_name(storage: Storage, here: Settings) -> None:
    """Its bytes decide later; a URL that ends like a manifest is an image too."""
    names = [
        "s3://bucket/images/tom",
        "s3://bucket/images/tom.txt",
        "https://example.org/a.csv",
        "http://example.org/b",
    ]

    assert [item.ref.label for item in await find_items(names, storage, here)] == names


async def test_the_same_image_twice_is_one_item(storage: Storage, here: Settings) -> None:
    """The first keeps its place; another request of the same image is another item."""
    a, b = "s3://bucket/images/a.jpg", "s3://bucket/images/b.jpg"
    rows: list[str | BatchRow] = [
        a,
        b,
        BatchRow(image=a, prompt="walk"),
        a,
        BatchRow(image=a, prompt="walk"),
        BatchRow(image=b),
    ]

    assert await find_items(rows, storage, here) == [_item(a), _item(b), _item(a, prompt="walk")]


@pytest.mark.parametrize(
    ("name", "told"),
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
async def test_our_own_places_hold_no_images(storage: Storage, here: Settings, name: str, told: str) -> None:
    """A poster is never animated, and no image may be named as we name those from elsewhere."""
    assert told in await _told(name, storage, here)
    if not name.endswith("/"):
        assert told in await _told([BatchRow(image=name)], storage, here)


async def test_the_same_names_elsewhere_are_images(storage: Storage, here: Settings) -> None:
    """Only under our own prefixes do they mean something."""
    names = [
        "s3://other/videos/a.jpg",
        "s3://bucket/_s3/a.jpg",
        "s3://bucket/images/a/_s3/b.jpg",
        "s3://bucket/jobs.jpg",
    ]

    assert len(await find_items(names, storage, here)) == len(names)


@pytest.mark.parametrize(
    "name",
    ["tom.jpg", "./pictures", "pictures/", "/srv/tom.jpg", "~/tom.png", "C:\\tom.jpg", "tom.tsv", "x" * 5000, "a\0b"],
)
async def test_local_files_are_told_how_they_get_there(storage: Storage, here: Settings, name: str) -> None:
    """Flows read from S3 or https; the command line uploads first."""
    assert "`i2v run FILE` puts local files there first" in await _told(name, storage, here)


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
async def test_what_names_no_image_is_wrong_usage(storage: Storage, here: Settings, name: object) -> None:
    """The message says what is accepted."""
    assert "https://" in await _told(name, storage, here)


async def test_a_manifest_may_lie_here(storage: Storage, here: Settings, tmp_path: Path) -> None:
    """Its images are named whole."""
    path = tmp_path / "Manifest.JSONL"
    rows = [
        {"image": "s3://bucket/images/a.jpg", "prompt": "walk", "take": 2},
        {"image": "https://example.org/b.png?s=1"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

    assert await find_items(str(path), storage, here) == [
        _item("s3://bucket/images/a.jpg", prompt="walk", take=2),
        _item("https://example.org/b.png?s=1"),
    ]


async def test_faults_of_images_are_told_by_line_too(storage: Storage, here: Settings, tmp_path: Path) -> None:
    """Wrong columns and wrong places come in one message."""
    path = tmp_path / "m.csv"
    images = ["a.jpg", "s3://bucket/videos/a.jpg", "https://u:SECRET@h/a b.jpg?SECRET", "s3://bucket/images/"]
    path.write_text("image,mode\n" + "".join(f"{image},\n" for image in images) + "s3://bucket/a.jpg,fast\n")
    told = await _told(str(path), storage, here)

    for line in (2, 3, 4, 5):
        assert f"line {line}, column image" in told
    assert "line 6, column mode" in told


@pytest.mark.parametrize("name", ["none.csv", "folder.csv", "x" * 300 + ".csv", "a\0b.csv"])
async def test_a_manifest_that_cannot_be_read_is_named(
    storage: Storage, here: Settings, tmp_path: Path, name: str
) -> None:
    """No such file, a folder, a name that cannot be: each is wrong usage."""
    (tmp_path / "folder.csv").mkdir()

    assert "cannot be read" in await _told(str(tmp_path / name), storage, here)


async def test_an_item_is_not_shown_with_its_signature(storage: Storage, here: Settings) -> None:
    """What is logged of an item holds no secret."""
    (item,) = await find_items("https://example.org/a.jpg?sig=SECRET", storage, here)

    assert item.ref.url == "https://example.org/a.jpg?sig=SECRET"
    assert "SECRET" not in repr(item) + str(item)
    assert S3Uri("bucket", "images/") == here.images
