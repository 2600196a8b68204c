"""Promises 1 to 3 for the steps of one image, against the sandbox and its faults."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from i2v.errors import AccountRejected, Busy, LedgerError, NotTried, Paused
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger import keys
from i2v.ledger.job import JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate, process_order
from i2v.pipeline.outputs.publish import publish_outputs
from i2v.pipeline.payment.accepted_or_lost import record_task_id
from i2v.pipeline.poll import poll
from i2v.pipeline.store import NotDelivered, store
from i2v.pipeline.submit import submit
from i2v.pipeline.video_order import Order
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.memory_provider import claim_by_hand, lose
from tests.support.orders import OpenRun, order_for, put_photo

PRICE = Decimal("0.192")


async def run_all_steps(run: RunContext, order: Order) -> VersionedRecord:
    """Run submit, poll and store for one image."""
    job = await submit(run, order)
    job, status, _ = await poll(run, job)
    return await store(run, job, status) if status else job


def billed_tasks(provider: Provider) -> int:
    """Count the tasks that the emulator billed."""
    return sum(provider.billed().values())


async def test_a_stored_job_is_not_paid_again(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A later run attaches to a stored job at no cost."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        first = await run_all_steps(run, await order_for(run, uri))
    async with new_run() as run:
        again = await submit(run, await order_for(run, uri))
    assert (first.record.state, again.record.state) == (JobState.STORED, JobState.STORED)
    assert billed_tasks(provider) == 1


async def test_racing_runs_pay_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Eight runs that want the same video at the same time pay for it once."""
    uri = put_photo(sandbox)

    async def generate_one() -> JobState:
        async with new_run() as run:
            return (await run_all_steps(run, await order_for(run, uri))).record.state

    states = await asyncio.gather(*(generate_one() for _ in range(8)))
    assert set(states) == {JobState.STORED}
    assert billed_tasks(provider) == 1


LOST_RESPONSES = ["lost_answer", "reset_answer", "garbage", "empty", "html", "not_http", "no_task_id", "drop", "reset"]


@pytest.mark.parametrize("kind", LOST_RESPONSES)
async def test_a_lost_submit_is_never_repeated(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str
) -> None:
    """However the response is lost, the job is unknown, also for the next run, and the submit is not repeated."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind=kind)
    async with new_run() as run:
        job = await submit(run, await order_for(run, uri))
    async with new_run() as run:
        again = await submit(run, await order_for(run, uri))
    assert (job.record.state, again.record.state) == (JobState.UNKNOWN, JobState.UNKNOWN)
    assert len(provider.request_log.find("submit")) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_clear_rejection_is_retried(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, status: int
) -> None:
    """429, 500, 502 and 503 with the provider's envelope are retried and billed once."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=status, times=2)
    async with new_run() as run:
        job = await submit(run, await order_for(run, uri))
    assert job.record.state is JobState.SUBMITTED
    assert billed_tasks(provider) == 1


async def test_a_504_makes_the_job_unknown(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A gateway timeout does not say whether the task was billed."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=504, accepted=True)
    async with new_run() as run:
        job = await submit(run, await order_for(run, uri))
    assert job.record.state is JobState.UNKNOWN


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_an_account_error_stops_the_run_and_leaves_the_job_ready(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, status: int
) -> None:
    """After 401, 402 or 403 the job is ready and unpaid, and the run submits nothing else."""
    one, two = put_photo(sandbox), put_photo(sandbox, "two.jpg", 2)
    provider.add_fault(on="submit", kind="answer", status=status, times=None)
    async with new_run() as run:
        order = await order_for(run, one)
        with pytest.raises(AccountRejected):
            await submit(run, order)
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, two))
        job = await run.ledger.read_existing(order.key)
    assert job.record.state is JobState.READY
    assert [attempt.cost_usd for attempt in job.record.attempts] == [0]
    assert billed_tasks(provider) == 0


