"""What decides about a payment happens after the wait for the limiter: pause, money, day, and a look at the image."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from i2v.clock import boot_time, today_utc
from i2v.errors import Busy, NotTried
from i2v.inputs.prompts import RequestOptions
from i2v.ledger import ledger_info
from i2v.ledger.attempt import EndKind
from i2v.ledger.day_spend import DaySpend
from i2v.ledger.job import JobState
from i2v.ledger.ledger import Ledger
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import generate
from i2v.pipeline.submit import submit
from i2v.reports.run_report import Outcome, Report
from i2v.s3_uri import S3Uri
from tests.support.memory_provider import PRICE, STEPS, SUCCESS, MemoryProvider, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage, memory_run

FAST: dict[str, Any] = {
    "I2V_POLL_FIRST_SECONDS": 0.01,
    "I2V_POLL_EVERY_SECONDS": 0.01,
    "I2V_POLL_DEADLINE_SECONDS": 0.01,
}
NO_LIMIT: dict[str, Any] = {**FAST, "I2V_FIRST_SUBMITS": 0}


async def generate_all(
    run: RunContext, bucket: MemoryBucket, count: int, first: int = 0, partial: bool = False
) -> Report:
    """Generate videos of so many new images."""
    orders = [put_order(bucket, first + number) for number in range(count)]
    report, _ = await generate(run, orders, RequestOptions(prompt="x"), STEPS, partial=partial)
    return report


def read_days(bucket: MemoryBucket) -> list[DaySpend]:
    """Return what is reserved and paid on each day."""
    return [DaySpend.model_validate_json(one.body) for uri, one in bucket.objects.items() if "/days/" in uri.key]


async def test_a_pause_stops_what_waits_at_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `i2v pause`, of 300 images that wait for the limiter only those inside it are still sent."""
    monkeypatch.setattr(ledger_info, "PAUSE_RECHECK_SECONDS", 0.0)
    bucket = MemoryBucket()

    async def pause_once() -> None:
        await Ledger(run.storage, run.settings).info.set_paused(True)

    run = memory_run(
        MemoryStorage(bucket), client=(provider := MemoryProvider(width=2, on_submit=pause_once)), **NO_LIMIT
    )
    report = await generate_all(run, bucket, 300)
    assert len(provider.submits) <= 2
    assert report.count(Outcome.NOT_TRIED) == 300 - len(provider.submits)
    assert "paused" in (report.stopped or "")


def test_the_pause_flag_is_read_often_enough() -> None:
    """The flag is read again early enough for a pause to take hold within 10 s, with time for the request itself."""
    assert ledger_info.PAUSE_RECHECK_SECONDS <= 5


async def test_the_pause_flag_is_read_once_for_many_submits() -> None:
    """Submits that follow each other within seconds share one read of the flag."""
    bucket, reads = MemoryBucket(), []
    storage = WatchedStorage(bucket, lambda kind, uri: reads.append(uri) if kind == "get" and _is_info(uri) else None)
    run = memory_run(storage, client=MemoryProvider(), **NO_LIMIT)
    for number in range(20):
        await submit(run, put_order(bucket, number))
    assert len(reads) == 1


def _is_info(uri: S3Uri) -> bool:
    return uri.key == "jobs/ledger.json"


