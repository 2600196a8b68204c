"""A bucket from which the provider has never fetched gets `I2V_FIRST_SUBMITS` submits until one is rendered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from i2v.errors import StorageError
from i2v.inputs.prompts import RequestOptions
from i2v.ledger.attempt import Delivery
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import generate
from i2v.reports.run_report import Outcome, Report
from i2v.s3_uri import S3Uri
from tests.support.memory_provider import RUNNING, STEPS, SUCCESS, MemoryProvider, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage, memory_run

UNFETCHED, UNUSUAL, TIMED_OUT = "IMAGE_DOWNLOAD_FAILED", "SomethingNew", "PROCESSING_TIMEOUT"
FAST: dict[str, Any] = {"I2V_POLL_FIRST_SECONDS": 0.001, "I2V_POLL_EVERY_SECONDS": 0.001}


class EndingProvider(MemoryProvider):
    """A provider whose tasks all end in one way."""

    def __init__(self, end: str) -> None:
        super().__init__(width=24)
        self.end = end

    async def submit(self, *body: Any, **how: Any) -> str:
        """Create a task that has ended already."""
        task_id = await super().submit(*body, **how)
        self.tasks[task_id] = self.end
        return task_id


async def generate_all(
    run: RunContext, bucket: MemoryBucket, count: int, delivery: Delivery = "poll", first: int = 0
) -> Report:
    """Generate videos of so many new images, which are put into the bucket."""
    orders = [put_order(bucket, first + number) for number in range(count)]
    orders = [replace(order, read_at=datetime.now(UTC)) for order in orders]
    report, _ = await generate(run, orders, RequestOptions(prompt="x"), STEPS, delivery=delivery)
    return report


@pytest.mark.parametrize("end", [UNFETCHED, UNUSUAL, "NSFW"])
async def test_a_bucket_from_which_nothing_renders_costs_eight_tasks(end: str) -> None:
    """Of 30 images whose tasks all fail, at most 8 are paid; the others are not tried, and their lines say why."""
    bucket, provider = MemoryBucket(), EndingProvider(end)
    report = await generate_all(memory_run(MemoryStorage(bucket), client=provider, **FAST), bucket, 30)
    reasons = {item.reason or "" for item in report.items if item.outcome is Outcome.NOT_TRIED}
    assert len(provider.submits) <= 8
    assert report.count(Outcome.NOT_TRIED) == 30 - len(provider.submits)
    assert all("rendered none" in reason or "could not fetch" in reason for reason in reasons), reasons


async def test_further_attempts_count_too() -> None:
    """Tasks that time out are paid again, but not beyond the limit for a bucket that has rendered nothing."""
    bucket, provider = MemoryBucket(), EndingProvider(TIMED_OUT)
    run = memory_run(MemoryStorage(bucket), client=provider, I2V_MAX_ATTEMPTS=5, **FAST)
    await generate_all(run, bucket, 30)
    assert len(provider.submits) == 8


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_one_rendered_video_lets_all_others_go(limit: int) -> None:
    """Once one of the first videos is rendered, the images that wait are submitted too."""
    bucket, provider = MemoryBucket(), EndingProvider(SUCCESS)
    run = memory_run(MemoryStorage(bucket), client=provider, I2V_FIRST_SUBMITS=limit, **FAST)
    report = await generate_all(run, bucket, 30)
    assert (report.count(Outcome.STORED), len(provider.submits)) == (30, 30)


async def test_no_more_than_the_first_are_under_way() -> None:
    """While the first tasks render, no other image of that bucket is submitted."""
    bucket, provider = MemoryBucket(), EndingProvider(RUNNING)
    run = memory_run(MemoryStorage(bucket), client=provider, **FAST)
    running = asyncio.ensure_future(generate_all(run, bucket, 30))
    await asyncio.sleep(0.5)
    assert len(provider.submits) == 8
    provider.tasks |= dict.fromkeys(provider.tasks, SUCCESS)
    provider.end = SUCCESS
    assert (await running).count(Outcome.STORED) == 30


async def test_the_ledger_remembers_a_bucket_for_good() -> None:
    """After one rendered video another run submits all at once, and the ledger names the bucket."""
    bucket = MemoryBucket()
    await generate_all(memory_run(MemoryStorage(bucket), "one", client=EndingProvider(SUCCESS), **FAST), bucket, 1)
    provider = EndingProvider(RUNNING)
    run = memory_run(MemoryStorage(bucket), "two", client=provider, I2V_POLL_DEADLINE_SECONDS=0.001, **FAST)
    report = await generate_all(run, bucket, 30, first=100)
    info = await run.ledger.info.read()
    assert info
    assert (info.fetched_from, len(provider.submits), report.count(Outcome.SUBMITTED)) == (("b-1",), 30, 30)


async def test_a_bucket_is_trusted_although_the_ledger_cannot_remember_it() -> None:
    """If `ledger.json` cannot be written, the run continues, and the next run proves the bucket again."""
    bucket, provider = MemoryBucket(), EndingProvider(SUCCESS)
    orders_in = [0]

    def deny(operation: str, uri: S3Uri) -> None:
        if operation == "put if" and uri.key == "jobs/ledger.json" and provider.submits:
            orders_in[0] += 1
            raise StorageError("S3 returned 503")

    run = memory_run(WatchedStorage(bucket, deny), client=provider, **FAST)
    report = await generate_all(run, bucket, 30)
    assert (report.count(Outcome.STORED), orders_in[0] > 0) == (30, True)


async def test_zero_turns_the_limit_off() -> None:
    """With I2V_FIRST_SUBMITS=0 all images of a new bucket are submitted at once."""
    bucket, provider = MemoryBucket(), EndingProvider(UNUSUAL)
    await generate_all(memory_run(MemoryStorage(bucket), client=provider, I2V_FIRST_SUBMITS=0, **FAST), bucket, 30)
    assert len(provider.submits) == 30


async def test_each_bucket_has_its_own_limit() -> None:
    """A bucket that works does not wait for one that does not."""
    bucket, provider = MemoryBucket(), EndingProvider(SUCCESS)
    good = [put_order(bucket, number) for number in range(10)]
    other = [
        replace(order, image=_elsewhere(bucket, order)) for order in (put_order(bucket, 100 + n) for n in range(10))
    ]

    class ByBucket(EndingProvider):
        async def submit(self, *body: Any, **how: Any) -> str:
            task_id = await super().submit(*body, **how)
            if "b-2" in str(self.submits[-1].wire()):
                self.tasks[task_id] = UNUSUAL
            return task_id

    provider = ByBucket(SUCCESS)
    run = memory_run(MemoryStorage(bucket), client=provider, I2V_FIRST_SUBMITS=2, **FAST)
    report, _ = await generate(run, [*good, *other], RequestOptions(prompt="x"), STEPS)
    assert (report.count(Outcome.STORED), report.count(Outcome.FAILED), report.count(Outcome.NOT_TRIED)) == (10, 2, 8)


def _elsewhere(bucket: MemoryBucket, order: Any) -> Any:
    at = S3Uri("b-2", order.image.at.key)
    bucket.put(at, bucket.objects[order.image.at].body, "image/jpeg", {}, "")
    return order.image.model_copy(update={"at": at, "label": str(at)})


async def test_with_callbacks_the_first_ones_are_polled() -> None:
    """In a new bucket a callback run polls the first submits; once one is rendered, the others wait for callbacks."""
    bucket, provider = MemoryBucket(), EndingProvider(SUCCESS)
    variables: dict[str, Any] = {
        "I2V_CALLBACK_BASE_URL": "https://door.example",
        "I2V_CALLBACK_SECRET": "a-secret-that-is-long-enough",
        "I2V_FIRST_SUBMITS": 2,
    }
    run = memory_run(MemoryStorage(bucket), client=provider, **FAST, **variables)
    report = await generate_all(run, bucket, 10, "callback")
    bodies = [str(body.wire()) for body in provider.submits]
    polled = sum("door.example" not in body for body in bodies)
    assert (report.count(Outcome.STORED), report.count(Outcome.SUBMITTED)) == (polled, 10 - polled)
    assert polled == 2


async def test_an_interrupt_ends_the_wait() -> None:
    """A run that is interrupted while images wait for the first ones ends, and says that they were not submitted."""
    bucket, provider = MemoryBucket(), EndingProvider(RUNNING)
    run = memory_run(MemoryStorage(bucket), client=provider, I2V_FIRST_SUBMITS=2, I2V_POLL_FIRST_SECONDS=600)
    running = asyncio.ensure_future(generate_all(run, bucket, 10))
    await asyncio.sleep(0.3)
    run.brake.interrupt()
    report = await asyncio.wait_for(running, 10)
    assert (report.count(Outcome.SUBMITTED), report.count(Outcome.NOT_TRIED)) == (2, 8)


async def test_images_that_cost_nothing_do_not_count() -> None:
    """Submits that were refused unpaid do not use up the first ones; a stored job proves its bucket."""
    bucket = MemoryBucket()
    await generate_all(memory_run(MemoryStorage(bucket), "one", client=EndingProvider(SUCCESS), **FAST), bucket, 1)
    info = S3Uri("b-1", "jobs/ledger.json")
    text = bucket.objects[info].body.replace(b'"b-1"', b"")
    bucket.put(info, text, "application/json", {}, "")  # a ledger that has not remembered it
    provider = EndingProvider(UNUSUAL)
    run = memory_run(MemoryStorage(bucket), "two", client=provider, I2V_FIRST_SUBMITS=1, **FAST)
    report = await generate_all(run, bucket, 5)
    assert report.count(Outcome.CACHED) == 1
    assert len(provider.submits) == 4
