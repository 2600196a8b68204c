"""Tables in S3: what they sum to, and what becomes of them when exports race or fail and images are forgotten."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from i2v.erasure.records import forget as forget_record
from i2v.export import parquet
from i2v.export.places import S3Place, own_place, partition
from i2v.export.write import export_tables, rewrite_jobs, update_tables
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.ledger.transitions import store
from i2v.pipeline.submit import submit
from i2v.reports.spend import SpendReport, sum_spend
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.bucket_search import search_all_versions
from tests.support.erasing import NAME, PROMPT, SKU, forget, row_of, run_images
from tests.support.exported_tables import put_record, submitted
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.forked_command import forked_i2v
from tests.support.gallery_client import open_gallery
from tests.support.i2v_command import bare_env
from tests.support.job_records import FORGOTTEN_IMAGE, NOW, VIDEO, applied
from tests.support.orders import OpenRun, job_records, order_for, put_photo


def _today() -> date:
    return datetime.now(UTC).date()


def _etags(sandbox: Sandbox) -> dict[str, str]:
    keys = [key for key in sandbox.keys("jobs/tables/") if key.endswith(".parquet")]
    return {key: sandbox.s3().head_object(Bucket=sandbox.bucket, Key=key)["ETag"] for key in keys}


def _all_versions(sandbox: Sandbox) -> str:
    """Return the contents of all versions of all tables' files."""
    found, bucket = list[Any](), sandbox.bucket
    for page in sandbox.s3().get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix="jobs/tables/"):
        for one in page.get("Versions", ()):
            if one["Key"].endswith(".parquet"):
                got = sandbox.s3().get_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])
                found += pq.read_table(io.BytesIO(got["Body"].read())).to_pylist()
    assert found
    return str(found)


def _shown(report: SpendReport) -> Any:
    return report.for_json()["groups"], report.month, report.at_risk, str(report.totals)


