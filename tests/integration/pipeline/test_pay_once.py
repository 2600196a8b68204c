"""Promises 1 to 3 on the steps themselves, against the sandbox and its faults."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from i2v.errors import AccountRejected, Busy, LedgerError, NotTried, Paused
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger import keys, transitions
from i2v.ledger.job import JobState, Reason
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.order import Order
from i2v.pipeline.poll import poll
from i2v.pipeline.publish import publish_outputs
from i2v.pipeline.store import NotDelivered, store
from i2v.pipeline.submit import submit
from i2v.pipeline.submit_result import record_task_id
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.orders import OpenRun, order_for, put_photo

PRICE = Decimal("0.192")


async def bring(run: RunContext, order: Order) -> VersionedRecord:
    """One image through submit, poll and store."""
    held = await submit(run, order)
    held, status, _ = await poll(run, held)
    return await store(run, held, status) if status else held


def billed(provider: Provider) -> int:
    """How many tasks the emulator billed."""
    return sum(provider.billed().values())


async def test_a_job_is_paid_once_and_found_again(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A stored job is attached by whoever comes later, and costs nothing then."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        first = await bring(run, await order_for(run, uri))
    async with new_run() as run:
        again = await submit(run, await order_for(run, uri))
    assert (first.record.state, again.record.state) == (JobState.STORED, JobState.STORED)
    assert billed(provider) == 1


async def test_racing_runs_pay_once(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Eight runs that want the same video at the same moment pay one of them."""
    uri = put_photo(sandbox)

    async def one() -> JobState:
        async with new_run() as run:
            return (await bring(run, await order_for(run, uri))).record.state

    states = await asyncio.gather(*(one() for _ in range(8)))
    assert set(states) == {JobState.STORED}
    assert billed(provider) == 1


LOST = ["lost_answer", "reset_answer", "garbage", "empty", "html", "not_http", "no_task_id", "drop", "reset"]


@pytest.mark.parametrize("kind", LOST)
async def test_a_lost_answer_is_never_repeated(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str
) -> None:
    """However an answer is lost, the job is unknown, also for the next run, and nothing is sent again."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind=kind)
    async with new_run() as run:
        held = await submit(run, await order_for(run, uri))
    async with new_run() as run:
        again = await submit(run, await order_for(run, uri))
    assert (held.record.state, again.record.state) == (JobState.UNKNOWN, JobState.UNKNOWN)
    assert len(provider.request_log.find("submit")) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_plain_refusal_is_sent_again(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, status: int
) -> None:
    """What was plainly refused is sent again and billed once."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=status, times=2)
    async with new_run() as run:
        held = await submit(run, await order_for(run, uri))
    assert held.record.state is JobState.SUBMITTED
    assert billed(provider) == 1


async def test_a_504_is_lost_and_not_refused(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A gateway's timeout says nothing of what was paid."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=504, accepted=True)
    async with new_run() as run:
        held = await submit(run, await order_for(run, uri))
    assert held.record.state is JobState.UNKNOWN


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_an_account_refusal_stops_the_run_and_frees_the_job(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, status: int
) -> None:
    """401, 402, 403: nothing was paid, the job is ready, and this run submits nothing more."""
    one, two = put_photo(sandbox), put_photo(sandbox, "two.jpg", 2)
    provider.add_fault(on="submit", kind="answer", status=status, times=None)
    async with new_run() as run:
        order = await order_for(run, one)
        with pytest.raises(AccountRejected):
            await submit(run, order)
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, two))
        held = await run.ledger.read_existing(order.key)
    assert held.record.state is JobState.READY
    assert held.record.attempts == ()
    assert billed(provider) == 0


