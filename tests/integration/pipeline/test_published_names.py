"""`I2V_PUBLISH_AS`: each stored video under a name that one can guess, and no two images under the same."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from i2v.errors import StorageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.recovery.backfill import reconcile_and_backfill
from i2v.reports.run_report import Outcome, Report
from sandbox import Sandbox
from tests.support.orders import OpenRun, put_photo

FOLDER_STEM = "published/{folder}{stem}.mp4"


async def make(run: RunContext, images: Sequence[str | BatchRow], **options: Any) -> Report:
    """Generate the videos of these images."""
    default = RequestOptions(prompt="it moves", **options)
    report, _ = await generate(run, await find_items(images, run.storage, run.settings), default, Steps())
    return report


async def test_a_video_is_published_under_its_name(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Video, poster and manifest are copies of what is stored; a newer take replaces them."""
    photo = put_photo(sandbox, "cats/tom.jpg")
    rows = [BatchRow.model_validate({"image": photo, "sku": "A-1"})]
    async with new_run(publish_as=FOLDER_STEM) as run:
        first = await make(run, rows)
    published = sandbox.keys("published/")
    manifest = sandbox.read_json("published/cats/tom.json")
    stored = str(first.items[0].video).removeprefix(f"s3://{sandbox.bucket}/")
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key="published/cats/tom.mp4")

    assert published == [f"published/cats/tom.{ending}" for ending in ("jpg", "json", "mp4")]
    assert sandbox.read("published/cats/tom.mp4") == sandbox.read(stored)
    assert (head["ContentType"], head["Metadata"]["sha256"]) == ("video/mp4", manifest["video"]["sha256"])
    assert manifest["published_as"] == f"s3://{sandbox.bucket}/published/cats/tom.mp4"
    assert (manifest["extra"], manifest["video"]["uri"]) == ({"sku": "A-1"}, first.items[0].video)
    assert sandbox.keys("jobs/open/") == []

    async with new_run(publish_as=FOLDER_STEM) as run:
        second = await make(run, [photo], take=2)
    async with new_run(publish_as=FOLDER_STEM) as run:
        cached = await make(run, rows)
    assert cached.items[0].outcome is Outcome.CACHED
    assert sandbox.read_json("published/cats/tom.json")["job"] == second.items[0].job
    assert sandbox.keys("published/") == published


async def test_videos_of_earlier_runs_are_published_by_a_rerun(sandbox: Sandbox, new_run: OpenRun) -> None:
    """It costs nothing; equal images at other keys have names of their own, and so has each row's column."""
    photo = put_photo(sandbox, "a.jpg")
    copy = put_photo(sandbox, "b.jpg")
    async with new_run() as run:
        await make(run, [photo])
    rows = [BatchRow.model_validate({"image": photo, "sku": sku}) for sku in ("A-1", "A-2")]
    async with new_run(publish_as="published/{extra.sku}.mp4") as run:
        report = await make(run, [*rows, BatchRow.model_validate({"image": copy, "sku": "B-1"}), photo])

    names = [key for key in sandbox.keys("published/") if key.endswith(".json")]
    assert names == [f"published/{sku}.json" for sku in ("A-1", "A-2", "B-1")]
    assert [sandbox.read_json(name)["extra"]["sku"] for name in names] == ["A-1", "A-2", "B-1"]
    assert sandbox.read_json("published/B-1.json")["image"]["name"] == "b.jpg"
    assert report.items[3].outcome is Outcome.NOT_TRIED
    assert "I2V_PUBLISH_AS needs {extra.sku}" in str(report.items[3].reason)
    assert sandbox.provider.billed_usd == Decimal("0.192")


