"""Odd answers, odd clocks and odd endings: the ledger's word stays, and money is neither lost nor spent twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.parsers import ResponseParserError

from i2v.errors import I2vError, NotTried, Rejected
from i2v.ledger import keys, transitions
from i2v.ledger.budget import today_utc
from i2v.ledger.job import JobState
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.run import end_run, open_run
from i2v.pipeline.submit import submit
from i2v.recovery.reconcile import reconcile
from i2v.reports.run_report import Outcome, Report
from i2v.s3.storage import Storage, Written
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo

PRICE = Decimal("0.192")


class Odd(Storage):
    """S3 whose first answer to a record with a task id is a page that botocore cannot read."""

    odd = 0

    async def put(self, uri: S3Uri, body: bytes, **how: Any) -> Written:
        """Put, or fail as botocore does."""
        if b'"task_id": "' in body and not self.odd:
            self.odd += 1
            raise ResponseParserError("Unable to parse response (syntax error), invalid XML received")
        return await super().put(uri, body, **how)


async def test_an_answer_that_nobody_can_read_drops_no_task_id(
    sandbox: Sandbox, provider: Provider, settings: Settings, aws: None
) -> None:
    """Whatever comes of writing a task id down, it is tried again, and its money stays spent."""
    async with open_run(settings, "odd", max_spend_usd=PRICE, storage=Odd()) as run:
        held = await submit(run, await order_for(run, put_photo(sandbox)))
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)))
    assert held.record.state is JobState.SUBMITTED
    assert {held.record.task_id} == set(provider.tasks)


async def test_a_day_page_that_is_broken_at_the_end_costs_no_report(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Money that cannot be given back is a warning: the run ends with its report in the ledger."""
    async with new_run(run_id="broken") as run:
        run.set_image_count(5)
        line = await process_order(run, await order_for(run, put_photo(sandbox)), Steps())
        await run.storage.put(keys.daily_spend_uri(run.settings, today_utc()), b"{")
        await end_run(run, Report(items=(line,)))
    record = sandbox.read_json("jobs/runs/broken.json")
    assert record["report"]["stored"] == 1


async def test_a_submitters_clock_that_is_ahead_delays_nothing(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A job that was submitted an hour from now, by its host's clock, is asked for at once."""
    uri = put_photo(sandbox)
    async with new_run() as ahead:
        held = await submit(ahead, await order_for(ahead, uri))
        attempt = held.record.attempt
        assert attempt
        assert attempt.submitted_at
        later = attempt.model_copy(update={"submitted_at": attempt.submitted_at + timedelta(hours=1)})
        await ahead.ledger.change(held, lambda record: record.model_copy(update={"attempts": (later,)}))
    async with new_run() as run:
        line = await asyncio.wait_for(process_order(run, await order_for(run, uri), Steps()), 10)
    assert line.outcome is Outcome.STORED


async def test_a_verdict_that_no_longer_holds_is_taken_away(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A job that failed, was allowed again by a person and gave a video has no `.failed.json` beside it."""
    uri = put_photo(sandbox)
    provider.add_fault(on="task", kind="fails", code="SomethingNew")
    async with new_run() as run:
        order = await order_for(run, uri)
        failed = await process_order(run, order, Steps())
        left = [key.partition(".jpg/")[2].partition(".")[2] for key in sandbox.keys("videos/")]
        held = await run.ledger.read_existing(order.key)
        await run.ledger.change(held, lambda record: transitions.resubmit(record, 2))
        stored = await process_order(run, order, Steps())
    assert (failed.outcome, left, stored.outcome) == (Outcome.FAILED, ["failed.json"], Outcome.STORED)
    assert [key.partition(".jpg/")[2].partition(".")[2] for key in sandbox.keys("videos/")] == ["jpg", "json", "mp4"]


async def test_marks_of_unpaid_jobs_do_not_starve_reconcile(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Marks that a 402 left on jobs nobody paid count nothing against the limit: the paid one is reached at once."""
    provider.add_fault(on="submit", kind="answer", status=402, times=None)
    async with new_run() as run:
        orders = [await order_for(run, put_photo(sandbox, f"{number}.jpg", number)) for number in range(5)]
        ends = await asyncio.gather(*(submit(run, order) for order in orders), return_exceptions=True)
    assert all(isinstance(end, I2vError) for end in ends)
    assert len(sandbox.keys("jobs/open/")) == 5
    provider.clear_faults()
    async with new_run() as run:
        paid = await order_for(run, put_photo(sandbox, "paid.jpg", 50))
        await submit(run, paid)
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    await asyncio.sleep(1.1)  # past the lease of all; S3 tells times in whole seconds
    async with new_run(lease_seconds=0.5) as run:
        report = await reconcile(run, limit=1)
    assert [(item.job, item.outcome) for item in report.items] == [(paid.key, Outcome.STORED)]
    assert sandbox.keys("jobs/open/") == []


async def test_a_404_stops_the_run_and_leaves_the_job_ready(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A wrong address says nothing of the image: nobody is refused, nothing more is sent."""
    provider.add_fault(on="submit", kind="answer", status=404)
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        with pytest.raises(Rejected):
            await submit(run, order)
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)))
        held = await run.ledger.read_existing(order.key)
    assert (held.record.state, held.record.attempts, len(provider.request_log.find("submit"))) == (
        JobState.READY,
        (),
        1,
    )


@pytest.mark.parametrize(
    "fault", [{"on": "submit", "kind": "fail_code"}, {"on": "task", "kind": "fails"}], ids=["submit", "status"]
)
async def test_three_images_that_nobody_can_fetch_stop_the_submits(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, fault: dict[str, Any]
) -> None:
    """A bucket that cannot be reached from outside is not paid for a fourth time, wherever the code comes from."""
    provider.add_fault(**fault, code="IMAGE_DOWNLOAD_FAILED", times=None)
    async with new_run() as run:
        for number in range(3):
            line = await process_order(run, await order_for(run, put_photo(sandbox, f"{number}.jpg", number)), Steps())
            assert line.outcome is Outcome.FAILED
        with pytest.raises(NotTried, match="three images in a row"):
            await process_order(run, await order_for(run, put_photo(sandbox, "3.jpg", 3)), Steps())
    assert len(provider.request_log.find("submit")) == 3


@pytest.mark.parametrize(
    ("fault", "bad"),
    [
        ({"on": "submit", "kind": "lost_answer"}, Outcome.UNKNOWN),
        ({"on": "task", "kind": "fails", "code": "IMAGE_DOWNLOAD_FAILED"}, Outcome.FAILED),
    ],
    ids=["lost", "unfetched"],
)
async def test_what_is_not_in_a_row_stops_nothing(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, fault: dict[str, Any], bad: Outcome
) -> None:
    """Two bad ends, a video, and two bad ends again are no row of three: the next image is paid and stored."""
    provider.add_fault(**fault, times=2)
    provider.add_fault(**fault, skip=1, times=2)
    async with new_run() as run:
        orders = [await order_for(run, put_photo(sandbox, f"{number}.jpg", number)) for number in range(6)]
        ends = [(await process_order(run, order, Steps())).outcome for order in orders]
    assert ends == [bad, bad, Outcome.STORED] * 2
