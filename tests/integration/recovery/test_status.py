"""The status page of a real ledger: jobs in progress, jobs that need attention, and a bounded number of requests."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from markdown_it import MarkdownIt

from i2v.clock import today_utc
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem, find_items
from i2v.ledger.day_spend import DaySpendStore
from i2v.ledger.ledger import Ledger
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import ImageDone
from i2v.pipeline.generate import Steps, generate, process_order
from i2v.pipeline.submit import submit
from i2v.recovery.resolve_by_hand import Resolver
from i2v.recovery.status import read_status, status_page
from i2v.reports.markdown import as_text
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.s3_requests import counted

HOSTILE = "a|b ![x](http:evil) <i> # c.jpg"


def section(page: str, heading: str) -> str:
    """Return the text below a heading."""
    return page.split(f"### {heading}", 1)[1].split("###", 1)[0]


async def test_the_page_lists_open_jobs_and_what_needs_attention(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Unknown, failed and overdue jobs each have a command, and jobs at the provider have their start time."""
    async with new_run() as run:
        await process_order(run, await order_for(run, put_photo(sandbox, "stored.jpg", 1)), Steps())
        provider.add_fault(on="task", kind="fails", code="Weird", message="it broke")
        line = await process_order(run, await order_for(run, put_photo(sandbox, "failed.jpg", 2)), Steps())
        run.emit(ImageDone(line))
        provider.add_fault(on="submit", kind="lost_answer")
        lost = await submit(run, await order_for(run, put_photo(sandbox, HOSTILE, 3), mode="pro"))
        provider.set_options(render_seconds=600)
        await submit(run, await order_for(run, put_photo(sandbox, "rendering.jpg", 4)))
        old = await submit(run, await order_for(run, put_photo(sandbox, "old.jpg", 5)))
    record = old.record
    [attempt] = record.attempts
    claimed = datetime.now(UTC) - timedelta(days=3)
    aged = record.model_copy(update={"attempts": (attempt.model_copy(update={"claimed_at": claimed}),)})
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{record.key}.json", Body=aged.model_dump_json().encode())

    async with new_run() as run:
        status = await read_status(run)
        page = status_page(status)

    open_jobs, attention = section(page, "Open jobs"), section(page, "Needs attention")
    [row] = [line for line in open_jobs.splitlines() if line.startswith("| 20")]
    assert "rendering.jpg" in row
    assert "submitted" in row
    entries = {match[1]: entry for entry in attention.split("\n- ")[1:] if (match := re.match(r"\*\*(.*?)\*\*", entry))}
    commands = {problem: re.findall("`(.*?)`", entry)[0] for problem, entry in entries.items()}
    assert commands == {
        "unknown": f"i2v jobs resolve {lost.record.key[:12]} --adopt TASKID",
        "open too long": f"i2v jobs show {record.key[:12]}",
        "failed": commands["failed"],
    }
    assert re.fullmatch("i2v jobs resolve [0-9a-f]{12} --resubmit", commands["failed"])
    assert "it broke" in entries["failed"]
    assert f"since {claimed:%Y-%m-%d %H:%M}" in entries["open too long"]
    assert status.summary.startswith("3 need attention · 1 open since 20")
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert [html.count(tag) for tag in ("<img", "<i>", "<a ", "<li>")] == [0, 0, 0, 3]
    assert "a|b ![x](http:evil) &lt;i&gt; # c.jpg" in html


async def test_unverified_videos_and_missing_prompts_are_named(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A video that could not be verified is listed until a person keeps it; images without a prompt are counted."""
    provider.add_fault(on="file", kind="truncated", times=None)
    put_photo(sandbox, "damaged.jpg", 1)
    async with new_run() as run:
        await generate(run, await find_all(run), RequestOptions(prompt="x"), Steps())
    put_photo(sandbox, "silent.jpg", 2)
    async with new_run() as run:
        [silent] = [item for item in await find_all(run) if "silent" in item.ref.label]
        await generate(run, [silent], RequestOptions(), Steps())
    async with new_run() as run:
        before, page = await read_status(run), status_page(await read_status(run))
        [key] = [record.key async for record in run.ledger.records()]
        await Resolver(run.storage, run.settings).keep(key)
        after = await read_status(run)

    assert [entry.what for entry in before.needs_attention] == ["unverified"]
    assert f"i2v jobs resolve {key[:12]} --keep" in page
    assert (before.without_prompt, "no prompt: 1.** Set `I2V_DEFAULT_PROMPT`" in page) == (1, True)
    assert after.needs_attention == []


async def find_all(run: RunContext) -> list[InputItem]:
    """Return the images of the bucket."""
    return await find_items(str(run.settings.images), run.storage, run.settings)


async def test_a_resolved_job_is_no_longer_listed(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A resolved job needs no attention, and the page has the ledger's spend, cap and pause."""
    async with new_run() as run:
        provider.add_fault(on="task", kind="fails", code="Weird", message="it broke")
        line = await process_order(run, await order_for(run, put_photo(sandbox, "failed.jpg", 2)), Steps())
        run.emit(ImageDone(line))
    async with new_run() as run:
        before = await read_status(run)
        [key] = [match[1] for name in sandbox.keys("jobs/") if (match := re.fullmatch(r"jobs/(\w{64})\.json", name))]
        await Resolver(run.storage, run.settings).resubmit(key)
        await Ledger(run.storage, run.settings).info.set_paused(True)
        day = (await DaySpendStore(run.storage, run.settings).read(today_utc())).content
        run.settings = run.settings.model_copy(update={"daily_cap_usd": Decimal(20)})
        after = await read_status(run)
    assert (len(before.needs_attention), before.is_paused, before.today_usd) == (1, False, Decimal("0.192"))
    assert (after.needs_attention, after.is_paused, after.today_usd) == ([], True, day.total_usd)
    assert after.summary == "submits are paused · $0.192 today"
    page = status_page(after)
    assert f"{as_text('$0.192', 20)} spent" in page
    assert f"of {as_text('$20.00', 20)}" in page
    assert "`i2v resume`" in page


async def test_an_empty_ledger_is_all_clear(new_run: OpenRun) -> None:
    """An empty ledger has no open jobs and nothing that needs attention."""
    async with new_run() as run:
        status = await read_status(run)
    assert status.summary == "all clear · $0.00 today"
    page = status_page(status)
    assert (page.count("Nothing."), "No action needed" in page) == (2, False)


async def test_the_page_reads_a_bounded_number_of_jobs(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many open jobs only the oldest are read, and the page says how many more there are."""
    monkeypatch.setattr("i2v.recovery.status.MOST_OPEN", 3)
    provider.set_options(render_seconds=600)
    async with new_run() as run:
        for seed in range(9):
            await submit(run, await order_for(run, put_photo(sandbox, f"{seed}.jpg", seed)))
        requests = counted(run.storage)
        status = await read_status(run)
    assert (len(status.waiting), status.markers) == (3, 9)
    assert "… and 6 more: `i2v jobs --state submitted`" in status_page(status)
    assert requests["ListObjectsV2"] == 2
    # Two documents and three records, and up to two requests of the run itself.
    assert 5 <= requests["GetObject"] <= 2 + 3 + 2
