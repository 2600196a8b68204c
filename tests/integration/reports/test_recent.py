"""Recent results: the pages that the gallery reads, newest run first, and a run's rows as JSON Lines."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.keys import descending_timestamp
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.reports.recent import RecentPage, list_recent_pages, read_recent_page
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.orders import OpenRun, put_photo

OPTIONS = RequestOptions.model_validate({"prompt": "a slow zoom"})


async def _generate(run: RunContext, *names: str) -> None:
    bucket = run.settings.bucket
    items = await find_items([f"s3://{bucket}/images/{name}" for name in names], run.storage, run.settings)
    await generate(run, items, OPTIONS, Steps())


async def _read_pages(run: RunContext, after: str = "") -> list[RecentPage]:
    names = list_recent_pages(run.storage, run.settings, after=after)
    pages = [await read_recent_page(run.storage, run.settings, name) async for name in names]
    return [page for page in pages if page]


async def test_recent_pages_come_newest_run_first(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Each run has one page with new results; cached images stay on their older page."""
    put_photo(sandbox, "tom.jpg")
    put_photo(sandbox, "ann.jpg", seed=2)
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    async with new_run(run_id="first") as run:
        await _generate(run, "tom.jpg", "small.jpg")
    between = datetime.now(UTC)
    async with new_run(run_id="second") as run:
        await _generate(run, "tom.jpg", "ann.jpg")
        pages = await _read_pages(run)
        older = [page.run_id for page in await _read_pages(run, after=descending_timestamp(between))]

    assert [page.run_id for page in pages] == ["second", "first"]
    assert older == ["first"]
    [ann] = pages[0].items
    assert (ann.image, ann.outcome, ann.mode, ann.duration) == (
        f"s3://{sandbox.bucket}/images/ann.jpg",
        Outcome.STORED,
        "standard",
        6,
    )
    assert {item.outcome for item in pages[1].items} == {Outcome.STORED, Outcome.REFUSED}


async def test_an_image_refused_before_is_not_recent_again(sandbox: Sandbox, new_run: OpenRun) -> None:
    """An image that is cached again is in the report and not on the new page."""
    put_photo(sandbox, "nsfw.jpg")
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    sandbox.provider.add_fault(on="task", kind="fails", code="NSFW")
    for run_id in ("first", "second"):
        async with new_run(run_id=run_id) as run:
            await _generate(run, "nsfw.jpg", "small.jpg")
            pages = await _read_pages(run)

    assert sandbox.read_json("jobs/runs/second.json")["report"]["refused"] == 2
    assert [(page.run_id, len(page.items)) for page in pages] == [("first", 2)]


async def test_a_retried_run_keeps_the_results_of_its_first_try(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A flow run that is started again adds to its page."""
    for seed, name in enumerate(("tom.jpg", "ann.jpg")):
        put_photo(sandbox, name, seed=seed)
        async with new_run(run_id="one") as run:
            await _generate(run, name)
            pages = await _read_pages(run)

    assert [[item.image.rpartition("/")[2] for item in page.items] for page in pages] == [["tom.jpg", "ann.jpg"]]


async def test_an_unreadable_page_is_skipped(sandbox: Sandbox, new_run: OpenRun) -> None:
    """A page that cannot be read does not hide the other pages."""
    put_photo(sandbox)
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key="jobs/recent/0000000000000-x.json", Body=b"{")
    async with new_run(run_id="one") as run:
        await _generate(run, "tom.jpg")
        pages = [page.run_id for page in await _read_pages(run)]
    assert pages == ["one"]


async def test_a_run_writes_one_row_per_image(sandbox: Sandbox, new_run: OpenRun) -> None:
    """Beside the report is a JSON Lines file with image, prompt, video, cost and SHA-256."""
    put_photo(sandbox, "tom.jpg")
    sandbox.put_image("images/small.jpg", make_jpeg(200, 200))
    async with new_run(run_id="one") as run:
        await _generate(run, "tom.jpg", "small.jpg")

    rows = [json.loads(line) for line in sandbox.read("jobs/runs/one.jsonl").splitlines()]
    stored, refused = rows
    assert (stored["prompt"], stored["cost_usd"], stored["outcome"]) == ("a slow zoom", 0.192, "stored")
    video = sandbox.read(stored["video"].removeprefix(f"s3://{sandbox.bucket}/"))
    assert stored["sha256"] == hashlib.sha256(video).hexdigest()
    assert (refused["outcome"], refused["video"], refused["prompt"]) == ("refused", None, "a slow zoom")
    assert "300" in refused["reason"]