async def test_a_pause_takes_hold_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submit that was answered 429 and waits for its next try is not sent again after a pause."""
    monkeypatch.setattr(ledger_info, "PAUSE_RECHECK_SECONDS", 0.0)
    bucket = MemoryBucket()

    async def pause_once() -> None:
        await Ledger(run.storage, run.settings).info.set_paused(True)

    provider = MemoryProvider(Busy("429", "", "429", 0.01, 429), on_submit=pause_once)
    run = memory_run(MemoryStorage(bucket), client=provider)
    order = put_order(bucket)
    with pytest.raises(NotTried, match="paused"):
        await submit(run, order)
    assert len(provider.submits) == 1
    assert (await run.ledger.read_existing(order.key)).record.state is JobState.READY


@pytest.mark.parametrize(("change", "text"), [("replaced", "replaced"), ("deleted", "deleted")])
async def test_an_image_that_changed_at_the_gate_is_not_paid(change: str, text: str) -> None:
    """An image that is replaced or deleted while it waits for the limiter is not submitted."""
    bucket = MemoryBucket()
    first, second = put_order(bucket, 1), put_order(bucket, 2)

    async def change_second() -> None:
        if change == "replaced":
            bucket.put(second.image.at, b"another image", "image/jpeg", {}, "")
        else:
            del bucket.objects[second.image.at]

    provider = MemoryProvider(width=1, on_submit=change_second)
    run = memory_run(MemoryStorage(bucket), client=provider)
    paid, refused = await asyncio.gather(submit(run, first), submit(run, second), return_exceptions=True)
    assert not isinstance(paid, BaseException)
    assert isinstance(refused, NotTried)
    assert text in refused.message
    assert len(provider.submits) == 1
    assert run.budget.spent_usd == PRICE


async def test_the_copy_of_a_web_image_is_paid_although_it_waited() -> None:
    """The etag of an image from an https URL is its own hash, which S3's etag of the copy need not be."""
    bucket = MemoryBucket()
    order = put_order(bucket)
    copy = S3Uri("b-1", "jobs/inputs/web.jpg")
    bucket.put(copy, b"0", "image/jpeg", {}, "")
    image = order.image.model_copy(update={"at": copy, "etag": "hash of the bytes"})
    run = memory_run(MemoryStorage(bucket), client=(provider := MemoryProvider()))
    job = await submit(run, replace(order, image=image, read_at=datetime.now(UTC) - timedelta(minutes=1)))

    assert (len(provider.submits), job.record.state) == (1, JobState.SUBMITTED)


async def test_only_what_is_inside_the_gate_is_reserved() -> None:
    """Of 300 images, as many prices are reserved as submits are under way, and a dead run keeps no others."""
    bucket, never = MemoryBucket(), asyncio.Event()
    inside = asyncio.Semaphore(0)

    async def answer_never() -> None:
        inside.release()
        await never.wait()

    provider = MemoryProvider(width=2, on_submit=answer_never)
    run = memory_run(MemoryStorage(bucket), client=provider, max_spend_usd=300 * PRICE, **NO_LIMIT)
    running = asyncio.ensure_future(generate_all(run, bucket, 300))
    for _ in range(2):
        await inside.acquire()
    assert [day.total_usd for day in read_days(bucket)] == [2 * PRICE]

    again = memory_run(MemoryStorage(bucket), max_spend_usd=300 * PRICE)  # the same run, tried again
    assert await again.budget.available_usd() == (298 * PRICE, "max_spend_usd")
    never.set()
    await running


