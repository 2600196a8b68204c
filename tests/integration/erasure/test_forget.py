"""`i2v forget` leaves nothing of an image in any version of the bucket, and the books agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from i2v.erasure.erase import erase
from i2v.erasure.search import search
from i2v.erasure.selection import Selection
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.sources import find_items
from i2v.ledger.job import JobState
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.submit import submit
from i2v.recovery.backfill import BackfillOptions, reconcile_and_backfill
from i2v.reports.run_report import Outcome, Report
from i2v.reports.spend import sum_spend
from i2v.s3_uri import S3Uri
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.bucket_search import search_all_versions
from tests.support.erasing import DEFAULT, NAME, PROMPT, SKU, WORDS, forget, row_of, run_images
from tests.support.orders import OpenRun, job_records, order_for, put_photo

PRICE = Decimal("0.192")
OLD = datetime(2020, 1, 1, tzinfo=UTC)
SETTLED = timedelta(seconds=-2)
"""No image is too young: S3's Date has whole seconds, but listings may have fractions."""


def report_lines(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return the lines of all runs."""
    files = [sandbox.read(key) for key in sandbox.keys("jobs/runs/") if key.endswith(".jsonl")]
    return [json.loads(line) for file in files for line in file.splitlines()]


async def spend_of(run: RunContext) -> tuple[Decimal, Decimal, int]:
    """Return what the spend report says."""
    totals = (await sum_spend(run.storage, run.settings, days=1)).totals
    return totals.stored_usd, totals.at_risk_usd, totals.attempts


async def test_nothing_of_a_forgotten_image_is_found(versioned: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """No version of any object has its name, prompt, column or folder; spend, bill and days are unchanged."""
    jane = put_photo(versioned, f"customer-jane-doe/{NAME}.jpg")
    small = versioned.put_image(f"images/customer-jane-doe/{NAME}-small.jpg", make_jpeg(200, 200), prompt=PROMPT)
    bad = put_photo(versioned, f"customer-jane-doe/{NAME}-bad.jpg", seed=7)
    tom = put_photo(versioned, "tom.jpg", seed=2)
    provider.add_fault(on="task", kind="fails", code="MODEL_X", prompt=f"bad: {PROMPT}")
    rows = [row_of(jane), row_of(jane, take=2), row_of(small), row_of(bad, prompt=f"bad: {PROMPT}")]
    await run_images(new_run, *rows, BatchRow(image=tom, prompt="tom jumps"))
    await run_images(new_run, row_of(jane), tom)
    async with new_run() as run:
        before = await spend_of(run)
    days = versioned.read_json(next(key for key in versioned.keys("jobs/days/")))

    erasure = await forget(new_run, prefix=f"s3://{versioned.bucket}/images/customer-jane-doe/", with_images=True)

    assert erasure.is_complete, erasure
    assert search_all_versions(versioned, WORDS) == set()
    async with new_run() as run:
        assert await spend_of(run) == before
    assert versioned.read_json(next(key for key in versioned.keys("jobs/days/"))) == days
    records = job_records(versioned)
    assert sum(record.cost_usd for record in records) == PRICE * sum(provider.billed().values())
    assert sorted(record.state for record in records) == ["forgotten"] * 3 + ["stored"] * 2
    lines = report_lines(versioned)
    assert sum(line["cost_usd"] for line in lines) == pytest.approx(float(PRICE) * sum(provider.billed().values()))
    assert {line["prompt"] for line in lines if line["image"] == tom} == {"tom jumps", "a slow zoom"}
    assert "images/tom.jpg" in versioned.keys("images/")


async def test_a_forgotten_image_is_made_again_only_by_its_name(
    versioned: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Nightly leaves it out; the door, a prefix and a batch file are refused; named by a person it is paid again."""
    jane = put_photo(versioned, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    assert (await forget(new_run, jane)).is_complete
    prefix, file = f"s3://{versioned.bucket}/images/", f"s3://{versioned.bucket}/batches/1.jsonl"
    body = json.dumps({"image": jane, "prompt": PROMPT}).encode()
    versioned.s3().put_object(Bucket=versioned.bucket, Key="batches/1.jsonl", Body=body)

    async with new_run(settling_seconds=0.0) as run:
        nightly = await reconcile_and_backfill(run, BackfillOptions(OLD, DEFAULT, SETTLED))
    door = await run_images(new_run, jane, by_name=False)
    others = [await run_images(new_run, one) for one in (prefix, file)]
    billed = sum(provider.billed().values())
    planned = [await preview(new_run, one) for one in (prefix, jane)]
    named = await run_images(new_run, row_of(jane))
    again = await run_images(new_run, prefix)

    assert nightly.report.items == ()
    assert [item.outcome for report in (door, *others) for item in report.items] == [Outcome.REFUSED] * 3
    assert "was erased on" in str(door.items[0].reason)
    assert billed == 1
    assert [report.count(Outcome.PLANNED) for report in planned] == [0, 1]
    assert [item.outcome for item in (*named.items, *again.items)] == [Outcome.STORED] * 2
    (record, _) = sorted(job_records(versioned), key=lambda one: -len(one.attempts))
    assert (record.state, record.request.prompt, record.image.label) == (JobState.STORED, PROMPT, jane)
    assert (record.extra, record.cost_usd, len(record.attempts)) == ({"sku": SKU}, 2 * PRICE, 2)


async def preview(new_run: OpenRun, *images: str) -> Report:
    """Return what a dry run plans."""
    async with new_run() as run:
        run.dry_run = True
        items = await find_items(list(images), run.storage, run.settings)
        report, _ = await generate(run, items, DEFAULT, Steps())
        run.dry_run = False
    return report


async def test_an_image_with_an_open_job_is_left_as_it_is(
    versioned: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A submitted and an unknown job refuse their images with what to do; another image is erased all the same."""
    tom, ann, lost = (put_photo(versioned, f"{name}.jpg", seed) for seed, name in enumerate(("tom", "ann", "lost")))
    await run_images(new_run, tom)
    provider.add_fault(on="submit", kind="lost_answer", prompt="lost")
    async with new_run() as run:
        open_job = await submit(run, await order_for(run, ann))
        await submit(run, await order_for(run, lost, "lost"))

    erasure = await forget(new_run, tom, ann, lost)

    assert [image.label for image in erasure.erased] == [tom]
    assert "i2v reconcile" in erasure.refused[ann]
    assert "--drop" in erasure.refused[lost]
    records = {record.image.label: record for record in job_records(versioned)}
    assert {str(records[ann].state), str(records[lost].state)} == {"submitted", "unknown"}
    assert records[ann].key == open_job.record.key
    assert len(versioned.keys("jobs/forgotten/")) == 1

    async with new_run() as run:
        await reconcile_and_backfill(run)
    assert list((await forget(new_run, ann)).refused) == []


def put_in_parts(sandbox: Sandbox, key: str, body: bytes) -> str:
    """Put an object whose etag is no hash of its bytes, as a multipart upload or encryption makes it."""
    s3: Any = sandbox.s3()
    where = {"Bucket": sandbox.bucket, "Key": key}
    upload = {**where, "UploadId": s3.create_multipart_upload(**where, ContentType="image/jpeg")["UploadId"]}
    etag = s3.upload_part(**upload, PartNumber=1, Body=body)["ETag"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    return f"s3://{sandbox.bucket}/{key}"


@pytest.mark.parametrize("put", [Sandbox.put_image, put_in_parts])
async def test_a_copy_of_the_video_at_another_key_stays(
    versioned: Sandbox, provider: Provider, new_run: OpenRun, put: Callable[[Sandbox, str, bytes], str]
) -> None:
    """The job becomes that of the other image with the same content: that costs nothing later and names one image."""
    jane = put_photo(versioned, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    copy = put(versioned, "images/copy.jpg", versioned.read(f"images/{NAME}.jpg"))
    await run_images(new_run, BatchRow(image=copy, prompt=PROMPT))

    erasure = await forget(new_run, jane, with_images=True)
    third = versioned.put_image("images/third.jpg", versioned.read("images/copy.jpg"))
    report = await run_images(new_run, *(BatchRow(image=one, prompt=PROMPT) for one in (copy, third)))

    assert [*erasure.erased[0].shared_with] == [copy]
    assert erasure.is_complete
    assert search_all_versions(versioned, {"name": NAME, "column": SKU}) == set()
    assert [item.outcome for item in report.items] == [Outcome.CACHED] * 2
    (record,) = job_records(versioned)
    assert (record.image.label, record.request.prompt) == (copy, PROMPT)
    assert sum(provider.billed().values()) == 1


@pytest.mark.parametrize("requests", [2, 8, 14, 20])
async def test_a_death_in_the_middle_is_finished_by_a_second_try(
    versioned: Sandbox, new_run: OpenRun, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a death at any request, the same command run again leaves nothing."""
    jane = put_photo(versioned, f"customer-jane-doe/{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    prefix = f"s3://{versioned.bucket}/images/customer-jane-doe/"
    async with new_run() as run:
        await run.heartbeat.end()
        selection = Selection(run.settings, S3Uri.parse(prefix))
        await search(run.ledger, selection)
        kill_after(run, requests)
        with pytest.raises(Died):
            await erase(run.ledger, selection, with_images=True)

    assert (await forget(new_run, prefix=prefix, with_images=True)).is_complete
    assert search_all_versions(versioned, WORDS) == set()


class Died(Exception):
    """The process dies here."""


def kill_after(run: RunContext, requests: int) -> None:
    """Let every request to S3 after so many fail as in a process that dies."""
    call, left = run.storage.call, requests

    async def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Died
        return await call(*arguments, **more)

    run.storage.call = counted  # type: ignore[method-assign]
