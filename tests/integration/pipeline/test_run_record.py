"""The record of a run has one writer: no late heartbeat overwrites the report, and no failed one loses a limit."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import pytest

from i2v.apixo.client import ApixoClient
from i2v.errors import NotTried, StorageError
from i2v.ledger.run_record import RunRecord
from i2v.net.fetcher import Fetcher
from i2v.pipeline.context import RunContext
from i2v.pipeline.payment.address_probe import AddressProbe
from i2v.pipeline.run import end_run, open_run
from i2v.pipeline.submit import submit
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.s3_uri import S3Uri
from sandbox import Sandbox
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_provider import PRICE, MemoryProvider, put_order
from tests.support.memory_storage import MemoryBucket, MemoryFetcher, MemoryStorage, WatchedStorage, memory_run
from tests.support.orders import OpenRun
from tests.support.scripted_faults import ScriptedFaults
from tests.support.settings import SealedSettings

REPORT = Report(items=(ItemReport(image="s3://b-1/images/x.jpg", outcome=Outcome.STORED),))
RECORD = S3Uri("b-1", "jobs/runs/run-1.json")


def read_run_record(bucket: MemoryBucket) -> RunRecord:
    """Return the record of the run."""
    return RunRecord.model_validate_json(bucket.objects[RECORD].body)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the next heartbeats, until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a proxy in another thread has no event of this loop
            await asyncio.sleep(0.01)


@asynccontextmanager
async def open_memory_run(
    storage: MemoryStorage, provider: MemoryProvider, max_spend_usd: Decimal | None = None
) -> AsyncIterator[RunContext]:
    """Open the run `run-1`, as a worker does that starts it or tries it again."""
    settings = SealedSettings(I2V_BUCKET="b-1", APIXO_API_KEY="k")
    async with open_run(settings, "run-1", storage=storage, max_spend_usd=max_spend_usd) as run:
        run.api = cast("ApixoClient", provider)
        run.address_probe = AddressProbe(cast("Fetcher", MemoryFetcher()), run.brake)
        yield run


async def test_a_slow_heartbeat_does_not_overwrite_the_report(
    sandbox: Sandbox, s3_proxy: FaultProxy, new_run: OpenRun
) -> None:
    """A heartbeat that is under way when the run ends is awaited, so that the report is what stays in S3."""
    async with new_run(run_id="slow", run_gone_seconds=1.5) as run:  # a heartbeat each half second
        rule = s3_proxy.add(FaultRule("delay", "PUT", r"/jobs/runs/slow\.json", seconds=2))
        await until(lambda: rule.hits > 0)
        await end_run(run, REPORT)
        written = sandbox.read_json("jobs/runs/slow.json")
    await asyncio.sleep(2)
    assert (written["report"]["stored"], written["ended_at"] is None) == (1, False)
    assert sandbox.read_json("jobs/runs/slow.json") == written


async def test_a_heartbeat_that_lands_late_does_not_overwrite_the_report() -> None:
    """A heartbeat that failed, and is done by S3 after the run's end, meets a newer version and changes nothing."""
    bucket, faults = MemoryBucket(), ScriptedFaults()
    run = memory_run(SteppedStorage(bucket, faults), I2V_RUN_GONE_SECONDS=0.03)
    await run.heartbeat.start()
    faults.script(S3Fault.LATE)
    await until(lambda: bool(faults.late))
    await end_run(run, REPORT)
    written = read_run_record(bucket)
    for put in faults.late:
        with pytest.raises(StorageError):
            put()
    assert read_run_record(bucket) == written
    assert written.report
    assert written.report["stored"] == 1


@pytest.mark.parametrize("fault", [S3Fault.LOST, S3Fault.REPEATED, S3Fault.BUSY])
async def test_the_report_is_written_despite_a_lost_heartbeat(fault: S3Fault) -> None:
    """If a heartbeat's answer is lost, the writer reads its own version back and goes on from there."""
    bucket, faults = MemoryBucket(), ScriptedFaults()
    run = memory_run(SteppedStorage(bucket, faults), I2V_RUN_GONE_SECONDS=0.03)
    await run.heartbeat.start()
    faults.script(fault)
    await until(lambda: faults.is_over)
    await end_run(run, REPORT)
    record = read_run_record(bucket)
    assert record.report
    assert (record.report["stored"], record.ended_at is None) == (1, False)


