"""What `i2v forget` cannot erase is named, stops nothing else, and is erased later."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from i2v.errors import Refused
from i2v.export.write import update_tables
from i2v.pipeline.submit import submit
from i2v.s3.versions import LOCKED
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.bucket_search import search_all_versions
from tests.support.erasing import NAME, PROMPT, SKU, WORDS, forget, row_of, run_images
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import bare_env
from tests.support.orders import OpenRun, job_records, order_for, put_photo


async def test_a_locked_object_is_named_and_all_else_goes(versioned: Sandbox, new_run: OpenRun) -> None:
    """A legal hold keeps one poster; once it is lifted, the same command erases it."""
    s3, bucket = versioned.s3(), versioned.bucket
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    jane = put_photo(versioned, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    (poster,) = (key for key in versioned.keys("videos/") if key.endswith(".jpg"))
    s3.put_object_legal_hold(Bucket=bucket, Key=poster, LegalHold={"Status": "ON"})

    first = await forget(new_run, jane, with_images=True)
    found = search_all_versions(versioned, {"prompt": PROMPT, "column": SKU})
    left = versioned.keys("videos/")
    s3.put_object_legal_hold(Bucket=bucket, Key=poster, LegalHold={"Status": "OFF"})
    second = await forget(new_run, jane, with_images=True)

    assert [(one.uri.key, one.why) for one in first.left] == [(poster, LOCKED)]
    assert (found, left, second.is_complete) == (set(), [poster], True)
    assert search_all_versions(versioned, {"name": NAME}) == set()


async def test_without_the_right_to_list_versions_the_newest_go(
    sandbox: Sandbox, s3_proxy: FaultProxy, new_run: OpenRun
) -> None:
    """What may be left is named with the permission; the objects themselves are gone."""
    jane = put_photo(sandbox, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    s3_proxy.add(FaultRule("fail", "GET", r"[?&]versions", status=403, code="AccessDenied", times=None))

    erasure = await forget(new_run, jane, with_images=True)

    assert {"s3:ListBucketVersions" in one.why for one in erasure.left} == {True}
    assert sandbox.keys("videos/") + sandbox.keys("images/") == []


async def test_a_server_without_versions_is_cleaned_too(
    sandbox: Sandbox, s3_proxy: FaultProxy, new_run: OpenRun
) -> None:
    """501 for versions and for DeleteObjects means that there is one version, and that objects go one by one."""
    jane = put_photo(sandbox, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    s3_proxy.add(FaultRule("fail", "GET", r"[?&]versions", status=501, code="NotImplemented", times=None))
    s3_proxy.add(FaultRule("fail", "POST", r"[?&]delete", status=501, code="NotImplemented", times=None))

    erasure = await forget(new_run, jane, with_images=True)

    assert erasure.is_complete, erasure.left
    assert search_all_versions(sandbox, {"name": NAME, "prompt": PROMPT, "column": SKU}) == set()


async def test_a_run_at_work_pays_nothing_for_an_image_that_is_forgotten_meanwhile(
    versioned: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The run has validated the image and is refused right before its claim, also if a person named it before.

    Its report is named as what may follow.
    """
    jane = put_photo(versioned, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    async with new_run(run_id="at-work") as run:
        order = await order_for(run, jane, "another prompt")
        erasure = await forget(new_run, jane)
        for one in (order, replace(order, by_name=True)):
            with pytest.raises(Refused, match="was erased on"):
                await submit(run, one)

    assert [one.uri.key for one in erasure.left] == ["jobs/runs/at-work.json"]
    assert sum(provider.billed().values()) == 1
    assert (await forget(new_run, jane)).is_complete


async def test_published_copies_go_too(versioned: Sandbox, new_run: OpenRun) -> None:
    """Video, poster and manifest under the chosen name, in all versions; another image's stay and name it no more.

    A run that died while it published has left no manifest.
    """
    jane = put_photo(versioned, f"customer-jane-doe/{NAME}.jpg")
    copy = versioned.put_image("images/copy.jpg", versioned.read(f"images/customer-jane-doe/{NAME}.jpg"))
    publish: dict[str, Any] = {"publish_as": "published/{folder}{stem}.mp4"}
    await run_images(new_run, row_of(jane), **publish)
    await run_images(new_run, row_of(jane, take=2), **publish)
    await run_images(new_run, row_of(copy, sku="another"), **publish)
    before = versioned.keys("published/")
    versioned.s3().delete_object(Bucket=versioned.bucket, Key=f"published/customer-jane-doe/{NAME}.json")

    erasure = await forget(new_run, jane, with_images=True, **publish)

    assert erasure.is_complete, erasure.left
    assert len(before) == 6
    assert versioned.keys("published/") == [f"published/copy.{ending}" for ending in ("jpg", "json", "mp4")]
    assert search_all_versions(versioned, {name: WORDS[name] for name in ("name", "column", "folder")}) == set()


async def test_an_image_given_by_url_goes_with_its_copy(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Its bytes beside the ledger, its outputs and its lines are gone; a typing error in the address erases nothing."""
    photo = put_photo(sandbox, f"{NAME}.jpg")
    url = sandbox.presign(photo)
    label = url.partition("?")[0]
    report = await run_images(new_run, row_of(url))
    copies = sandbox.keys("jobs/inputs/")
    sandbox.s3().delete_object(Bucket=sandbox.bucket, Key=f"images/{NAME}.jpg")

    erasure = await forget(new_run, label)

    assert report.items[0].outcome == "stored", report.items
    assert len(copies) == 1
    assert erasure.is_complete
    assert sandbox.keys("jobs/inputs/") + sandbox.keys("videos/") == []
    assert search_all_versions(sandbox, {"name": NAME, "prompt": PROMPT, "column": SKU}) == set()


async def test_the_copy_of_an_image_that_was_never_paid_goes_too(sandbox: Sandbox, new_run: OpenRun) -> None:
    """The run could not afford it: there is no job, and the copy's name is the hash of bytes that i2v no longer has."""
    url = sandbox.presign(put_photo(sandbox, f"{NAME}.jpg"))
    report = await run_images(new_run, row_of(url), max_spend_usd=Decimal("0.01"))
    copies = sandbox.keys("jobs/inputs/")

    erasure = await forget(new_run, url.partition("?")[0])

    assert (report.items[0].outcome, len(copies), job_records(sandbox)) == ("not_tried", 1, [])
    assert erasure.is_complete
    assert sandbox.keys("jobs/inputs/") == []


async def test_an_image_that_cannot_be_marked_is_left_as_it_is(
    sandbox: Sandbox, s3_proxy: FaultProxy, new_run: OpenRun
) -> None:
    """Without its marker a run could make it again meanwhile, so that nothing of it is deleted."""
    jane = put_photo(sandbox, f"{NAME}.jpg")
    await run_images(new_run, row_of(jane))
    before = sandbox.keys("videos/")
    s3_proxy.add(FaultRule("fail", "PUT", r"/jobs/forgotten/", status=403, code="AccessDenied", times=None))

    erasure = await forget(new_run, jane)

    assert "S3 denied PutObject" in erasure.refused[jane]
    assert (erasure.erased, sandbox.keys("videos/")) == ([], before)


async def test_the_command_shows_first_and_asks(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A dry run lists what would go; without --yes and a terminal nothing happens; with it the rest is named."""
    jane, env = put_photo(sandbox, f"{NAME}.jpg"), bare_env(**sandbox.env)
    await run_images(new_run, row_of(jane))
    async with new_run() as run:
        await submit(run, await order_for(run, put_photo(sandbox, "open.jpg", seed=2)))
        await update_tables(run.storage, run.settings)
    before = sandbox.keys()

    unfinished = forked_i2v("forget", f"s3://{sandbox.bucket}/images/open.jpg", "--dry-run", env=env)
    shown = forked_i2v("forget", jane, "--dry-run", env=env)
    unconfirmed = forked_i2v("forget", jane, env=env)
    unknown = forked_i2v("forget", f"{jane}2", "--yes", env=env)
    bucket = forked_i2v("forget", "--prefix", f"s3://{sandbox.bucket}/", env=env)
    unchanged = sandbox.keys()
    done = forked_i2v("forget", jane, "--yes", "--json", env=env)
    listed = forked_i2v("jobs", env=env)

    assert (shown.code, "1 job record" in shown.out, ".mp4" in shown.out) == (0, True, True), shown
    assert "not reached: the provider's copies" in shown.out
    assert f"and their rows in the tables in s3://{sandbox.bucket}/jobs/tables/" in shown.out
    assert (unfinished.code, "Store its video first" in unfinished.out) == (0, True), unfinished
    assert (unconfirmed.code, "Add --yes" in unconfirmed.err) == (2, True), unconfirmed
    assert (unknown.code, "Nothing is known of" in unknown.err) == (2, True), unknown
    assert (bucket.code, "is not a prefix that ends in /" in bucket.err) == (2, True), bucket
    assert unchanged == before
    assert (done.code, done.report["left"], len(done.report["images"])) == (0, [], 1), done
    assert "1 forgotten" in listed.out
    assert NAME not in listed.out
