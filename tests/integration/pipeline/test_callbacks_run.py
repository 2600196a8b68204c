"""Runs by callback end when all is submitted; each job is paid and stored once, whatever becomes of the callbacks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from typing import Any

import pytest

from i2v.apixo.callbacks import verify
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.job import Delivery, JobState
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.submit import submit
from i2v.reports.run_report import Outcome, Report
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.callback_receiver import CallbackReceiver, open_callback_run, run_collect, serve_callbacks
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.settings import MakeSettings

IMAGES = int(os.environ.get("I2V_CALLBACK_IMAGES", "40"))
"""200 take a minute or two."""
RUN_IT = Callable[..., Coroutine[Any, Any, Report]]


@pytest.fixture
def door(sandbox: Sandbox, make_settings: MakeSettings, aws: None) -> Iterator[CallbackReceiver]:
    """What is called back, and the settings by which it is."""
    with serve_callbacks(make_settings, sandbox.env) as door:
        yield door


@pytest.fixture
def run_it(door: CallbackReceiver, sandbox: Sandbox) -> RUN_IT:
    """A run over all images, or those named."""

    async def run_(delivery: Delivery = "callback", images: str | None = None) -> Report:
        async with open_callback_run(door) as run:
            items = await find_items(images or f"s3://{sandbox.bucket}/images/", run.storage, run.settings)
            asked = RequestOptions(prompt="a slow zoom")
            return (await generate(run, items, asked, Steps(), delivery=delivery))[0]

    return run_


def fill(sandbox: Sandbox, count: int) -> None:
    """So many different good images."""
    for number in range(count):
        sandbox.put_image(f"images/{number:03}.jpg", make_jpeg(400, 400, seed=number))


def stored_videos(sandbox: Sandbox) -> int:
    """How many videos with a manifest there are."""
    keys = sandbox.keys("videos/")
    whole = {key.removesuffix(".mp4") for key in keys if key.endswith(".mp4")}
    return len(whole & {key.removesuffix(".json") for key in keys})


async def test_a_run_by_callback_ends_when_all_is_submitted(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT
) -> None:
    """Nothing waits and nothing is asked; what the callbacks tell is then stored, with one question a job."""
    fill(sandbox, 3)
    sandbox.put_image("images/bad.jpg", b"no image")
    report = await run_it()
    assert report.summary == "1 refused · 3 submitted, awaiting callback · $0.576"
    assert report.succeeded
    assert provider.status_requests() == {}
    settled = await run_collect(door, await asyncio.to_thread(door.wait, 3))
    assert (settled.count(Outcome.STORED), settled.spent_usd) == (3, Decimal(0))
    assert set(provider.billed().values()) == {1}
    assert set(provider.status_requests().values()) == {1}
    assert (stored_videos(sandbox), sandbox.keys("jobs/open/"), sandbox.keys("jobs/tasks/")) == (3, [], [])
    again = await run_it()
    assert again.summary == "3 cached · 1 refused · $0.00"


async def test_what_another_run_submitted_is_not_waited_for(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT, new_run: OpenRun
) -> None:
    """A job that is under way, whoever told the provider to tell whom, costs nothing and is told as submitted."""
    provider.set_options(render_seconds=60)
    uri = put_photo(sandbox)
    async with new_run() as other:
        await submit(other, await order_for(other, uri))
    report = await run_it()
    assert (report.summary, report.succeeded) == ("1 submitted, awaiting callback · $0.00", True)
    assert sum(provider.billed().values()) == 1


async def test_a_poll_run_takes_a_job_by_callback_up_at_once(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT
) -> None:
    """It is attached to, polled and stored; the callback that comes then changes nothing."""
    put_photo(sandbox)
    await run_it()
    polled = await run_it("poll")
    assert polled.summary == "1 stored · $0.00"
    (key,) = [key for key in sandbox.keys("jobs/") if key.count("/") == 1 and len(key) > 60]
    before = sandbox.read(key)
    late = await run_collect(door, await asyncio.to_thread(door.wait, 1))
    assert (late.count(Outcome.STORED), sandbox.read(key) == before) == (1, True)
    assert sum(provider.billed().values()) == 1


async def test_reconcile_leaves_a_job_to_its_callback_and_then_polls_it(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT
) -> None:
    """Its run has ended, but not its patience; once that is over a lost callback is made up for."""
    put_photo(sandbox)
    provider.add_fault(on="callback", kind="lost")
    await run_it()
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    early = await run_collect(door)
    assert (early.items, provider.status_requests()) == ((), {})
    late = await run_collect(door, callback_patience_seconds=0.01)
    assert late.summary == "1 stored · $0.00"


async def test_a_passing_failure_waits_for_whoever_pays(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT
) -> None:
    """Collect never pays: it says that the job failed for now, and the next run pays for another attempt."""
    put_photo(sandbox)
    provider.add_fault(on="task", kind="fails", code="Timeout")
    await run_it()
    settled = await run_collect(door, await asyncio.to_thread(door.wait, 1))
    assert [item.outcome for item in settled.items] == [Outcome.NOT_TRIED]
    assert "the next run of this image pays for another attempt" in (settled.items[0].reason or "")
    assert sum(provider.billed().values()) == 1
    again = await run_it()
    assert again.summary == "1 submitted, awaiting callback · $0.192"
    told = await asyncio.to_thread(door.wait, 2)
    assert told[1].split("/")[1] == "2"
    assert (await run_collect(door, told)).summary == "1 stored · $0.00"


async def test_the_address_is_secret(
    sandbox: Sandbox,
    provider: Provider,
    door: CallbackReceiver,
    run_it: RUN_IT,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The signed address is in no log, record, report or manifest, not even where the provider repeats it."""
    caplog.set_level("DEBUG")
    fill(sandbox, 2)
    first = await run_it(images=f"s3://{sandbox.bucket}/images/000.jpg")
    told = await asyncio.to_thread(door.wait, 1)
    (path,) = door.paths
    assert door.settings
    assert verify(door.settings, *path.split("/")[2:])
    echo = f"callback_url http://127.0.0.1{path} is no good"
    provider.add_fault(on="submit", kind="answer", status=400, message=echo, times=None)
    second = await run_it(images=f"s3://{sandbox.bucket}/images/001.jpg")
    assert "is no good" in str(second.items[0].reason)
    settled = await run_collect(door, told)
    signature = path.rpartition("/")[2]
    kept = [
        sandbox.read(key)
        for prefix in ("jobs/", "videos/")
        for key in sandbox.keys(prefix)
        if not key.endswith((".mp4", ".jpg"))
    ]
    everything = " ".join([caplog.text, str(first), str(second), str(settled), *map(bytes.decode, kept)])
    assert "submitted" in everything
    assert signature[:12] not in everything