async def test_a_400_refuses_the_job_permanently(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A job that the provider rejects with 400 is refused at no cost and not submitted again."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run() as run:
        order = await order_for(run, uri)
        lines = [await process_order(run, order, Steps()) for _ in range(2)]
    assert [(line.outcome, line.cost_usd) for line in lines] == [(Outcome.REFUSED, Decimal(0))] * 2
    assert len(provider.request_log.find("submit")) == 1
    assert [key for key in sandbox.keys("videos/") if key.endswith(".refused.json")]
    assert not sandbox.keys("jobs/open/")


async def test_retries_of_a_busy_provider_end(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """If the provider keeps answering 429, the image fails after the submit deadline and the job is ready."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=429, times=None)
    async with new_run(submit_patience_seconds=0.5) as run:
        order = await order_for(run, uri)
        with pytest.raises(Busy):
            await submit(run, order)
        job = await run.ledger.read_existing(order.key)
    assert job.record.state is JobState.READY


async def test_three_lost_responses_stop_the_submits(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """After three lost responses in a row the run submits nothing else."""
    provider.add_fault(on="submit", kind="lost_answer", times=None)
    async with new_run() as run:
        for number in range(3):
            await submit(run, await order_for(run, put_photo(sandbox, f"{number}.jpg", number)))
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, put_photo(sandbox, "3.jpg", 3)))


async def test_an_expired_claim_is_unknown(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A claim whose lease has expired may have been paid, so no other run submits the job."""
    uri = put_photo(sandbox)
    async with new_run() as dead:
        order = await order_for(dead, uri)
        await claim_by_hand(dead.ledger, order, run_id=dead.run_id)
    async with new_run(lease_seconds=1.0) as run:
        found = await submit(run, order)
    assert found.record.state is JobState.UNKNOWN
    assert billed_tasks(provider) == 0


async def test_a_late_task_id_is_recorded(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A task id that arrives after the lease turns the unknown job into a submitted one."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        order = await order_for(run, uri)
        claimed = await claim_by_hand(run.ledger, order, run_id=run.run_id)
        await lose(run.ledger, claimed)
        late = await record_task_id(run, claimed, "t", "task_late")
    assert (late.record.state, late.record.task_id) == (JobState.SUBMITTED, "task_late")


async def test_a_transient_failure_is_retried_up_to_the_limit(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A task that times out is paid a second time and not a third time."""
    uri = put_photo(sandbox)
    provider.add_fault(on="task", kind="fails", code="Timeout", times=None)
    async with new_run() as run:
        order = await order_for(run, uri)
        first = await run_all_steps(run, order)
        second = await run_all_steps(run, order)
    assert (first.record.state, second.record.state) == (JobState.READY, JobState.FAILED)
    assert billed_tasks(provider) == 2


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("NSFW", JobState.REFUSED),
        ("CONTENT_VIOLATION", JobState.REFUSED),
        ("InvalidImageSize", JobState.REFUSED),
        ("IMAGE_DOWNLOAD_FAILED", JobState.FAILED),
        ("GENERATION_FAILED", JobState.FAILED),
        ("SomethingNew", JobState.FAILED),
    ],
)
async def test_a_final_failure_is_never_paid_again(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, code: str, state: JobState
) -> None:
    """Content, input and unknown fail codes end the job for every run."""
    uri = put_photo(sandbox)
    provider.add_fault(on="task", kind="fails", code=code, times=None)
    async with new_run() as run:
        job = await run_all_steps(run, await order_for(run, uri))
    async with new_run() as run:
        again = await submit(run, await order_for(run, uri))
    assert (job.record.state, again.record.state) == (state, state)
    assert billed_tasks(provider) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 500, 504])
async def test_a_failed_status_request_never_ends_a_job(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, status: int
) -> None:
    """Whatever error a status request returns, the task is polled again."""
    uri = put_photo(sandbox)
    provider.add_fault(on="status", kind="answer", status=status, times=2)
    async with new_run() as run:
        job = await run_all_steps(run, await order_for(run, uri))
    assert job.record.state is JobState.STORED


async def test_the_deadline_ends_the_wait_and_not_the_job(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A task that exceeds the poll deadline stays open, and the next run attaches to it at no cost."""
    uri = put_photo(sandbox)
    provider.set_options(render_seconds=2)
    async with new_run(poll_deadline_seconds=0.2) as run:
        job, status, _ = await poll(run, await submit(run, await order_for(run, uri)))
        assert (job.record.state, status) == (JobState.SUBMITTED, None)
    async with new_run() as run:
        job = await run_all_steps(run, await order_for(run, uri))
    assert job.record.state is JobState.STORED
    assert billed_tasks(provider) == 1


@pytest.mark.parametrize("kind", ["truncated", "jpeg", "html", "cut", "empty", "garbage", "drop"])
async def test_a_corrupt_file_is_downloaded_again(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str
) -> None:
    """A corrupt video file is downloaded again with a new status request, and is not paid again."""
    uri = put_photo(sandbox)
    provider.add_fault(on="file", kind=kind)
    async with new_run() as run:
        job = await run_all_steps(run, await order_for(run, uri))
    assert job.record.state is JobState.STORED
    assert billed_tasks(provider) == 1


async def test_a_file_that_stays_cut_off_leaves_the_job_open(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """If every download breaks off, the job stays open and no object is visible."""
    uri = put_photo(sandbox)
    provider.add_fault(on="file", kind="cut", times=None)
    async with new_run() as run:
        order = await order_for(run, uri)
        with pytest.raises(NotDelivered):
            await run_all_steps(run, order)
        job = await run.ledger.read_existing(order.key)
    assert job.record.state is JobState.SUBMITTED
    assert sandbox.keys("videos/") == []
    assert len(sandbox.keys("jobs/open/")) == 1


@pytest.mark.parametrize(("kind", "flag_text"), [("wrong_size", "short side"), ("wrong_length", "long instead of")])
async def test_a_video_that_differs_from_its_request_is_flagged(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str, flag_text: str
) -> None:
    """A video of the wrong size or length is stored, and its manifest has a flag."""
    uri = put_photo(sandbox)
    provider.add_fault(on="task", kind=kind, pixels=480, seconds=4)
    async with new_run() as run:
        job = await run_all_steps(run, await order_for(run, uri))
    assert job.record.video is not None
    manifest = sandbox.read_json(job.record.video.manifest.key)
    assert any(flag_text in flag for flag in manifest["video"]["flags"]), manifest["video"]["flags"]


async def test_an_equal_image_at_another_key_gets_a_free_copy(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The video of an equal image at another key is copied within S3 and has its own manifest."""
    one, two = put_photo(sandbox, "one.jpg"), put_photo(sandbox, "deep/two.jpg")
    async with new_run() as run:
        await run_all_steps(run, await order_for(run, one))
        order = await order_for(run, two)
        job = await submit(run, order)
        video = await publish_outputs(run, job.record, order.image)
    assert video is not None
    assert video.key.startswith("videos/deep/two.jpg/")
    manifest = sandbox.read_json(video.key.replace(".mp4", ".json"))
    assert (manifest["image"]["label"], manifest["cost_usd"]) == (two, "0")
    assert sandbox.read(video.key) == sandbox.read(manifest["copied_from"].split("/", 3)[3])
    assert billed_tasks(provider) == 1


async def test_an_image_replaced_during_the_run_is_flagged(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """In a bucket without versions the provider may have read a replaced image, so the manifest has a flag."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        job, status, _ = await poll(run, await submit(run, await order_for(run, uri)))
        put_photo(sandbox, seed=99)
        assert status
        job = await store(run, job, status)
    assert job.record.video is not None
    assert "replaced" in job.record.video.flags[0]


async def test_the_object_keys_are_as_documented(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Video, poster and manifest are in the image's own folder, and no open marker is left."""
    uri = put_photo(sandbox, "cats/tom.jpg")
    async with new_run() as run:
        order = await order_for(run, uri)
        await run_all_steps(run, order)
    stem = f"videos/cats/tom.jpg/{keys.digest12(order.image.etag)}-{order.request.digest12}"
    assert sandbox.keys("videos/") == [f"{stem}.jpg", f"{stem}.json", f"{stem}.mp4"]
    assert sandbox.keys("jobs/open/") == []


async def test_nothing_is_submitted_without_a_ledger(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A missing ledger bucket stops the run before it does anything else."""
    with pytest.raises(LedgerError, match="does not exist"):
        async with new_run(jobs_prefix="s3://no-such-bucket-here/jobs/"):
            pass
    assert billed_tasks(provider) == 0


async def test_a_paused_ledger_stops_only_runs_that_would_pay(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """While the ledger is paused, stored videos are reported as cached, and a run that would pay does not start."""
    stored, missing = put_photo(sandbox), put_photo(sandbox, "two.jpg", 2)
    options = RequestOptions(prompt="a slow zoom")
    async with new_run() as run:
        await run_all_steps(run, await order_for(run, stored))
        await run.ledger.info.prepare()
        await run.ledger.info.set_paused(True)
    results = []
    for uri in (stored, missing):
        async with new_run() as run:
            items = await find_items(uri, run.storage, run.settings)
            results.append(await generate(run, items, options, Steps()))
    (first, not_stopped), (second, stopped) = results
    assert (first.summary, not_stopped) == ("1 cached · $0.00", None)
    assert (second.summary, type(stopped)) == ("1 not tried · $0.00", Paused)
    assert billed_tasks(provider) == 1