async def test_a_days_cap_holds_at_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs over midnight send as many submits as the cap allows on each of the two days, and no more."""
    bucket, day = MemoryBucket(), ["2026-11-22"]
    by_day = dict.fromkeys(("2026-11-22", "2026-11-23"), 0)
    monkeypatch.setattr("i2v.pipeline.payment.check_and_pay.today_utc", lambda: day[0])
    sent, go = asyncio.Event(), asyncio.Event()

    async def count_post() -> None:
        by_day[day[0]] += 1
        sent.set()
        await go.wait()

    runs = []
    for name in "ab":
        client = MemoryProvider(width=1, on_submit=count_post)
        run = memory_run(MemoryStorage(bucket), name, client=client, I2V_DAILY_CAP_USD=str(20 * PRICE), **NO_LIMIT)
        monkeypatch.setattr(run.budget, "_today", lambda: day[0])
        runs.append(run)
    first = asyncio.ensure_future(generate_all(runs[0], bucket, 20))
    await sent.wait()
    day[0] = "2026-11-23"
    go.set()
    await asyncio.gather(first, generate_all(runs[1], bucket, 20, first=100))
    assert by_day == {"2026-11-22": 1, "2026-11-23": 20}
    assert all(spend.total_usd <= 20 * PRICE for spend in read_days(bucket))


async def test_a_claim_of_yesterday_is_not_sent_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """If midnight passes between claim and POST, the claim ends unpaid, and the next one counts on the new day."""
    bucket, day = MemoryBucket(), ["2026-11-22"]

    def pass_midnight(operation: str, uri: S3Uri) -> None:
        if operation == "put if" and uri.key == f"jobs/{order.key}.json":
            day[0] = "2026-11-23"

    provider = MemoryProvider()
    run = memory_run(WatchedStorage(bucket, pass_midnight), client=provider)
    monkeypatch.setattr("i2v.pipeline.payment.check_and_pay.today_utc", lambda: day[0])
    monkeypatch.setattr(run.budget, "_today", lambda: day[0])
    order = put_order(bucket)
    job = await submit(run, order)
    await run.budget.close()
    ends = [attempt.end.kind if attempt.end else None for attempt in job.record.attempts]
    assert (ends, [attempt.day for attempt in job.record.attempts]) == (
        [EndKind.UNPAID, None],
        ["2026-11-22", "2026-11-23"],
    )
    assert {spend.day: spend.total_usd for spend in read_days(bucket)} == {"2026-11-22": 0, "2026-11-23": PRICE}
    assert len(provider.submits) == 1


@pytest.mark.parametrize("slow", ["put", "put if"], ids=["marker", "claim"])
async def test_patience_ends_when_s3_is_slow(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    """If marker or claim always take longer than a claim may wait for its POST, the submit gives up unpaid."""
    bucket, late = MemoryBucket(), [0.0]
    monkeypatch.setattr("i2v.pipeline.submit.boot_time", lambda: boot_time() + late[0])
    monkeypatch.setattr("i2v.pipeline.payment.check_and_pay.boot_time", lambda: boot_time() + late[0])

    def take_long(operation: str, uri: S3Uri) -> None:
        if operation == slow and ("/open/" in uri.key or uri.key == f"jobs/{order.key}.json"):
            late[0] += 61

    provider = MemoryProvider()
    run = memory_run(WatchedStorage(bucket, take_long), client=provider, I2V_SUBMIT_PATIENCE_SECONDS=600)
    order = put_order(bucket)
    with pytest.raises(NotTried, match="could not be claimed in time"):
        await asyncio.wait_for(submit(run, order), 30)
    assert 600 <= late[0] <= 1000
    assert (provider.submits, run.budget.spent_usd) == ([], Decimal(0))
    found = await run.ledger.read(order.key)
    assert found is None or found.record.state is JobState.READY


async def test_patience_ends_when_the_provider_stays_busy() -> None:
    """If every try is answered 429, the submit gives up after its patience with an unpaid job."""
    bucket = MemoryBucket()
    provider = MemoryProvider(*(Busy("429", "", "429", 0.01, 429) for _ in range(100)))
    run = memory_run(MemoryStorage(bucket), client=provider, I2V_SUBMIT_PATIENCE_SECONDS=1.5)
    order = put_order(bucket)
    with pytest.raises(Busy):
        await asyncio.wait_for(submit(run, order), 10)
    record = (await run.ledger.read_existing(order.key)).record
    assert (record.state, record.cost_usd, run.budget.spent_usd) == (JobState.READY, Decimal(0), Decimal(0))


async def test_a_balance_that_limits_a_partial_run_is_named() -> None:
    """If the balance covers two of four images, a partial run stores two, and says why not the others."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={f"task-{number}": SUCCESS for number in (1, 2, 3, 4)})
    provider.usd = 2 * PRICE
    run = memory_run(MemoryStorage(bucket), client=provider, **{**NO_LIMIT, "I2V_POLL_DEADLINE_SECONDS": 60})
    report = await generate_all(run, bucket, 4, partial=True)
    reasons = {item.reason or "" for item in report.items if item.outcome is Outcome.NOT_TRIED}
    assert (report.count(Outcome.STORED), report.count(Outcome.NOT_TRIED)) == (2, 2)
    assert all("balance" in reason and "max_spend_usd" not in reason for reason in reasons), reasons


async def test_the_task_of_each_submit_has_its_page() -> None:
    """Each paid task has an object under `jobs/tasks/`, so that no adoption has to search the ledger."""
    bucket = MemoryBucket()
    run = memory_run(MemoryStorage(bucket), client=MemoryProvider())
    job = await submit(run, put_order(bucket))
    (page,) = [one.body for uri, one in bucket.objects.items() if uri.key.startswith("jobs/tasks/")]
    assert job.record.key.encode() in page
    assert job.record.attempt
    assert job.record.attempt.day == today_utc()
