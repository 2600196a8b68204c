"""Edge cases of promises 1, 3 and 6: what is released, what is shared, and what a report says after a failure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from i2v.clock import today_utc
from i2v.errors import NotTried
from i2v.ledger import keys
from i2v.ledger.day_spend import DaySpend, Entry
from i2v.ledger.run_record import RunRecord
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.submit import submit
from i2v.reports.run_report import ItemReport, Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.forked_processes import start_process
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.proxied_sandbox import ProxiedSandbox

PRICE = Decimal("0.192")
LIMITED: dict[str, Any] = {"run_id": "same", "max_spend_usd": Decimal("0.40"), "partial": True}
"""A run that may pay for two videos."""


def submit_count(provider: Provider) -> int:
    """Count the submits that the provider received."""
    return len(provider.request_log.find("submit"))


def read_entries(sandbox: Sandbox, day: str) -> list[Entry]:
    """Return the entries of all processes on a UTC day."""
    return list(DaySpend.model_validate(sandbox.read_json(f"jobs/days/{day}.json")).entries.values())


async def process_photo(sandbox: Sandbox, new_run: OpenRun, **limits: Any) -> ItemReport:
    """Process one photo in a new run and return its line of the report."""
    async with new_run(**limits) as run:
        return await process_order(run, await order_for(run, put_photo(sandbox)), Steps())


def test_two_processes_of_one_run_share_its_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    """A run that is started twice, e.g. after its worker was lost, spends its limit once."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        uris = [world.put(f"{number}.jpg", number).uri for number in range(4)]
        both = [start_process(world.process(images=pair, **LIMITED)) for pair in (tuple(uris[:2]), tuple(uris[2:]))]
        for running in both:
            running.begin()
        assert [running.wait().code for running in both] == [0, 0]
        assert sum(world.bills().values()) == 2


async def test_a_retried_submit_is_reserved_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """With a limit of one video, a submit that got a 503 can still be retried."""
    provider.add_fault(on="submit", kind="answer", status=503)
    line = await process_photo(sandbox, new_run, max_spend_usd=PRICE)
    assert (line.outcome, provider.billed_usd) == (Outcome.STORED, PRICE)


async def test_money_of_a_refused_image_is_available_again(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """With a limit of one video, a 400 releases the money for another image."""
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run(max_spend_usd=PRICE) as run:
        lines = [
            await process_order(run, await order_for(run, put_photo(sandbox, f"{n}.jpg", n)), Steps()) for n in range(2)
        ]
    assert [line.outcome for line in lines] == [Outcome.REFUSED, Outcome.STORED]


@pytest.mark.parametrize("fault", [{"kind": "lost_answer"}, {"kind": "fail_code", "code": "GENERATION_FAILED"}, {}])
async def test_money_that_may_be_spent_is_never_released(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, fault: dict[str, Any]
) -> None:
    """A lost response, a fail code and a success each use up a limit of one video, and the day's page records it."""
    if fault:
        provider.add_fault(on="submit", **fault)
    async with new_run(max_spend_usd=PRICE) as run:
        await submit(run, await order_for(run, put_photo(sandbox)))
        with pytest.raises(NotTried, match="max_spend_usd"):
            await submit(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)))
    assert submit_count(provider) == 1
    assert [(entry.paid_usd, entry.reserved) for entry in read_entries(sandbox, today_utc())] == [(PRICE, {})]


async def test_a_video_that_cannot_be_downloaded_is_reported_with_its_cost(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A paid video that cannot be downloaded is failed, with its task id and cost and nothing at risk."""
    provider.add_fault(on="file", kind="cut", times=None)
    line = await process_photo(sandbox, new_run)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (Outcome.FAILED, PRICE, Decimal(0))
    assert {line.task_id} == set(provider.tasks)


async def test_a_task_failed_for_balance_is_reported_at_risk(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """After InsufficientBalance no other attempt is tried, and the price of the failed task is at risk."""
    provider.add_fault(on="task", kind="fails", code="InsufficientBalance", times=None)
    line = await process_photo(sandbox, new_run)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (Outcome.NOT_TRIED, PRICE, PRICE)
    assert {line.task_id} == set(provider.tasks)


@pytest.mark.parametrize("refused", [r"\.mp4$", r"/videos/.*\.jpg$"], ids=["video", "poster"])
async def test_a_bucket_that_rejects_the_video_never_costs_twice(
    sandbox: Sandbox, provider: Provider, s3_proxy: FaultProxy, new_run: OpenRun, refused: str
) -> None:
    """If S3 rejects the video, no manifest is written, and the next run stores it without paying."""
    s3_proxy.add(FaultRule("fail", "PUT", refused, status=403, code="AccessDenied"))
    line = await process_photo(sandbox, new_run)
    manifests = [key for key in sandbox.keys("videos/") if key.endswith(".json")]
    again = await process_photo(sandbox, new_run)
    assert (line.outcome, line.cost_usd, line.at_risk_usd, manifests) == (Outcome.FAILED, PRICE, Decimal(0), [])
    assert {line.task_id} == set(provider.tasks)
    assert (again.outcome, again.cost_usd, submit_count(provider)) == (Outcome.STORED, Decimal(0), 1)


async def test_an_object_without_a_manifest_is_overwritten(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """An object at the video's key without a manifest is replaced by the paid video."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        order = await order_for(run, uri)
        video = keys.output_uri(run.settings, order.image.name, order.image.etag, order.request.digest12, ".mp4")
        await run.storage.put(video, b"half a video")
        line = await process_order(run, order, Steps())
    manifest = sandbox.read_json(video.key.replace(".mp4", ".json"))
    assert line.outcome is Outcome.STORED
    assert hashlib.sha256(sandbox.read(video.key)).hexdigest() == manifest["video"]["sha256"]


YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()


async def test_a_retry_after_midnight_counts_yesterday(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """What a run spent before midnight counts against its limit, and on yesterday; today has only what today cost."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    record = RunRecord(run_id="late", started_at=yesterday, touched_at=yesterday)
    entry = Entry(run_id="late", paid_usd=2 * PRICE)
    page = DaySpend(day=YESTERDAY, entries={"late:1": entry})
    async with new_run() as first:
        await first.storage.put(keys.run_uri(first.settings, "late"), record.model_dump_json().encode())
        await first.storage.put(keys.daily_spend_uri(first.settings, YESTERDAY), page.model_dump_json().encode())
    for limit in (4, 3):
        async with new_run(run_id="late", max_spend_usd=limit * PRICE) as run:
            order = await order_for(run, put_photo(sandbox, f"{limit}.jpg", limit))
            if limit == 4:
                await submit(run, order)
            else:
                with pytest.raises(NotTried, match="max_spend_usd"):
                    await submit(run, order)
    assert (submit_count(provider), read_entries(sandbox, YESTERDAY)) == (1, [entry])
    assert [one.paid_usd for one in read_entries(sandbox, today_utc()) if one.total_usd] == [PRICE]