async def test_a_400_refuses_the_job_for_good_at_no_cost(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """What the provider will not take is refused, and not asked again."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=400)
    async with new_run() as run:
        order = await order_for(run, uri)
        held = await submit(run, order)
        await publish_outputs(run, held.record, order.image)
        again = await submit(run, order)
    assert (held.record.state, again.record.state) == (JobState.REFUSED, JobState.REFUSED)
    assert [key for key in sandbox.keys("videos/") if key.endswith(".refused.json")]
    assert not sandbox.keys("jobs/open/")


async def test_patience_with_refusals_ends(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A provider that is always busy ends the image, not the night; the job is ready and free."""
    uri = put_photo(sandbox)
    provider.add_fault(on="submit", kind="answer", status=429, times=None)
    async with new_run(submit_patience_seconds=0.5) as run:
        order = await order_for(run, uri)
        with pytest.raises(Busy):
            await submit(run, order)
        held = await run.ledger.read_existing(order.key)
    assert held.record.state is JobState.READY


async def test_three_lost_answers_stop_the_runs_submits(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A network that loses answers is not fed a fourth one."""
    provider.add_fault(on="submit", kind="lost_answer", times=None)
    async with new_run() as run:
        for number in range(3):
            await submit(run, await order_for(run, put_photo(sandbox, f"{number}.jpg", number)))
        with pytest.raises(NotTried):
            await submit(run, await order_for(run, put_photo(sandbox, "3.jpg", 3)))


async def test_a_claim_past_its_lease_is_unknown(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """A process that died between claim and answer may have paid: nobody pays again by himself."""
    uri = put_photo(sandbox)
    async with new_run() as dead:
        order = await order_for(dead, uri)
        held = await dead.ledger.read_or_new(order.key, order.image, order.request)
        claim = {"token": "t", "run_id": dead.run_id, "price_usd": PRICE, "now": held.record.created_at}
        claim["image"] = order.image
        await dead.ledger.change(held, lambda record: transitions.claim(record, **claim))  # type: ignore[arg-type]
    async with new_run(lease_seconds=1.0) as run:
        found = await submit(run, order)
    assert found.record.state is JobState.UNKNOWN
    assert billed(provider) == 0


async def test_a_late_answer_is_adopted(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """The claimant's task id comes after its lease was over: the unknown job is submitted after all."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        order = await order_for(run, uri)
        held = await run.ledger.read_or_new(order.key, order.image, order.request)
        claim = {"token": "t", "run_id": run.run_id, "price_usd": PRICE, "now": held.record.created_at}
        claim["image"] = order.image
        claimed = await run.ledger.change(held, lambda record: transitions.claim(record, **claim))  # type: ignore[arg-type]
        assert claimed
        reason = Reason(code="lease_over", message="")
        await run.ledger.change(claimed, lambda record: transitions.mark_unknown(record, "t", reason))
        late = await record_task_id(run, claimed, "t", "task_late")
    assert (late.record.state, late.record.task_id) == (JobState.SUBMITTED, "task_late")


async def test_a_transient_failure_is_tried_again_within_its_attempts(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A task that timed out is paid once more and no third time."""
    uri = put_photo(sandbox)
    provider.add_fault(on="task", kind="fails", code="Timeout", times=None)
    async with new_run() as run:
        order = await order_for(run, uri)
        first = await bring(run, order)
        second = await bring(run, order)
    assert (first.record.state, second.record.state) == (JobState.READY, JobState.FAILED)
    assert billed(provider) == 2


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
        held = await bring(run, await order_for(run, uri))
    async with new_run() as run:
        again = await submit(run, await order_for(run, uri))
    assert (held.record.state, again.record.state) == (state, state)
    assert billed(provider) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 500, 504])
async def test_a_status_that_fails_never_ends_a_job(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, status: int
) -> None:
    """Whatever a status call answers, paid work is asked for again."""
    uri = put_photo(sandbox)
    provider.add_fault(on="status", kind="answer", status=status, times=2)
    async with new_run() as run:
        held = await bring(run, await order_for(run, uri))
    assert held.record.state is JobState.STORED


async def test_the_deadline_ends_the_wait_and_not_the_job(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A task that takes too long stays open, and the next run takes it up at no cost."""
    uri = put_photo(sandbox)
    provider.set_options(render_seconds=2)
    async with new_run(poll_deadline_seconds=0.2) as run:
        held, status, _ = await poll(run, await submit(run, await order_for(run, uri)))
        assert (held.record.state, status) == (JobState.SUBMITTED, None)
    async with new_run() as run:
        held = await bring(run, await order_for(run, uri))
    assert held.record.state is JobState.STORED
    assert billed(provider) == 1


@pytest.mark.parametrize("kind", ["truncated", "jpeg", "html", "cut", "empty", "garbage", "drop"])
async def test_a_broken_file_is_fetched_again_and_never_published(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str
) -> None:
    """A file that is not whole means another status and another download, not another payment."""
    uri = put_photo(sandbox)
    provider.add_fault(on="file", kind=kind)
    async with new_run() as run:
        held = await bring(run, await order_for(run, uri))
    assert held.record.state is JobState.STORED
    assert billed(provider) == 1


async def test_a_file_that_never_comes_whole_leaves_the_job_open(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """Three fresh statuses without a whole file: paid, named, open, and nothing of it is visible."""
    uri = put_photo(sandbox)
    provider.add_fault(on="file", kind="truncated", times=None)
    async with new_run() as run:
        order = await order_for(run, uri)
        with pytest.raises(NotDelivered):
            await bring(run, order)
        held = await run.ledger.read_existing(order.key)
    assert held.record.state is JobState.SUBMITTED
    assert sandbox.keys("videos/") == []
    assert len(sandbox.keys("jobs/open/")) == 1


@pytest.mark.parametrize(("kind", "word"), [("wrong_size", "short side"), ("wrong_length", "long instead of")])
async def test_a_delivery_that_differs_is_stored_and_flagged(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun, kind: str, word: str
) -> None:
    """What is whole but not as ordered is kept, and says so in the manifest."""
    uri = put_photo(sandbox)
    provider.add_fault(on="task", kind=kind, pixels=480, seconds=4)
    async with new_run() as run:
        held = await bring(run, await order_for(run, uri))
    assert held.record.video is not None
    manifest = sandbox.read_json(held.record.video.manifest.key)
    assert any(word in flag for flag in manifest["video"]["flags"]), manifest["video"]["flags"]


async def test_an_equal_image_elsewhere_gets_its_own_video_unpaid(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """The same content under another key is copied within S3, with a manifest of its own."""
    one, two = put_photo(sandbox, "one.jpg"), put_photo(sandbox, "deep/two.jpg")
    async with new_run() as run:
        await bring(run, await order_for(run, one))
        order = await order_for(run, two)
        held = await submit(run, order)
        video = await publish_outputs(run, held.record, order.image)
    assert video is not None
    assert video.key.startswith("videos/deep/two.jpg/")
    manifest = sandbox.read_json(video.key.replace(".mp4", ".json"))
    assert (manifest["image"]["label"], manifest["cost_usd"]) == (two, "0")
    assert sandbox.read(video.key) == sandbox.read(manifest["copied_from"].split("/", 3)[3])
    assert billed(provider) == 1


async def test_an_image_replaced_under_way_is_flagged(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Without versions the provider may have seen other bytes than were checked: the manifest says so."""
    uri = put_photo(sandbox)
    async with new_run() as run:
        held, status, _ = await poll(run, await submit(run, await order_for(run, uri)))
        put_photo(sandbox, seed=99)
        assert status
        held = await store(run, held, status)
    assert held.record.video is not None
    assert "replaced" in held.record.video.flags[0]


async def test_the_names_in_the_bucket_are_as_designed(sandbox: Sandbox, provider: Provider, new_run: OpenRun) -> None:
    """Video, poster and manifest lie in the image's own folder, and no mark is left open."""
    uri = put_photo(sandbox, "cats/tom.jpg")
    async with new_run() as run:
        order = await order_for(run, uri)
        await bring(run, order)
    stem = f"videos/cats/tom.jpg/{keys.digest12(order.image.etag)}-{order.request.digest12}"
    assert sandbox.keys("videos/") == [f"{stem}.jpg", f"{stem}.json", f"{stem}.mp4"]
    assert sandbox.keys("jobs/open/") == []


async def test_nothing_is_submitted_where_the_ledger_cannot_be_read(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """A ledger that is gone stops the run before anything else."""
    with pytest.raises(LedgerError, match="does not exist"):
        async with new_run(jobs_prefix="s3://no-such-bucket-here/jobs/"):
            pass
    assert billed(provider) == 0


async def test_a_paused_ledger_stops_what_would_pay_and_nothing_else(
    sandbox: Sandbox, provider: Provider, new_run: OpenRun
) -> None:
    """While it is paused, what is there is still told as cached, and a run that would have to pay does not start."""
    there, wanted = put_photo(sandbox), put_photo(sandbox, "two.jpg", 2)
    asked = RequestOptions(prompt="a slow zoom")
    async with new_run() as run:
        await bring(run, await order_for(run, there))
        await run.ledger.prepare()
        await run.ledger.set_paused(True)
    ends = []
    for uri in (there, wanted):
        async with new_run() as run:
            items = await find_items(uri, run.storage, run.settings)
            ends.append(await generate(run, items, asked, Steps()))
    (first, free), (second, stopped) = ends
    assert (first.summary, free) == ("1 cached · $0.00", None)
    assert (second.summary, type(stopped)) == ("1 not tried · $0.00", Paused)
    assert billed(provider) == 1
