"""Sharding: which images are in which shard, and that a parent which starts again finds them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from i2v.batches.plan import BatchPlan, batch_of, read_plan, write_shards
from i2v.errors import BadRows, NoImages
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.request import Mode
from i2v.s3_uri import S3Uri
from tests.support.memory_storage import MemoryStorage, memory_run
from tests.support.settings import SealedSettings

SETTINGS = SealedSettings(I2V_BUCKET="b-1")
DEFAULT = RequestOptions(mode=Mode.STANDARD, duration=6, take=1)


class Bucket:
    """A bucket in memory whose images are sharded."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()

    async def put(self, key: str, body: bytes = b"x") -> None:
        """Put an object."""
        await self.storage.put(S3Uri("b-1", key), body)

    async def shard(self, *images: str | BatchRow, size: int = 2, run_id: str = "run") -> BatchPlan:
        """Write the shards of these images."""
        return await write_shards(memory_run(self.storage, run_id, label="autumn"), images, DEFAULT, size)

    async def rows(self, plan: BatchPlan) -> list[list[dict[str, Any]]]:
        """Return the rows of each shard."""
        shards = []
        for number in range(1, plan.shards + 1):
            body = (await self.storage.get(plan.rows_uri(SETTINGS, number))).body
            shards.append([json.loads(line) for line in body.splitlines()])
        return shards


@pytest.fixture
async def bucket() -> Bucket:
    """Return a bucket with five images, a prompt file and two other files."""
    found = Bucket()
    for name in ("a.jpg", "a.jpg.txt", "b.png", "c.heic", "d.JPG", "e.jpeg", "f.jpg", "g", "folder/"):
        await found.put(f"images/{name}")
    return found


async def test_a_prefix_becomes_shards_of_the_given_size(bucket: Bucket) -> None:
    """Five images in shards of two: three shards, in the order of keys, each image once."""
    plan = await bucket.shard("s3://b-1/images/")
    shards = await bucket.rows(plan)
    assert [len(rows) for rows in shards] == [2, 2, 1]
    assert [plan.images_in(number) for number in (1, 2, 3)] == [2, 2, 1]
    assert [row["image"][-5:] for rows in shards for row in rows] == ["a.jpg", "b.png", "d.JPG", ".jpeg", "f.jpg"]
    assert plan.other_files == {".heic": 1, "without ending": 1}
    assert plan.label == "autumn"


async def test_a_shard_is_a_batch_file_with_the_same_images_and_options(bucket: Bucket) -> None:
    """What a run finds in the shards is what it finds in the images themselves: rows keep their own options."""
    await bucket.put(
        "lists/x.csv", b"image,prompt,mode,duration,take,sku\ny.jpg,it yawns,pro,,2,A-1\ns3://b-1/images/a.jpg,,,10,,\n"
    )
    named: list[str | BatchRow] = [
        "s3://b-1/lists/x.csv",
        "https://example.com/z.jpg?size=1",
        BatchRow(image="s3://b-1/q.jpg", take=3),
    ]
    plan = await bucket.shard(*named)
    uris = [str(plan.rows_uri(SETTINGS, number)) for number in range(1, plan.shards + 1)]
    expected = await find_items(named, bucket.storage, SETTINGS, by_name=False)
    assert await find_items(uris, bucket.storage, SETTINGS) == expected
    assert plan.products == {"pro-6": 1, "standard-10": 1, "standard-6": 2}
    assert plan.cost_usd(SETTINGS) == Decimal("0.33") + Decimal("0.32") + 2 * Decimal("0.192")


async def test_an_image_that_is_named_twice_is_in_one_shard(bucket: Bucket) -> None:
    """The same image with the same options is one item of the batch; with others it is another."""
    again = BatchRow(image="s3://b-1/images/a.jpg", take=2)
    plan = await bucket.shard("s3://b-1/images/", "s3://b-1/images/a.jpg", again, "s3://b-1/images/")
    rows = [row for shard in await bucket.rows(plan) for row in shard]
    assert [row["image"] for row in rows].count("s3://b-1/images/a.jpg") == 2
    assert plan.images == len(rows) == 6


async def test_a_parent_that_starts_again_finds_its_plan(bucket: Bucket) -> None:
    """The plan is there once all shards are written, and the first plan of a batch stays."""
    assert await read_plan(bucket.storage, SETTINGS, "run") is None
    first = await bucket.shard("s3://b-1/images/")
    await bucket.put("images/late.jpg")
    assert await bucket.shard("s3://b-1/images/") == first
    assert await read_plan(bucket.storage, SETTINGS, "run") == first
    assert sum(map(len, await bucket.rows(first))) == 5


async def test_shards_of_a_parent_that_died_are_not_used(bucket: Bucket) -> None:
    """Each try writes into its own folder, which only the plan names."""
    first = await bucket.shard("s3://b-1/images/", run_id="one")
    second = await bucket.shard("s3://b-1/images/", run_id="two")
    assert first.folder != second.folder


async def test_nothing_is_written_for_an_empty_prefix_or_a_wrong_row(bucket: Bucket) -> None:
    """A batch without images, or with a wrong line, has no plan, and says what a run says."""
    await bucket.put("lists/x.csv", b"image,mode\na.jpg,fast\n")
    with pytest.raises(NoImages, match="No images found under s3://b-1/nothing/"):
        await bucket.shard("s3://b-1/nothing/")
    with pytest.raises(BadRows, match="line 2, column mode"):
        await bucket.shard("s3://b-1/images/", "s3://b-1/lists/x.csv")
    assert await read_plan(bucket.storage, SETTINGS, "run") is None


async def test_bad_rows_are_skipped_on_request_and_kept_for_the_report(bucket: Bucket) -> None:
    """The plan has what was wrong with them."""
    await bucket.put("lists/x.csv", b"image,mode\na.jpg,fast\nb.jpg,pro\n")
    run = memory_run(bucket.storage, "run")
    plan = await write_shards(run, ["s3://b-1/lists/x.csv"], DEFAULT, 2, skip_bad_rows=True)
    assert (plan.images, [row.line for row in plan.bad_rows]) == (1, [2])
    assert await read_plan(bucket.storage, SETTINGS, "run") == plan


async def test_an_empty_prefix_beside_others_is_skipped(bucket: Bucket) -> None:
    """One bad name stops nothing else."""
    plan = await bucket.shard("s3://b-1/nothing/", "s3://b-1/images/a.jpg")
    assert plan.images == 1


def test_a_shard_names_its_batch() -> None:
    """The batch of a shard is known from its name, which is that of its run in the ledger."""
    plan = BatchPlan(run_id="0d1f-aa", folder="f", shards=1, images=1, shard_size=1, products={})
    assert plan.shard(1) == "0d1f-aa-00001"
    assert batch_of(plan.shard(1)) == "0d1f-aa"
