"""Two attempts of one job that both bring a video, and videos that may show another image."""

from __future__ import annotations

import hashlib

import pytest

from i2v.ledger.job import JobRecord, JobState
from i2v.pipeline.generate import Steps, process_order
from i2v.pipeline.outputs import publish
from i2v.pipeline.payment.accepted_or_lost import record_task_id
from i2v.pipeline.submit import submit
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo
from tests.support.reconciling import reconcile


def stems(sandbox: Sandbox) -> list[str]:
    """Return the endings of all outputs: `.mp4`, or `.attempt-1.mp4` for one that is kept beside the job's."""
    return sorted(key.rpartition("/")[2].partition(".")[2] for key in sandbox.keys("videos/"))


async def pay_twice(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> JobRecord:
    """Lose the first answer, pay for a second attempt, and then get the first one's task id; return the job."""
    provider.add_fault(on="submit", kind="lost_answer")
    provider.add_fault(on="task", kind="wrong_length", seconds=4)  # the emulator gives equal tasks equal bytes
    async with new_run() as run:
        order = await order_for(run, put_photo(sandbox))
        lost = await submit(run, order)
        (first,) = provider.tasks
        await Resolver(run.storage, run.settings).resubmit(order.key)
        await submit(run, order)
        job = await record_task_id(run, lost, lost.record.attempts[0].claim, first)
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    return job.record


async def test_the_second_video_is_kept_beside_the_first(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Of two paid videos of one job the first is the job's, and the other is kept with a manifest and a flag."""
    paid = await pay_twice(sandbox, provider, new_run)
    async with new_run() as run:
        report = await reconcile(run)
        record = (await run.ledger.read_existing(paid.key)).record
    assert [item.outcome for item in report.items] == [Outcome.STORED]
    ends = [attempt.end.video for attempt in record.attempts if attempt.end]
    assert len([video for video in ends if video]) == 2
    assert record.video
    (other,) = [video for video in ends if video and video != record.video]
    assert (publish.BESIDE in record.video.flags, publish.BESIDE in other.flags) == (False, True)
    for video in (record.video, other):
        assert hashlib.sha256(sandbox.read(video.uri.key)).hexdigest() == video.sha256
        assert sandbox.read_json(video.manifest.key)["video"]["sha256"] == video.sha256
    tasks = {sandbox.read_json(video.manifest.key)["task_id"] for video in (record.video, other)}
    assert tasks == set(provider.tasks)
    assert stems(sandbox)[-3:] == ["jpg", "json", "mp4"]
    assert len(stems(sandbox)) == 6
    assert sandbox.keys("jobs/open/") == []


async def test_one_reconcile_stores_the_first_and_the_next_the_other(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """If the limit lets one video be stored, the job stays marked, and its other video comes the next time."""
    paid = await pay_twice(sandbox, provider, new_run)
    async with new_run() as run:
        await reconcile(run, limit=1)
        record = (await run.ledger.read_existing(paid.key)).record
    assert (record.state, record.is_open, len(stems(sandbox))) == (JobState.STORED, True, 3)
    assert len(sandbox.keys("jobs/open/")) == 1
    async with new_run() as run:
        await reconcile(run, limit=1)
        record = (await run.ledger.read_existing(paid.key)).record
    assert (record.state, record.is_open, len(stems(sandbox))) == (JobState.STORED, False, 6)
    assert sandbox.keys("jobs/open/") == []


@pytest.mark.parametrize("change", ["replaced", "deleted"])
async def test_a_video_that_may_show_another_image_is_not_copied(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, change: str
) -> None:
    """A video is flagged if its image changed meanwhile; an equal image gets no copy of it, and its line says why."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        job = await submit(run, await order_for(run, uri))
        if change == "replaced":
            put_photo(sandbox, seed=99)
        else:
            sandbox.s3().delete_object(Bucket=sandbox.bucket, Key="images/tom.jpg")
    provider.wait(lambda: all(task.state == "success" for task in provider.tasks.values()))
    async with new_run() as run:
        await reconcile(run)
        record = (await run.ledger.read_existing(job.record.key)).record
        assert record.video
        assert record.video.image_changed
        equal = await order_for(run, put_photo(sandbox, "equal.jpg"))
        line = await process_order(run, equal, Steps())
    assert (equal.key, line.outcome) == (job.record.key, Outcome.FAILED)
    assert "may show another image" in (line.reason or "")
    assert "--take 2" in (line.reason or "")
    assert sandbox.keys("videos/equal.jpg/") == []
    assert sum(provider.billed().values()) == 1
