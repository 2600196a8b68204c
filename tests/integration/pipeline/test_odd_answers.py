"""Unusual responses, clocks and sequences: the ledger stays correct, and no money is lost or spent twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.parsers import ResponseParserError

from i2v.clock import today_utc
from i2v.errors import I2vError, NotTried, Rejected
from i2v.ledger import keys, transitions
from i2v.ledger.job import JobState
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.run import end_run, open_run
from i2v.pipeline.submit import submit
from i2v.reports.run_report import Outcome, Report
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.memory_provider import claim_by_hand
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.reconciling import reconcile
from tests.support.vendor_client import VendorClient

PRICE = Decimal("0.192")


class UnreadableOnce(Storage):
    """S3 whose first response to a record with a task id cannot be parsed by botocore."""

    is_broken = True

    async def put(self, uri: S3Uri, body: bytes, **how: Any) -> str:
        """Put the object, or raise botocore's error once."""
        if b'"task_id": "' in body and self.is_broken:
            self.is_broken = False
            raise ResponseParserError("Unable to parse response (syntax error), invalid XML received")
        return await super().put(uri, body, **how)


async def test_an_unreadable_s3_response_drops_no_task_id(
    sandbox: Sandbox, provider: Provider, settings: Settings, aws: None
) -> None:
    """Recording a task id is retried after an unexpected error, and its money stays reserved."""
    async with open_run(settings, "odd", max_spend_usd=PRICE, storage=UnreadableOnce()) as run:
        job = await submit(run, await order_for(run, put_photo(sandbox)))
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)))
    assert job.record.state is JobState.SUBMITTED
    assert {job.record.task_id} == set(provider.tasks)


async def test_a_corrupt_day_page_does_not_prevent_the_report(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A run that cannot release unused money logs a warning and still writes its report."""
    async with new_run(run_id="broken") as run:
        run.set_image_count(5)
        line = await process_order(run, await order_for(run, put_photo(sandbox)), Steps())
        await run.storage.put(keys.daily_spend_uri(run.settings, today_utc()), b"{")
        await end_run(run, Report(items=(line,)))
    record = sandbox.read_json("jobs/runs/broken.json")
    assert record["report"]["stored"] == 1


async def test_a_submit_time_in_the_future_does_not_delay_polling(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A job whose `submitted_at` is an hour in the future is polled at once."""
    uri = put_photo(sandbox)
    async with new_run() as first:
        job = await submit(first, await order_for(first, uri))
        attempt = job.record.attempt
        assert attempt
        assert attempt.submitted_at
        later = attempt.model_copy(update={"submitted_at": attempt.submitted_at + timedelta(hours=1)})
        await first.ledger.change(job, lambda record: record.model_copy(update={"attempts": (later,)}))
    async with new_run() as run:
        line = await asyncio.wait_for(process_order(run, await order_for(run, uri), Steps()), 10)
    assert line.outcome is Outcome.STORED


async def test_a_failed_verdict_is_deleted_once_the_job_is_stored(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A failed job that a user resubmits and that is then stored has no `.failed.json`."""
    uri = put_photo(sandbox)
    provider.add_fault(on="task", kind="fails", code="SomethingNew")
    async with new_run() as run:
        order = await order_for(run, uri)
        failed = await process_order(run, order, Steps())
        verdicts = [key.partition(".jpg/")[2].partition(".")[2] for key in sandbox.keys("videos/")]
        job = await run.ledger.read_existing(order.key)
        await run.ledger.change(job, transitions.resubmit)
        stored = await process_order(run, order, Steps())
    assert (failed.outcome, verdicts, stored.outcome) == (Outcome.FAILED, ["failed.json"], Outcome.STORED)
    assert [key.partition(".jpg/")[2].partition(".")[2] for key in sandbox.keys("videos/")] == ["jpg", "json", "mp4"]


async def test_markers_of_unpaid_jobs_do_not_starve_reconcile(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Markers that a killed run left on unpaid jobs do not count against the limit: the paid job is settled at once."""
    async with new_run() as run:
        for number in range(5):
            order = await order_for(run, put_photo(sandbox, f"{number}.jpg", number))
            job = await claim_by_hand(run.ledger, order)
            await run.ledger.change(job, lambda record: transitions.release(record, "t", record.updated_at))
    assert len(sandbox.keys("jobs/open/")) == 5
    async with new_run() as run:
        paid = await order_for(run, put_photo(sandbox, "paid.jpg", 50))
        await submit(run, paid)
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    await asyncio.sleep(1.1)  # past every lease; S3's times have whole seconds
    async with new_run(lease_seconds=0.5) as run:
        report = await reconcile(run, limit=1)
    assert [(item.job, item.outcome) for item in report.items] == [(paid.key, Outcome.STORED)]
    assert sandbox.keys("jobs/open/") == []


async def test_markers_of_unpaid_submits_are_deleted(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A run whose submits all got 402 deletes the markers of its claims at its end."""
    provider.add_fault(on="submit", kind="answer", status=402, times=None)
    async with new_run() as run:
        orders = [await order_for(run, put_photo(sandbox, f"{number}.jpg", number)) for number in range(5)]
        results = await asyncio.gather(*(submit(run, order) for order in orders), return_exceptions=True)
    assert all(isinstance(result, I2vError) for result in results)
    assert sandbox.keys("jobs/open/") == []


async def test_a_404_stops_the_run_and_leaves_the_job_ready(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A 404 says nothing about the image: the job stays ready, and the run submits nothing else."""
    provider.add_fault(on="submit", kind="answer", status=404)
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        with pytest.raises(Rejected):
            await submit(run, order)
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)))
        job = await run.ledger.read_existing(order.key)
    assert (job.record.state, job.record.cost_usd) == (JobState.READY, Decimal(0))
    assert len(provider.request_log.find("submit")) == 1


