"""How things stand, from a real ledger: what waits since when, and what needs a person, at a bounded cost."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from markdown_it import MarkdownIt

from i2v.ledger.budget import DailySpendStore, today_utc
from i2v.ledger.ledger import Ledger
from i2v.pipeline.events import ImageDone
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.submit import submit
from i2v.recovery.resolve import Resolver
from i2v.recovery.status import read_status, status_page
from i2v.reports.markdown import as_text
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.s3_requests import counted

HOSTILE = "a|b ![x](http:evil) <i> # c.jpg"


def section(page: str, heading: str) -> str:
    """What stands below a heading."""
    return page.split(f"### {heading}", 1)[1].split("###", 1)[0]


async def test_the_page_tells_what_waits_and_what_needs_a_person(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Lost, failed and long open jobs stand there with a command, those at the provider with their time, no others."""
    async with new_run() as run:
        await process_order(run, await order_for(run, put_photo(sandbox, "stored.jpg", 1)), Steps())
        provider.add_fault(on="task", kind="fails", code="Weird", message="it broke")
        line = await process_order(run, await order_for(run, put_photo(sandbox, "failed.jpg", 2)), Steps())
        run.emit(ImageDone(line))
        provider.add_fault(on="submit", kind="lost_answer")
        lost = await submit(run, await order_for(run, put_photo(sandbox, HOSTILE, 3), mode="pro"))
        provider.set_options(render_seconds=600)
        await submit(run, await order_for(run, put_photo(sandbox, "waits.jpg", 4)))
        old = await submit(run, await order_for(run, put_photo(sandbox, "old.jpg", 5)))
    record = old.record
    [attempt] = record.attempts
    claimed = datetime.now(UTC) - timedelta(days=3)
    aged = record.model_copy(update={"attempts": (attempt.model_copy(update={"claimed_at": claimed}),)})
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/{record.key}.json", Body=aged.model_dump_json().encode())

    async with new_run() as run:
        status = await read_status(run)
        page = status_page(status)

    waits, needs = section(page, "In progress"), section(page, "Needs attention")
    [row] = [line for line in waits.splitlines() if line.startswith("| 20")]
    assert "waits.jpg" in row
    assert "at the provider" in row
    told = {match[1]: each for each in needs.split("\n- ")[1:] if (match := re.match(r"\*\*(.*?)\*\*", each))}
    commands = {what: re.findall("`(.*?)`", each)[0] for what, each in told.items()}
    assert commands == {
        "unknown": f"i2v jobs resolve {lost.record.key[:12]} --adopt TASKID",
        "open too long": f"i2v jobs show {record.key[:12]}",
        "failed": commands["failed"],
    }
    assert re.fullmatch("i2v jobs resolve [0-9a-f]{12} --resubmit", commands["failed"])
    assert "it broke" in told["failed"]
    assert f"since {claimed:%Y-%m-%d %H:%M}" in told["open too long"]
    assert status.summary.startswith("3 need attention · 1 in progress since 20")
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert [html.count(tag) for tag in ("<img", "<i>", "<a ", "<li>")] == [0, 0, 0, 3]
    assert "a|b ![x](http:evil) &lt;i&gt; # c.jpg" in html


async def test_what_was_settled_is_gone_from_it(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Who types the command does not find the job there again; money, cap and pause are those of the ledger."""
    async with new_run() as run:
        provider.add_fault(on="task", kind="fails", code="Weird", message="it broke")
        line = await process_order(run, await order_for(run, put_photo(sandbox, "failed.jpg", 2)), Steps())
        run.emit(ImageDone(line))
    async with new_run() as run:
        before = await read_status(run)
        [key] = [match[1] for name in sandbox.keys("jobs/") if (match := re.fullmatch(r"jobs/(\w{64})\.json", name))]
        await Resolver(run.storage, run.settings).resubmit(key)
        await Ledger(run.storage, run.settings).set_paused(True)
        day, _ = await DailySpendStore(run.storage, run.settings).read(today_utc())
        run.settings = run.settings.model_copy(update={"daily_cap_usd": Decimal(20)})
        after = await read_status(run)
    assert (len(before.needs_attention), before.is_paused, before.today_usd) == (1, False, Decimal("0.192"))
    assert (after.needs_attention, after.is_paused, after.today_usd) == ([], True, day.total_usd)
    assert after.summary == "submits are paused · $0.192 today"
    page = status_page(after)
    assert f"{as_text('$0.192', 20)} spent" in page
    assert f"of {as_text('$20.00', 20)}" in page
    assert "`i2v resume`" in page


async def test_an_empty_ledger_stands_well(new_run: OpenRun) -> None:
    """Before the first video nothing waits and nothing needs anybody."""
    async with new_run() as run:
        status = await read_status(run)
    assert status.summary == "all clear · $0.00 today"
    assert status_page(status).count("Nothing.") == 2


async def test_it_costs_little_however_much_is_open(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many open jobs the oldest are read, the others are counted, and the page says so."""
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
    assert (
        5 <= requests["GetObject"] <= 2 + 3 + 2
    )  # two pages, three records; and what the run itself may ask meanwhile