async def test_the_spend_report_is_the_same_from_tables_and_from_records(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for jobs that changed after the export; only those are read. Without pyarrow all records are."""
    async with new_run() as run:
        storage, settings = run.storage, run.settings
        await run_images(new_run, row_of(put_photo(sandbox, "cats/a.jpg", 1)))
        provider.add_fault(on="submit", kind="lost_answer")
        await submit(run, await order_for(run, put_photo(sandbox, "dogs/b.jpg", 2), mode="pro"))
        await update_tables(storage, settings)
        await run_images(new_run, row_of(put_photo(sandbox, "c.jpg", 3)))
        with_tables = await sum_spend(storage, settings, days=1, client=run.client)
        monkeypatch.setattr(parquet, "find_spec", lambda _: None)
        await update_tables(storage, settings)
        without = await sum_spend(storage, settings, days=1, client=run.client)

    assert len(_etags(sandbox)) == 3
    assert _shown(with_tables) == _shown(without)
    assert with_tables.totals.total_usd == provider.billed_usd == Decimal("0.714")


async def test_the_spend_report_reads_few_records(
    sandbox: Sandbox, new_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of old jobs no record is read, only one file a day; a file that is damaged falls back to the records."""
    today = datetime.now(UTC)
    monkeypatch.setattr("i2v.export.state.SLACK", timedelta(0))
    async with new_run() as run:
        storage, settings = run.storage, run.settings
        days = (today.date() - submitted(1).attempts[0].claimed_at.date()).days
        for number in range(20):
            await put_record(storage, settings, submitted(number, days_later=days))
        await asyncio.sleep(1.1)  # S3's times are whole seconds
        await update_tables(storage, settings)
        read: list[str] = []
        original = Ledger.read

        async def noted(ledger: Ledger, key: str) -> VersionedRecord | None:
            read.append(key)
            return await original(ledger, key)

        monkeypatch.setattr(Ledger, "read", noted)
        report = await sum_spend(storage, settings, days=2)
        from_tables = list(read)
        await storage.put(own_place(storage, settings).prefix / partition("attempts", today.date()), b"damaged")
        fallback = await sum_spend(storage, settings, days=2)

    assert (from_tables, len(read)) == ([], 20)
    assert report.totals == fallback.totals
    assert report.totals.open_usd == 20 * Decimal("0.192")


async def test_exports_at_once_lose_no_row(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Four exports of one ledger write each row once; another one then writes nothing."""
    async with new_run() as run:
        for number in range(30):
            await put_record(run.storage, run.settings, submitted(number))
        place, first = own_place(run.storage, run.settings), submitted(0).attempts[0].claimed_at.date()
        await asyncio.gather(*(export_tables(run.ledger, place, first) for _ in range(4)))
        before = _etags(sandbox)
        result = await export_tables(run.ledger, place, first)

    (table,) = (pq.read_table(io.BytesIO(sandbox.read(key))) for key in before if "/attempts/" in key)
    assert sorted(table.column("job").to_pylist()) == [f"{number:064x}" for number in range(30)]
    assert (_etags(sandbox), result.written) == (before, {})


class _Overtaken(S3Place):
    """A place where another export writes the same day between this one's read and write."""

    overtake: Callable[[], Awaitable[object]] | None = None

    async def put(self, name: str, path: Path, version: str | None) -> None:
        """Let the other export go first, once."""
        if self.overtake and "attempts" in name:
            overtake, self.overtake = self.overtake, None
            await overtake()
        await super().put(name, path, version)


async def test_an_export_that_is_overtaken_merges_the_day_again(sandbox: Sandbox, new_run: OpenRun) -> None:
    """The other one wrote a job that this one had not seen: both are there, in attempts and in costs."""
    async with new_run() as run:
        storage, settings, first = run.storage, run.settings, submitted(0).attempts[0].claimed_at.date()
        await put_record(storage, settings, submitted(0))
        await export_tables(run.ledger, own_place(storage, settings), first)
        await put_record(storage, settings, submitted(1))
        place = _Overtaken(storage, own_place(storage, settings).prefix)

        async def overtake() -> None:
            await put_record(storage, settings, submitted(2))
            await export_tables(run.ledger, own_place(storage, settings), first)

        place.overtake = overtake
        result = await export_tables(run.ledger, place, first)

    tables = {key.split("/")[2]: pq.read_table(io.BytesIO(sandbox.read(key))) for key in _etags(sandbox)}
    rows = {name: table.num_rows for name, table in tables.items()}
    assert (result.records, rows) == (2, {"attempts": 3, "costs": 3})


async def test_an_export_at_work_brings_no_forgotten_image_back(sandbox: Sandbox, new_run: OpenRun) -> None:
    """It has read the record before, and its day is new: the rows that forget wrote meanwhile stay."""
    async with new_run() as run:
        storage, settings, first = run.storage, run.settings, submitted(0).attempts[0].claimed_at.date()
        await export_tables(run.ledger, own_place(storage, settings), first)
        jane = applied(store(submitted(1), "task_a", VIDEO, NOW))
        await put_record(storage, settings, jane)
        place = _Overtaken(storage, own_place(storage, settings).prefix)

        async def overtake() -> None:
            await put_record(storage, settings, applied(forget_record(jane, FORGOTTEN_IMAGE, NOW)))
            await rewrite_jobs(run.ledger, own_place(storage, settings), [jane.key])

        place.overtake = overtake
        result = await export_tables(run.ledger, place, first)

    assert result.records == 1
    assert "a.jpg" not in _all_versions(sandbox)


@pytest.mark.parametrize("written", ["attempts", "costs", "_export.json"])
async def test_an_export_that_fails_is_repeated(
    sandbox: Sandbox, s3_proxy: FaultProxy, new_run: OpenRun, written: str
) -> None:
    """S3 fails at any of its writes: the next export writes what is missing, once."""
    async with new_run() as run:
        await put_record(run.storage, run.settings, submitted(1))
        place, first = own_place(run.storage, run.settings), submitted(1).attempts[0].claimed_at.date()
        s3_proxy.add(FaultRule("fail", "PUT", rf"/jobs/tables/{written}", status=403, code="AccessDenied", times=None))
        await update_tables(run.storage, run.settings)
        s3_proxy.reset()
        await export_tables(run.ledger, place, first)

    assert {key.split("/")[2] for key in sandbox.keys("jobs/tables/")} == {"_export.json", "attempts", "costs"}
    assert len(_etags(sandbox)) == 2


async def test_forget_leaves_nothing_in_any_version(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, settings: Settings
) -> None:
    """Name and custom columns are in no version of any object, no table and no page of the gallery; the books agree."""
    sandbox.s3().put_bucket_versioning(Bucket=sandbox.bucket, VersioningConfiguration={"Status": "Enabled"})
    published = settings.model_copy(update={"publish_as": "published/{stem}.mp4"})
    jane = put_photo(sandbox, f"{NAME}.jpg")
    rows = row_of(jane), row_of(put_photo(sandbox, "other.jpg", 2), sku="other")
    await run_images(new_run, *rows, publish_as=published.publish_as)
    async with new_run() as run:
        await export_tables(run.ledger, own_place(run.storage, run.settings), _today())
        before = await sum_spend(run.storage, run.settings, days=1)
        held = _all_versions(sandbox)
    async with open_gallery(published) as gallery:
        shown = await gallery.get(f"/gallery?column=sku={SKU}")
        erasure = await forget(new_run, jane, with_images=True, publish_as=published.publish_as)
        pages = [(await gallery.get(path)).text for path in ("/gallery", f"/gallery?column=sku={SKU}")]
    async with new_run() as run:
        after = await sum_spend(run.storage, run.settings, days=1)
        await export_tables(run.ledger, own_place(run.storage, run.settings), _today())

    assert (erasure.left, NAME in held, PROMPT in held, SKU in held, NAME in shown.text) == ([], True, True, True, True)
    left = _all_versions(sandbox)
    assert (NAME in left, SKU in left, "other.jpg" in left) == (False, False, True)
    assert search_all_versions(sandbox, {"name": NAME, "column": SKU}) == set()
    assert (NAME in pages[0], "other.jpg" in pages[0], NAME in pages[1]) == (False, True, False)
    assert before.totals == after.totals
    assert after.totals.total_usd == provider.billed_usd == sum(record.cost_usd for record in job_records(sandbox))


async def test_forget_names_the_tables_that_it_cannot_write(
    sandbox: Sandbox, new_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pyarrow the tables are left, with what to do; all else goes, and the same command ends it later."""
    jane = put_photo(sandbox, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    async with new_run() as run:
        await export_tables(run.ledger, own_place(run.storage, run.settings), _today())
    with monkeypatch.context() as context:
        context.setattr(parquet, "find_spec", lambda _: None)
        first = await forget(new_run, jane)
    second = await forget(new_run, jane)

    assert [(one.uri.key, "pip install pyarrow" in one.why) for one in first.left] == [("jobs/tables/", True)]
    assert (sandbox.keys("videos/"), second.left) == ([], [])


async def test_the_command_writes_to_a_folder_and_to_s3(sandbox: Sandbox, new_run: OpenRun, tmp_path: Path) -> None:
    """It says what it wrote; a second call writes nothing; a wrong place ends with exit code 2."""
    await run_images(new_run, row_of(put_photo(sandbox, "a.jpg")))
    env = bare_env(**sandbox.env)

    shown = forked_i2v("export", "--since", "2d", "--out", str(tmp_path), env=env)
    own = forked_i2v("export", "--json", env=env)
    again = forked_i2v("export", "--json", env=env)
    wrong = forked_i2v("export", "--out", f"s3://{sandbox.bucket}/jobs/", env=env)

    assert (shown.code, "1 changed job record read, 3 files written" in shown.out) == (0, True), shown
    assert (tmp_path / partition("videos", _today())).exists()
    assert own.report["place"] == f"s3://{sandbox.bucket}/jobs/tables/"
    assert [one["rows"] for one in own.report["written"]] == [1, 1, 1]
    assert (again.code, again.report["written"]) == (0, [])
    assert (wrong.code, "overlaps the jobs prefix" in wrong.err) == (2, True), wrong
