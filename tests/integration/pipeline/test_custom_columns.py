"""Custom columns of images: they reach every output, and change no job."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.recovery.backfill import BackfillOptions, reconcile_and_backfill
from i2v.reports.recent import list_recent_pages, read_recent_page
from i2v.reports.run_report import Outcome, Report
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.orders import OpenRun, put_photo

DEFAULT = RequestOptions(prompt="it moves")
ALL = BackfillOptions(datetime(2000, 1, 1, tzinfo=UTC), DEFAULT, settling=timedelta(seconds=-2))
"""No image is too young: S3's Date has whole seconds, but listings may have fractions."""
SPRING, AUTUMN = {"sku": "A-1", "campaign": "spring"}, {"sku": "A-2", "campaign": "<b>autumn</b>"}


async def run_rows(run: RunContext, sandbox: Sandbox, *rows: dict[str, Any]) -> Report:
    """Put a batch file of these rows and run it."""
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    uri = sandbox.put_image("batches/rows.jsonl", lines.encode())
    report, _ = await generate(run, await find_items(uri, run.storage, run.settings), DEFAULT, Steps())
    return report


def manifest(sandbox: Sandbox, folder: str) -> dict[str, Any]:
    """Return the one manifest in a folder of the videos prefix."""
    [key] = [key for key in sandbox.keys(f"videos/{folder}/") if key.endswith(".json")]
    value: dict[str, Any] = sandbox.read_json(key)
    return value


async def test_columns_reach_every_output_of_a_run(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Record, manifest, report, JSON lines and the gallery's page have the columns of each row."""
    photos = [put_photo(sandbox, f"{name}.jpg", seed=seed) for seed, name in enumerate("abc")]
    sandbox.provider.add_fault(on="task", kind="fails", code="Weird", message="it broke", prompt="it breaks")
    async with new_run(run_id="one") as run:
        report = await run_rows(
            run,
            sandbox,
            {"image": photos[0], **SPRING},
            {"image": photos[1], **AUTUMN, "prompt": "it breaks"},
            {"image": photos[2], "sku": 3, "prompt": "\0"},
        )
        [page] = [name async for name in list_recent_pages(run.storage, run.settings)]
        recent = await read_recent_page(run.storage, run.settings, page)

    extras = [SPRING, AUTUMN, {"sku": "3"}]
    assert [item.outcome for item in report.items] == [Outcome.STORED, Outcome.FAILED, Outcome.REFUSED]
    assert [dict(item.extra) for item in report.items] == extras
    assert [sandbox.read_json(f"jobs/{item.job}.json")["extra"] for item in report.items[:2]] == extras[:2]
    assert [manifest(sandbox, name)["extra"] for name in ("a.jpg", "b.jpg")] == extras[:2]
    rows = sandbox.s3().get_object(Bucket=sandbox.bucket, Key="jobs/runs/one.jsonl")["Body"].read().splitlines()
    assert [json.loads(row)["extra"] for row in rows] == extras
    assert [item["extra"] for item in sandbox.read_json("jobs/runs/one.json")["report"]["items"]] == extras
    assert recent
    assert sorted(item.extra.get("sku", "") for item in recent.items) == ["3", "A-1", "A-2"]


async def test_other_columns_are_the_same_job(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A cached run has its custom columns in report and manifest; the record keeps those of the run that paid."""
    photo = put_photo(sandbox, "a.jpg")
    async with new_run() as run:
        first = await run_rows(run, sandbox, {"image": photo, **SPRING})
    async with new_run() as run:
        second = await run_rows(run, sandbox, {"image": photo, **AUTUMN})
    async with new_run() as run:
        third = await run_rows(run, sandbox, {"image": photo})

    [one, two, three] = [report.items[0] for report in (first, second, third)]
    assert one.job == two.job == three.job
    assert [item.outcome for item in (two, three)] == [Outcome.CACHED] * 2
    assert [dict(item.extra) for item in (one, two, three)] == [SPRING, AUTUMN, {}]
    assert manifest(sandbox, "a.jpg")["extra"] == AUTUMN
    assert manifest(sandbox, "a.jpg")["task_id"] == one.task_id
    assert sandbox.read_json(f"jobs/{one.job}.json")["extra"] == SPRING
    assert sandbox.provider.billed_usd == Decimal("0.192")


async def test_rows_that_differ_in_columns_alone_are_paid_once(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Each row has its line in the report, so that every SKU is found there."""
    photo = put_photo(sandbox, "a.jpg")
    async with new_run() as run:
        report = await run_rows(run, sandbox, {"image": photo, **SPRING}, {"image": photo, **AUTUMN})

    assert [dict(item.extra) for item in report.items] == [SPRING, AUTUMN]
    assert len({item.job for item in report.items}) == 1
    assert sandbox.provider.billed_usd == Decimal("0.192")


async def test_metadata_has_custom_columns_too(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Named by an event, listed by a prefix or found by reconcile, an object's metadata counts; a row's is added."""
    for seed, name in enumerate(("event", "listed", "missing", "row", "bad")):
        columns = {"i2v-job": "1"} if name == "bad" else {"i2v-sku": "=?utf-8?q?=C3=A4?=", "i2v-campaign": name}
        sandbox.put_image(f"images/{name}/a.jpg", make_jpeg(400, 400, seed=seed), **columns)
    base = f"s3://{sandbox.bucket}/images"
    async with new_run() as run:
        images = [f"{base}/event/a.jpg", f"{base}/listed/", f"{base}/bad/"]
        report, _ = await generate(run, await find_items(images, run.storage, run.settings), DEFAULT, Steps())
        row = await run_rows(run, sandbox, {"image": f"{base}/row/a.jpg", "campaign": "row's own", "colour": "red"})
    async with new_run() as run:
        result = await reconcile_and_backfill(run, ALL)

    assert [item.extra.get("campaign") for item in report.items] == ["event", "listed", None]
    assert {item.extra["sku"] for item in report.items[:2]} == {"ä"}
    assert report.items[2].outcome is Outcome.REFUSED
    assert "column 'job': this name is reserved" in (report.items[2].reason or "")
    assert row.items[0].extra == {"sku": "ä", "campaign": "row's own", "colour": "red"}
    assert [item.extra.get("campaign") for item in result.report.items if item.video] == ["missing"], result


@pytest.mark.parametrize("fields", [{}, {"extra": {}}])
async def test_records_without_columns_are_read(sandbox: Sandbox, new_run: OpenRun, fields: dict[str, object]) -> None:
    """A record that an older i2v wrote has no `extra`, and is read and changed as before."""
    photo = put_photo(sandbox, "a.jpg")
    async with new_run() as run:
        first = await run_rows(run, sandbox, {"image": photo, **SPRING})
        key = f"jobs/{first.items[0].job}.json"
        record = sandbox.read_json(key)
        del record["extra"]
        sandbox.put_image(key, json.dumps({**record, **fields}).encode())
    async with new_run() as run:
        second = await run_rows(run, sandbox, {"image": photo, **AUTUMN})

    assert second.items[0].outcome is Outcome.CACHED
    assert dict(second.items[0].extra) == AUTUMN