async def test_a_record_deleted_under_way_is_written_again() -> None:
    """If a person deletes the record of a run that works, its next heartbeat or its end writes it again."""
    bucket = MemoryBucket()
    run = memory_run(MemoryStorage(bucket))
    await run.heartbeat.start()
    del bucket.objects[RECORD]
    await end_run(run, REPORT)
    assert read_run_record(bucket).report


async def test_a_failed_heartbeat_is_not_taken_for_written() -> None:
    """What a heartbeat could not write is not in the run's own record either."""
    bucket = MemoryBucket()

    def fail(operation: str, uri: S3Uri) -> None:
        if is_down and operation.startswith("put") and uri == RECORD:
            raise StorageError("S3 returned 503")

    is_down = False
    run = memory_run(WatchedStorage(bucket, fail), I2V_RUN_GONE_SECONDS=0.03)
    await run.heartbeat.start()
    before, is_down = run.heartbeat.record, True
    await asyncio.sleep(0.1)
    assert run.heartbeat.record == before
    await run.heartbeat.end(report=REPORT.for_json())
    assert run.heartbeat.record.ended_at is None


@pytest.mark.parametrize("tries_again", ["at once", "on the next day"])
async def test_a_limit_holds_although_all_heartbeats_failed(tries_again: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that spends its limit while S3 takes no heartbeat, and is tried again, spends nothing more."""
    bucket, provider = MemoryBucket(), MemoryProvider()

    def fail(operation: str, uri: S3Uri) -> None:
        if is_down and operation.startswith("put") and uri == RECORD:
            raise StorageError("S3 returned 503")

    is_down = False
    async with open_memory_run(WatchedStorage(bucket, fail), provider, max_spend_usd=2 * PRICE) as run:
        is_down = True
        for number in range(2):
            await submit(run, put_order(bucket, number))
    if tries_again == "on the next day":
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
        monkeypatch.setattr("i2v.pipeline.payment.check_and_pay.today_utc", lambda: tomorrow)
    async with open_memory_run(MemoryStorage(bucket), provider, max_spend_usd=2 * PRICE) as run:
        if tries_again == "on the next day":
            monkeypatch.setattr(run.budget, "_today", lambda: tomorrow)
        with pytest.raises(NotTried, match="max_spend_usd"):
            await submit(run, put_order(bucket, 3))
    assert len(provider.submits) == 2


async def test_a_limit_is_not_eaten_by_what_was_not_sent() -> None:
    """A run whose reservation was never claimed may spend that amount when it is tried again."""
    bucket, provider = MemoryBucket(), MemoryProvider()
    async with open_memory_run(MemoryStorage(bucket), provider, max_spend_usd=2 * PRICE) as run:
        await submit(run, put_order(bucket, 1))
        await run.budget.reserve(PRICE, "0" * 64, "never claimed")
    bucket.wait(3600)
    async with open_memory_run(MemoryStorage(bucket), provider, max_spend_usd=2 * PRICE) as run:
        await submit(run, put_order(bucket, 2))
        with pytest.raises(NotTried, match="max_spend_usd"):
            await submit(run, put_order(bucket, 3))
    assert len(provider.submits) == 2


async def test_a_heartbeat_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A heartbeat that S3 does not take is a warning, and the next one is tried."""
    caplog.set_level(logging.WARNING)
    bucket, faults = MemoryBucket(), ScriptedFaults()
    run = memory_run(SteppedStorage(bucket, faults), I2V_RUN_GONE_SECONDS=0.03)
    await run.heartbeat.start()
    first = json.loads(bucket.objects[RECORD].body)["touched_at"]
    faults.script(S3Fault.FAILS)
    await asyncio.sleep(0.2)
    assert "heartbeat not written" in caplog.text
    assert json.loads(bucket.objects[RECORD].body)["touched_at"] > first
    await run.heartbeat.end()
