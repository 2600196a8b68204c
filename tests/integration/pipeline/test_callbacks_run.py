"""Runs with `delivery="callback"`: they end once everything is submitted, and each job is paid and stored once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import pytest

from i2v.apixo.callbacks import verify
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.attempt import Delivery
from i2v.ledger.job import JobState
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.submit import submit
from i2v.reports.run_report import Outcome, Report
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.callback_receiver import CallbackReceiver, open_callback_run, run_collect
from tests.support.orders import OpenRun, job_records, order_for, put_photo, put_photos

IMAGES = int(os.environ.get("I2V_CALLBACK_IMAGES", "40"))
"""Number of images in the test with faults. 200 take one to two minutes."""
Generate = Callable[..., Coroutine[Any, Any, Report]]


@pytest.fixture
def generate_videos(receiver: CallbackReceiver, sandbox: Sandbox) -> Generate:
    """Return a function that runs generate over all images, or over `images`."""

    async def run_generate(delivery: Delivery = "callback", images: str | None = None) -> Report:
        async with open_callback_run(receiver) as run:
            items = await find_items(images or f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
            options = RequestOptions(prompt="a slow zoom")
            return (await generate(run, items, options, Steps(), delivery=delivery))[0]

    return run_generate


def stored_videos(sandbox: Sandbox) -> int:
    """Count the videos that have a manifest."""
    keys = sandbox.keys("videos/")
    videos = {key.removesuffix(".mp4") for key in keys if key.endswith(".mp4")}
    return len(videos & {key.removesuffix(".json") for key in keys})


async def test_a_callback_run_ends_once_everything_is_submitted(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate
) -> None:
    """A callback run polls nothing, and each job is stored after its callback with one status request."""
    put_photos(sandbox, 3)
    sandbox.put_image("images/bad.jpg", b"no image")
    report = await generate_videos()
    assert report.summary == "1 refused · 3 submitted, awaiting callback · $0.576"
    assert report.succeeded
    assert provider.status_requests() == {}
    settled = await run_collect(receiver, await asyncio.to_thread(receiver.wait, 3))
    assert (settled.count(Outcome.STORED), settled.spent_usd) == (3, Decimal(0))
    assert set(provider.billed().values()) == {1}
    assert set(provider.status_requests().values()) == {1}
    assert (stored_videos(sandbox), sandbox.keys("jobs/open/"), len(sandbox.keys("jobs/tasks/"))) == (3, [], 3)
    again = await generate_videos()
    assert again.summary == "3 cached · 1 refused · $0.00"


async def test_a_callback_run_does_not_wait_for_another_runs_job(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate, new_run: OpenRun
) -> None:
    """A job submitted by another run costs nothing and is reported as submitted."""
    provider.set_options(render_seconds=60)
    uri = put_photo(sandbox)
    async with new_run() as other:
        await submit(other, await order_for(other, uri))
    report = await generate_videos()
    assert (report.summary, report.succeeded) == ("1 submitted, awaiting callback · $0.00", True)
    assert sum(provider.billed().values()) == 1


async def test_a_poll_run_attaches_to_a_job_submitted_with_callback(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate
) -> None:
    """A poll run polls and stores the job, and its later callback does not change the record."""
    put_photo(sandbox)
    await generate_videos()
    polled = await generate_videos("poll")
    assert polled.summary == "1 stored · $0.00"
    before = job_records(sandbox)
    late = await run_collect(receiver, await asyncio.to_thread(receiver.wait, 1))
    assert (late.count(Outcome.STORED), job_records(sandbox) == before) == (1, True)
    assert sum(provider.billed().values()) == 1


async def test_reconcile_polls_a_job_whose_callback_is_overdue(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate
) -> None:
    """Reconcile leaves a job alone until its callback is overdue, and then polls and stores it."""
    put_photo(sandbox)
    provider.add_fault(on="callback", kind="lost")
    await generate_videos()
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    early = await run_collect(receiver)
    assert (early.items, provider.status_requests()) == ((), {})
    late = await run_collect(receiver, callback_patience_seconds=0.01)
    assert late.summary == "1 stored · $0.00"


async def test_collect_never_pays_for_another_attempt(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate
) -> None:
    """After a transient failure, collect reports the job as not tried, and the next run pays for another attempt."""
    put_photo(sandbox)
    provider.add_fault(on="task", kind="fails", code="Timeout")
    await generate_videos()
    settled = await run_collect(receiver, await asyncio.to_thread(receiver.wait, 1))
    assert [item.outcome for item in settled.items] == [Outcome.NOT_TRIED]
    assert "the next run of this image pays for another attempt" in (settled.items[0].reason or "")
    assert sum(provider.billed().values()) == 1
    again = await generate_videos()
    assert again.summary == "1 submitted, awaiting callback · $0.192"
    hints = await asyncio.to_thread(receiver.wait, 2)
    assert hints[1].split("/")[1] == "2"
    assert (await run_collect(receiver, hints)).summary == "1 stored · $0.00"


async def test_the_callback_url_is_not_leaked(
    sandbox: Sandbox,
    provider: Provider,
    receiver: CallbackReceiver,
    generate_videos: Generate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A callback URL's signature is in no log, record, report or manifest, even if the provider repeats it."""
    caplog.set_level("DEBUG")
    put_photos(sandbox, 2)
    first = await generate_videos(images=f"s3://{sandbox.bucket}/images/000.jpg")
    hints = await asyncio.to_thread(receiver.wait, 1)
    (path,) = receiver.paths
    assert receiver.settings
    assert verify(receiver.settings, *path.split("/")[2:])
    message = f"callback_url http://127.0.0.1{path} is no good"
    provider.add_fault(on="submit", kind="answer", status=400, message=message, times=None)
    second = await generate_videos(images=f"s3://{sandbox.bucket}/images/001.jpg")
    assert "is no good" in str(second.items[0].reason)
    settled = await run_collect(receiver, hints)
    signature = path.rpartition("/")[2]
    objects = [
        sandbox.read(key)
        for prefix in ("jobs/", "videos/")
        for key in sandbox.keys(prefix)
        if not key.endswith((".mp4", ".jpg"))
    ]
    everything = " ".join([caplog.text, str(first), str(second), str(settled), *map(bytes.decode, objects)])
    assert "submitted" in everything
    assert signature[:12] not in everything