@pytest.mark.parametrize(
    "fault", [{"on": "submit", "kind": "fail_code"}, {"on": "task", "kind": "fails"}], ids=["submit", "status"]
)
async def test_three_failed_downloads_in_a_row_stop_the_submits(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, fault: dict[str, Any]
) -> None:
    """After three IMAGE_DOWNLOAD_FAILED in a row, in a response or a status, no fourth image is paid."""
    provider.add_fault(**fault, code="IMAGE_DOWNLOAD_FAILED", times=None)
    async with new_run() as run:
        for number in range(3):
            line = await process_order(run, await order_for(run, put_photo(sandbox, f"{number}.jpg", number)), Steps())
            assert line.outcome is Outcome.FAILED
        with pytest.raises(NotTried, match="three images in a row"):
            await process_order(run, await order_for(run, put_photo(sandbox, "3.jpg", 3)), Steps())
    assert len(provider.request_log.find("submit")) == 3


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ({"on": "submit", "kind": "lost_answer"}, Outcome.UNKNOWN),
        ({"on": "task", "kind": "fails", "code": "IMAGE_DOWNLOAD_FAILED"}, Outcome.FAILED),
    ],
    ids=["lost", "download"],
)
async def test_failures_that_are_not_consecutive_do_not_stop_the_run(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, fault: dict[str, Any], failure: Outcome
) -> None:
    """Two failures, a video and two more failures do not stop the run: the next image is stored."""
    provider.add_fault(**fault, times=2)
    provider.add_fault(**fault, skip=1, times=2)
    async with new_run() as run:
        orders = [await order_for(run, put_photo(sandbox, f"{number}.jpg", number)) for number in range(6)]
        outcomes = [(await process_order(run, order, Steps())).outcome for order in orders]
    assert outcomes == [failure, failure, Outcome.STORED] * 2


@pytest.mark.parametrize(
    ("task_id", "text"), [(7001, "7001"), ("task_" * 800, "task_" * 800), ("tâche 1/2", "tâche 1/2")], ids=str
)
@pytest.mark.parametrize("status", [200, 429, 504])
async def test_an_odd_task_id_is_followed_to_its_video(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, task_id: str | int, text: str, status: int
) -> None:
    """A task id that is a number, long or not ASCII, under any status, is polled, stored and named in the manifest."""
    async with new_run() as run:
        await process_order(run, await order_for(run, put_photo(sandbox)), Steps())
        with VendorClient(provider) as vendor:
            done = vendor.status(next(iter(provider.tasks))).json()
        accepted = {"code": status, "message": "odd", "data": {"taskId": task_id, "failCode": "Timeout"}}
        ended = {**done, "data": {**done["data"], "taskId": task_id}}
        provider.add_fault(on="submit", kind="answer", status=status, document=accepted)
        provider.add_fault(on="status", kind="answer", status=200, document=ended, times=None)
        line = await process_order(run, await order_for(run, put_photo(sandbox, "two.jpg", 2)), Steps())
    assert (line.outcome, line.task_id) == (Outcome.STORED, text)
    (manifest,) = (key for key in sandbox.keys("videos/two.jpg/") if key.endswith(".json"))
    assert sandbox.read_json(manifest)["task_id"] == text
    assert len(provider.request_log.find("submit")) == 2