async def test_images_that_share_a_name_are_not_paid(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Within a run none of them is tried, and against what is published only the other image; the rest goes on."""
    photos = [put_photo(sandbox, name, seed=seed) for seed, name in enumerate(("a/x.jpg", "b/x.jpg", "c/y.jpg"))]
    async with new_run(publish_as="published/{stem}.mp4") as run:
        report = await make(run, photos)
    assert [item.outcome for item in report.items] == [Outcome.NOT_TRIED, Outcome.NOT_TRIED, Outcome.STORED]
    assert f"would be published as s3://{sandbox.bucket}/published/x.mp4, and so would {photos[1]}" in str(
        report.items[0].reason
    )
    other = put_photo(sandbox, "d/y.jpg", seed=9)
    sandbox.put_image("published/z.jpg", b"not ours")
    foreign = put_photo(sandbox, "z.jpg", seed=10)
    async with new_run(publish_as="published/{stem}.mp4") as run:
        report = await make(run, [other, foreign, photos[2]])
    assert [item.outcome for item in report.items] == [Outcome.NOT_TRIED, Outcome.NOT_TRIED, Outcome.CACHED]
    assert "/published/y.mp4, which is of another image" in str(report.items[0].reason)
    assert "/published/z.jpg, which is an object that i2v did not publish" in str(report.items[1].reason)
    assert sandbox.provider.billed_usd == Decimal("0.192")
    assert sandbox.read("published/z.jpg") == b"not ours"


async def test_a_run_that_attaches_publishes_too(sandbox: Sandbox, new_run: OpenRun) -> None:
    """The video of a job that an earlier run paid for has its name, and the marker is gone."""
    photo = put_photo(sandbox, "tom.jpg")
    async with new_run(publish_as=FOLDER_STEM, poll_deadline_seconds=0.01, poll_first_seconds=0.01) as run:
        first = await make(run, [photo])
    async with new_run(publish_as=FOLDER_STEM) as run:
        second = await make(run, [photo])
    assert [report.items[0].outcome for report in (first, second)] == [Outcome.SUBMITTED, Outcome.STORED]
    assert "published/tom.json" in sandbox.keys("published/")
    assert sandbox.keys("jobs/open/") == []


async def test_a_run_of_an_equal_image_publishes_that_of_the_dead_run_too(sandbox: Sandbox, new_run: OpenRun) -> None:
    """The marker that leads reconcile to the paid image goes only after its video has its name."""
    paid, equal = put_photo(sandbox, "a.jpg"), put_photo(sandbox, "b.jpg")
    async with new_run(publish_as=FOLDER_STEM, poll_deadline_seconds=0.01, poll_first_seconds=0.01) as run:
        await make(run, [paid])
    async with new_run(publish_as=FOLDER_STEM) as run:
        await make(run, [equal])
    assert [sandbox.read_json(f"published/{name}.json")["image"]["name"] for name in "ab"] == ["a.jpg", "b.jpg"]
    assert sandbox.keys("jobs/open/") == []
    assert sandbox.provider.billed_usd == Decimal("0.192")


@pytest.mark.parametrize("name", ["tom.mp4", "tom.json"])
async def test_reconcile_publishes_what_a_dead_run_left_out(
    sandbox: Sandbox, new_run: OpenRun, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """If S3 fails while a paid video is published, it is stored, and its marker leads reconcile to it."""
    photo = put_photo(sandbox, "tom.jpg")
    async with new_run(publish_as=FOLDER_STEM) as run:
        for operation in ("copy", "put"):
            monkeypatch.setattr(run.storage, operation, failing(getattr(run.storage, operation), f"published/{name}"))
        report = await make(run, [photo])
    assert report.items[0].outcome is Outcome.STORED
    assert "not published yet, reconcile does it" in str(report.items[0].reason)
    assert len(sandbox.keys("jobs/open/")) == 1
    assert f"published/{name}" not in sandbox.keys("published/")

    async with new_run(publish_as=FOLDER_STEM) as run:
        await reconcile_and_backfill(run)
    assert sandbox.keys("published/") == [f"published/tom.{ending}" for ending in ("jpg", "json", "mp4")]
    assert sandbox.keys("jobs/open/") == []
    assert sandbox.provider.billed_usd == Decimal("0.192")


def failing(operation: Any, key: str) -> Any:
    """Return the operation, which fails where it would write this key."""

    async def run(*arguments: Any, **options: Any) -> Any:
        if any(getattr(argument, "key", "") == key for argument in arguments):
            raise StorageError("S3 failed", "Try again")
        return await operation(*arguments, **options)

    return run