async def test_a_callback_may_arrive_before_the_submit_response(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate
) -> None:
    """The task id is taken from the callback and the video stored; the late submit response is no error."""
    put_photo(sandbox)
    provider.add_fault(on="submit", kind="after_callback")
    receiver.open.clear()
    running = asyncio.create_task(generate_videos())
    hints = await asyncio.to_thread(receiver.wait, 1)
    settled = await run_collect(receiver, hints)
    assert (settled.summary, running.done()) == ("1 stored · $0.00", False)
    receiver.open.set()
    report = await running
    assert report.summary == "1 stored · $0.192"
    assert (sum(provider.billed().values()), stored_videos(sandbox), sandbox.keys("jobs/open/")) == (1, 1, [])


async def test_a_poll_run_and_a_callback_run_pay_once(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate
) -> None:
    """A poll run and a callback run over the same 20 images bill and store each image once."""
    put_photos(sandbox, 20)
    provider.set_options(render="shared")
    both = asyncio.gather(generate_videos("poll"), generate_videos("callback"))
    collected = 0
    while not both.done():
        await asyncio.sleep(0.1)
        if hints := receiver.hints[collected:]:
            collected += len(hints)
            await run_collect(receiver, hints)
    poll_report, callback_report = both.result()
    expected_callbacks = sum(1 for task in provider.tasks.values() if task.request.callback_url)
    await run_collect(receiver, await asyncio.to_thread(receiver.wait, expected_callbacks))
    assert poll_report.count(Outcome.STORED) + poll_report.count(Outcome.CACHED) == 20
    assert callback_report.succeeded
    assert poll_report.spent_usd + callback_report.spent_usd == 20 * Decimal("0.192")
    assert (len(provider.tasks), set(provider.billed().values())) == (20, {1})
    assert (stored_videos(sandbox), sandbox.keys("jobs/open/")) == (20, [])


@pytest.mark.timeout(60 + IMAGES)
async def test_faulty_callbacks_and_responses_never_bill_twice(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, generate_videos: Generate
) -> None:
    """With lost, duplicated, reordered, forged and early callbacks, one collect and one reconcile store each image.

    Only jobs that lost both the submit response and the callback remain, and are reported as unknown.
    """
    put_photos(sandbox, IMAGES)
    provider.set_options(render="shared", callback_scale=0.001)
    provider.add_fault(on="callback", kind="lost", times=None, probability=0.1, seed=1)
    provider.add_fault(on="callback", kind="double", times=None, probability=0.1, seed=2)
    provider.add_fault(on="callback", kind="disordered", times=None, probability=0.05, seed=3)
    provider.add_fault(on="callback", kind="forged", times=None, probability=0.05, seed=4)
    provider.add_fault(on="submit", kind="after_callback", times=None, probability=0.05, seed=5)
    provider.add_fault(on="submit", kind="lost_answer", times=None, probability=0.1, seed=6)
    reports = [await generate_videos()]
    while reports[-1].count(Outcome.NOT_TRIED):  # a run stops after three lost responses in a row
        reports.append(await generate_videos())
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    provider.wait(lambda: all(provider.request_log.find("callback", task) for task in provider.tasks))
    provider.wait(lambda: all(entry.outcome for entry in provider.request_log.find("callback")))
    await run_collect(receiver, list(receiver.hints))
    await run_collect(receiver, callback_patience_seconds=0.01)
    lost_callbacks = {entry.task_id for entry in provider.request_log.find("callback") if entry.outcome == "lost"}
    lost_responses = {entry.task_id for entry in provider.request_log.find("submit") if entry.outcome == "lost_answer"}
    assert lost_callbacks - lost_responses, "no job needs reconcile to poll it"
    assert lost_responses - lost_callbacks, "no job needs its task id from a callback"
    assert set(provider.billed().values()) == {1}
    assert len(provider.tasks) == IMAGES
    left = await run_collect(receiver, callback_patience_seconds=0.01)
    assert {item.outcome for item in left.items} <= {Outcome.UNKNOWN}
    assert len(left.items) == len(lost_callbacks & lost_responses)
    assert stored_videos(sandbox) == IMAGES - len(lost_callbacks & lost_responses)
    await check_tasks_match_images(receiver, provider, sandbox)


async def check_tasks_match_images(receiver: CallbackReceiver, provider: Provider, sandbox: Sandbox) -> None:
    """Check that the task of each stored job was created from that job's image."""
    async with open_callback_run(receiver) as run:
        records = [record async for record in run.ledger.records()]
    stored = [record for record in records if record.state is JobState.STORED]
    assert len(stored) == stored_videos(sandbox)
    for record in stored:
        assert provider.tasks[record.task_id or ""].image_sha256 == record.image.facts.sha256
