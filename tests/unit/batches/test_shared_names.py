"""Names of `I2V_PUBLISH_AS` that images of a batch would share are found before its shards are written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from i2v.batches.plan import BatchPlan, write_shards
from i2v.batches.shared_names import leave_out_shared
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.rows import Row
from i2v.pipeline.named_copies.names import image_digest
from i2v.reports.run_report import ItemReport
from i2v.request import Mode
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryStorage, memory_run

DEFAULT = RequestOptions(mode=Mode.STANDARD, duration=6, take=1)
IMAGES = "s3://b-1/images/"


class Bucket(MemoryStorage):
    """A bucket in memory whose images are sharded one by one; `heads` has what a request asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[str] = []

    async def turn(self, operation: str, uri: S3Uri, action: Any) -> Any:
        """Note the request."""
        self.heads += [uri.key] if operation == "head" else []
        return action()

    async def put_images(self, *names: str, **metadata: str) -> None:
        """Put images with this metadata."""
        for name in names:
            await self.put(S3Uri("b-1", f"images/{name}"), b"x", metadata=metadata)

    async def shard(self, template: str, *images: str | BatchRow) -> tuple[BatchPlan, list[str], dict[str, str]]:
        """Return the plan, the images in its shards, and why others are in none."""
        run = memory_run(self, I2V_PUBLISH_AS=template)
        plan = await write_shards(run, images or [IMAGES], DEFAULT, 2)
        shards = [await self.lines(plan.rows_uri(run.settings, one)) for one in range(1, plan.shards + 1)]
        not_tried = [await self.lines(uri) for uri in plan.not_tried_uris(run.settings)]
        assert plan.images == sum(map(len, shards))
        assert plan.not_tried == sum(map(len, not_tried))
        names = [row["image"].removeprefix(IMAGES) for rows in shards for row in rows]
        return plan, names, {row["image"].removeprefix(IMAGES): row["reason"] for rows in not_tried for row in rows}

    async def lines(self, uri: S3Uri) -> list[dict[str, Any]]:
        """Return the lines of a file."""
        return [json.loads(line) for line in (await self.get(uri)).body.splitlines()]


@pytest.fixture
def bucket() -> Bucket:
    """Return an empty bucket."""
    return Bucket()


async def test_images_that_share_a_name_are_in_no_shard(bucket: Bucket) -> None:
    """Each is named with the first of the others, all others stay in order, and no object is read for them."""
    await bucket.put_images("a/x.jpg", "b/x.jpg", "c/y.jpg", "d/x.jpg", "e/z.jpg")
    plan, names, left_out = await bucket.shard("published/{stem}.mp4")
    assert names == ["c/y.jpg", "e/z.jpg"]
    assert list(left_out) == ["a/x.jpg", "b/x.jpg", "d/x.jpg"]
    assert f"published as s3://b-1/published/x.mp4, and so would {IMAGES}b/x.jpg and 1 more" in left_out["a/x.jpg"]
    assert f"and so would {IMAGES}a/x.jpg and 1 more" in left_out["d/x.jpg"]
    assert (plan.shards, plan.products, set(bucket.heads)) == (
        1,
        {"standard-6": 2},
        {f"published/x.{ending}" for ending in ("mp4", "jpg", "json")},
    )


async def test_one_image_may_have_its_name_more_than_once(bucket: Bucket) -> None:
    """Other takes and prompts of an image replace its video; they are no conflict."""
    await bucket.put_images("a.jpg")
    rows = [BatchRow(image=f"{IMAGES}a.jpg", take=take) for take in (1, 2)]
    _, names, left_out = await bucket.shard("published/{stem}.mp4", *rows)
    assert (names, left_out) == (["a.jpg", "a.jpg"], {})


async def test_the_image_that_has_the_name_keeps_it(bucket: Bucket) -> None:
    """A name that is published already belongs to its image, as in a run; only the other is left out."""
    await bucket.put_images("a/x.jpg", "b/x.jpg")
    metadata = {"image": image_digest(f"{IMAGES}b/x.jpg")}
    await bucket.put(S3Uri("b-1", "published/x.mp4"), b"video", metadata=metadata)
    _, names, left_out = await bucket.shard("published/{stem}.mp4")
    assert names == ["b/x.jpg"]
    assert "published/x.mp4, which is of another image" in left_out["a/x.jpg"]


@pytest.mark.parametrize("template", ["published/{extra.sku}.mp4", "published/{extra.sku}-{take}.mp4"])
async def test_columns_in_metadata_count(bucket: Bucket, template: str) -> None:
    """A custom column that no row has is looked up before anything is paid; one without it stays for its shard."""
    await bucket.put_images("a.jpg", "b.jpg", **{"i2v-sku": "A-1"})
    await bucket.put_images("c.jpg", **{"i2v-sku": "C-1"})
    await bucket.put_images("d.jpg")
    row = BatchRow.model_validate({"image": f"{IMAGES}e.jpg", "sku": "C-1", "take": 2})
    _, names, left_out = await bucket.shard(template, IMAGES, row)
    is_taken = "take" not in template
    assert names == (["d.jpg"] if is_taken else ["c.jpg", "d.jpg", "e.jpg"])
    assert list(left_out) == (["a.jpg", "b.jpg", "c.jpg", "e.jpg"] if is_taken else ["a.jpg", "b.jpg"])


async def test_a_mode_in_metadata_is_asked_for_only_in_doubt(bucket: Bucket) -> None:
    """Two images that share a name by the run's mode have others by their own; nothing else is looked up."""
    await bucket.put_images("a/x.jpg", prompt="zoom", mode="pro")
    await bucket.put_images("b/x.jpg", "c/y.jpg")
    _, names, left_out = await bucket.shard("published/{stem}-{mode}.mp4")
    assert (names, left_out) == (["a/x.jpg", "b/x.jpg", "c/y.jpg"], {})
    assert sorted(bucket.heads) == ["images/a/x.jpg", "images/b/x.jpg"]


async def test_many_images_of_one_name(bucket: Bucket) -> None:
    """The cost grows with the number of images, also if all share one name; the reasons name one other."""
    lines = [f'{{"image":"{IMAGES}{number:05d}.jpg","extra":{{"n":"1"}}}}'.encode() for number in range(3_000)]

    async def rows() -> AsyncIterator[Row]:
        for line in lines:
            yield Row(line, "standard-6")

    run = memory_run(bucket, I2V_PUBLISH_AS="published/{extra.n}.mp4")
    found = [one async for one in leave_out_shared(run, rows(), DEFAULT)]
    assert all(isinstance(one, ItemReport) and f"{IMAGES}0000" in str(one.reason) for one in found)
    assert [one.image for one in found if isinstance(one, ItemReport)][:2] == [f"{IMAGES}{n:05d}.jpg" for n in (0, 1)]
    assert len(found) == 3_000
