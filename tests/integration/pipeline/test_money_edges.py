"""Promises 1, 3 and 6 at their edges: what is given back, what is shared, and what is told after a failure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from i2v.errors import NotTried
from i2v.ledger import keys
from i2v.ledger.budget import DailySpend, today_utc
from i2v.ledger.run_record import RunRecord
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.submit import submit
from i2v.reports.run_report import ItemReport, Outcome
from sandbox import Sandbox
from sandbox.fault_proxy import FaultProxy, FaultRule
from sandbox.provider import Provider
from tests.support.forked_processes import start_process
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.proxied_sandbox import ProxiedSandbox

PRICE = Decimal("0.192")
LIMITED: dict[str, Any] = {"run_id": "same", "max_spend_usd": Decimal("0.40"), "partial": True}
"""A run that may pay two videos."""


@pytest.fixture
def proxy(sandbox: Sandbox, aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What stands between a run and S3; boto3 finds it in its own environment."""
    with FaultProxy(sandbox.aws.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        sandbox.provider.set_options(s3_address=proxy.address)
        yield proxy


def posts(provider: Provider) -> int:
    """How many submits came."""
    return len(provider.request_log.find("submit"))


async def told(sandbox: Sandbox, new_run: OpenRun, **limits: Any) -> ItemReport:
    """What the report says of one image."""
    async with new_run(**limits) as run:
        return await process_order(run, await order_for(run, put_photo(sandbox)), Steps())


def test_two_processes_of_one_run_share_its_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    """A run that was started twice, as a lost worker's may be, spends its limit once."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        uris = [world.put(f"{number}.jpg", number).uri for number in range(4)]
        both = [start_process(world.process(images=pair, **LIMITED)) for pair in (tuple(uris[:2]), tuple(uris[2:]))]
        for running in both:
            running.begin()
        assert [running.wait().code for running in both] == [0, 0]
        assert sum(world.bills().values()) == 2


async def test_a_submit_that_is_sent_again_is_reserved_once(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Within a limit of one video a 503 takes nothing away from the second try."""
    provider.add_fault(on="submit", kind="answer", status=503)
    line = await told(sandbox, new_run, max_spend_usd=PRICE)
    assert (line.outcome, provider.billed_usd) == (Outcome.STORED, PRICE)


async def test_what_a_refused_image_did_not_cost_pays_the_next(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Within a limit of one video a 400 leaves the money for another image."""
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run(max_spend_usd=PRICE) as run:
        lines = [
            await process_order(run, await order_for(run, put_photo(sandbox, f"{n}.jpg", n)), Steps()) for n in range(2)
        ]
    assert [line.outcome for line in lines] == [Outcome.REFUSED, Outcome.STORED]


@pytest.mark.parametrize("fault", [{"kind": "lost_answer"}, {"kind": "fail_code", "code": "GENERATION_FAILED"}, {}])
async def test_what_may_have_been_paid_is_never_given_back(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, fault: dict[str, Any]
) -> None:
    """A lost answer, a fail code and a success each use up a limit of one video, and the day page holds it."""
    if fault:
        provider.add_fault(on="submit", **fault)
    async with new_run(max_spend_usd=PRICE) as run:
        await submit(run, await order_for(run, put_photo(sandbox)))
        with pytest.raises(NotTried, match="max_spend_usd"):
            await submit(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)))
    assert posts(provider) == 1
    assert list(sandbox.read_json(f"jobs/days/{today_utc()}.json")["reserved_usd"].values()) == [str(PRICE)]


async def test_a_video_that_is_never_delivered_is_told_with_its_money(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Paid and not to be had: failed, with its task and what it cost; the job still may give a video."""
    provider.add_fault(on="file", kind="truncated", times=None)
    line = await told(sandbox, new_run)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (Outcome.FAILED, PRICE, Decimal(0))
    assert {line.task_id} == set(provider.tasks)


async def test_an_account_without_money_is_told_with_what_was_paid(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The task failed for want of balance and no other is tried: what it may have cost is at risk."""
    provider.add_fault(on="task", kind="fails", code="InsufficientBalance", times=None)
    line = await told(sandbox, new_run)
    assert (line.outcome, line.cost_usd, line.at_risk_usd) == (Outcome.NOT_TRIED, PRICE, PRICE)
    assert {line.task_id} == set(provider.tasks)


@pytest.mark.parametrize("refused", [r"\.mp4$", r"/videos/.*\.jpg$"], ids=["video", "poster"])
async def test_a_bucket_that_fails_after_the_payment_costs_no_money_twice(
    sandbox: Sandbox, provider: Provider, proxy: FaultProxy, new_run: OpenRun, refused: str
) -> None:
    """S3 refuses the video: failed, with task and cost, and no manifest; the next run stores it for nothing."""
    proxy.add(FaultRule("fail", "PUT", refused, status=403, code="AccessDenied"))
    line = await told(sandbox, new_run)
    manifests = [key for key in sandbox.keys("videos/") if key.endswith(".json")]
    again = await told(sandbox, new_run)
    assert (line.outcome, line.cost_usd, line.at_risk_usd, manifests) == (Outcome.FAILED, PRICE, Decimal(0), [])
    assert {line.task_id} == set(provider.tasks)
    assert (again.outcome, again.cost_usd, posts(provider)) == (Outcome.STORED, Decimal(0), 1)


async def test_a_leftover_in_the_videos_place_is_written_over(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """What lies at the video's key without a manifest is nobody's answer: the paid video takes its place."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        order = await order_for(run, uri)
        place = keys.output_uri(run.settings, order.image.name, order.image.etag, order.request.digest12, ".mp4")
        await run.storage.put(place, b"half a video")
        line = await process_order(run, order, Steps())
    manifest = sandbox.read_json(place.key.replace(".mp4", ".json"))
    assert line.outcome is Outcome.STORED
    assert hashlib.sha256(sandbox.read(place.key)).hexdigest() == manifest["video"]["sha256"]


YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()


async def test_a_retry_after_midnight_knows_of_yesterday(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """What a run spent before midnight counts against its limit, and what it leaves of today's block goes back."""
    now = datetime.now(UTC)
    record = RunRecord(run_id="late", started_at=now, touched_at=now, days=(YESTERDAY,))
    page = DailySpend(day=YESTERDAY, reserved_usd={"late": 2 * PRICE})
    async with new_run() as first:
        await first.storage.put(keys.run_uri(first.settings, "late"), record.model_dump_json().encode())
        await first.storage.put(keys.daily_spend_uri(first.settings, YESTERDAY), page.model_dump_json().encode())
    async with new_run(run_id="late", max_spend_usd=4 * PRICE) as run:
        run.set_image_count(2)
        await submit(run, await order_for(run, put_photo(sandbox)))
        assert RunRecord.model_validate(sandbox.read_json("jobs/runs/late.json")).days == (YESTERDAY, today_utc())
    async with new_run(run_id="late", max_spend_usd=3 * PRICE) as run:
        with pytest.raises(NotTried, match="max_spend_usd"):
            await submit(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)))
    held = {day: sandbox.read_json(f"jobs/days/{day}.json")["reserved_usd"]["late"] for day in (YESTERDAY, today_utc())}
    assert held == {YESTERDAY: str(2 * PRICE), today_utc(): str(PRICE)}