async def test_a_callback_comes_before_the_submits_own_answer(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT
) -> None:
    """The task is taken from the callback and stored; the answer that comes after it finds its work done."""
    put_photo(sandbox)
    provider.add_fault(on="submit", kind="after_callback")
    door.open.clear()
    running = asyncio.create_task(run_it())
    told = await asyncio.to_thread(door.wait, 1)
    settled = await run_collect(door, told)
    assert (settled.summary, running.done()) == ("1 stored · $0.00", False)
    door.open.set()
    report = await running
    assert report.summary == "1 stored · $0.192"
    assert (sum(provider.billed().values()), stored_videos(sandbox), sandbox.keys("jobs/open/")) == (1, 1, [])


async def test_the_same_images_by_poll_and_by_callback_are_paid_and_stored_once(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT
) -> None:
    """Twenty images, a run of each kind at the same time, and every callback collected as it comes."""
    fill(sandbox, 20)
    provider.set_options(render="shared")
    both = asyncio.gather(run_it("poll"), run_it("callback"))
    heard = 0
    while not both.done():
        await asyncio.sleep(0.1)
        if news := door.hints[heard:]:
            heard += len(news)
            await run_collect(door, news)
    polled, called = both.result()
    called_back = sum(1 for task in provider.tasks.values() if task.request.callback_url)
    await run_collect(door, await asyncio.to_thread(door.wait, called_back))
    assert (polled.count(Outcome.STORED) + polled.count(Outcome.CACHED), called.succeeded) == (20, True)
    assert polled.spent_usd + called.spent_usd == 20 * Decimal("0.192")
    assert (len(provider.tasks), set(provider.billed().values())) == (20, {1})
    assert (stored_videos(sandbox), sandbox.keys("jobs/open/")) == (20, [])


@pytest.mark.timeout(60 + IMAGES)
async def test_whatever_becomes_of_callbacks_and_answers_each_image_is_billed_once(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, run_it: RUN_IT
) -> None:
    """A tenth of callbacks and of answers lost, others doubled, forged, early: only who lost both is left, and named.

    That takes one collect and one reconcile.
    """
    fill(sandbox, IMAGES)
    provider.set_options(render="shared", callback_scale=0.001)
    provider.add_fault(on="callback", kind="lost", times=None, probability=0.1, seed=1)
    provider.add_fault(on="callback", kind="double", times=None, probability=0.1, seed=2)
    provider.add_fault(on="callback", kind="disordered", times=None, probability=0.05, seed=3)
    provider.add_fault(on="callback", kind="forged", times=None, probability=0.05, seed=4)
    provider.add_fault(on="submit", kind="after_callback", times=None, probability=0.05, seed=5)
    provider.add_fault(on="submit", kind="lost_answer", times=None, probability=0.1, seed=6)
    reports = [await run_it()]
    while reports[-1].count(Outcome.NOT_TRIED):  # three answers in a row were lost
        reports.append(await run_it())
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    provider.wait(lambda: all(provider.request_log.find("callback", task) for task in provider.tasks))
    provider.wait(lambda: all(entry.outcome for entry in provider.request_log.find("callback")))
    await run_collect(door, list(door.hints))
    await run_collect(door, callback_patience_seconds=0.01)
    silent = {entry.task_id for entry in provider.request_log.find("callback") if entry.outcome == "lost"}
    unanswered = {entry.task_id for entry in provider.request_log.find("submit") if entry.outcome == "lost_answer"}
    assert silent - unanswered, "nothing tests the reconcile"
    assert unanswered - silent, "nothing tests the adoption"
    assert set(provider.billed().values()) == {1}
    assert len(provider.tasks) == IMAGES
    named = await run_collect(door, callback_patience_seconds=0.01)
    assert {item.outcome for item in named.items} <= {Outcome.UNKNOWN}
    assert len(named.items) == len(silent & unanswered)
    assert stored_videos(sandbox) == IMAGES - len(silent & unanswered)
    await check_each_has_its_own(door, provider, sandbox)


async def check_each_has_its_own(door: CallbackReceiver, provider: Provider, sandbox: Sandbox) -> None:
    """Each stored job's task is the one that was made of its own image."""
    async with open_callback_run(door) as run:
        records = [record async for record in run.ledger.records()]
    stored = [record for record in records if record.state is JobState.STORED]
    assert len(stored) == stored_videos(sandbox)
    for record in stored:
        assert provider.tasks[record.task_id or ""].image_sha256 == record.image.facts.sha256
