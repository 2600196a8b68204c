"""A job whose submit response was lost takes its task id from a matching callback, and ignores any other."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from i2v.errors import CannotResolve
from i2v.ledger import keys, transitions
from i2v.ledger.attempt import Delivery
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.ledger.task_pages import claim_task
from i2v.pipeline.context import RunContext
from i2v.pipeline.submit import submit
from i2v.pipeline.video_order import Order
from i2v.recovery.adopt_from_callback import CallbackHint, adopt_from_callback
from i2v.recovery.reconcile import settle_open
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.provider import Provider
from tests.support.callback_receiver import CallbackReceiver, open_callback_run, run_collect
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.orders import order_for, put_photo
from tests.support.reconciling import reconcile


async def make_order(run: RunContext, sandbox: Sandbox, name: str, seed: int, delivery: Delivery = "callback") -> Order:
    """Put an image and return its order."""
    return replace(await order_for(run, put_photo(sandbox, name, seed)), delivery=delivery)


async def submit_and_lose_response(
    run: RunContext,
    sandbox: Sandbox,
    provider: Provider,
    name: str = "a.jpg",
    seed: int = 1,
    delivery: Delivery = "callback",
) -> tuple[VersionedRecord, str]:
    """Return an unknown job, and the id of the task that was billed for it."""
    known = set(provider.tasks)
    provider.add_fault(on="submit", kind="lost_answer")
    job = await submit(run, await make_order(run, sandbox, name, seed, delivery))
    assert job.record.state is JobState.UNKNOWN
    (task_id,) = set(provider.tasks) - known
    return job, task_id


def record_bytes(sandbox: Sandbox, key: str) -> bytes:
    """Return the bytes of the job's record."""
    return sandbox.read(f"jobs/{key}.json")


async def test_a_callback_resolves_an_unknown_job(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver
) -> None:
    """An unknown job is stored after its callback, with one payment and one status request."""
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(run, sandbox, provider)
    hints = await asyncio.to_thread(receiver.wait, 1)
    assert hints == [f"{job.record.key}/1/{task_id}"]
    assert (await run_collect(receiver, hints)).summary == "1 stored · $0.00"
    assert (sum(provider.billed().values()), provider.status_requests()) == (1, {task_id: 1})
    assert sandbox.keys("jobs/open/") == []
    assert (await run_collect(receiver, hints)).count(Outcome.STORED) == 1
    assert len(provider.request_log.find("file")) == 1


async def test_an_adopted_task_that_still_renders_is_settled_later(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver
) -> None:
    """A callback for a task that still renders attaches the task and puts an open marker."""
    provider.set_options(render_seconds=60)
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(run, sandbox, provider)
        await run.storage.delete(keys.open_marker_uri(run.settings, job.record.image, job.record.key, 1))
    report = await run_collect(receiver, [f"{job.record.key}/1/{task_id}"])
    assert [(item.outcome, item.task_id) for item in report.items] == [(Outcome.SUBMITTED, task_id)]
    assert len(sandbox.keys("jobs/open/")) == 1


@pytest.mark.parametrize("victim", ["poll", "callback", "adopted"])
async def test_a_forged_callback_never_takes_another_jobs_task(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, victim: str
) -> None:
    """A callback signed for one job that names another job's task changes nothing."""
    async with open_callback_run(receiver) as run:
        if victim == "adopted":
            owner, task_id = await submit_and_lose_response(run, sandbox, provider, "b.jpg", 2)
            await claim_task(run.storage, run.settings, task_id, owner.record.key, 1)  # and the run died right after
        else:
            delivery: Delivery = "poll" if victim == "poll" else "callback"
            owner = await submit(run, await make_order(run, sandbox, "b.jpg", 2, delivery))
            task_id = owner.record.task_id or ""
        job, own = await submit_and_lose_response(run, sandbox, provider)
        before = record_bytes(sandbox, job.record.key)
        await settle_open(run, entries=[f"{job.record.key}/1/{task_id}"])
        assert record_bytes(sandbox, job.record.key) == before
        await settle_open(run, entries=[f"{job.record.key}/1/{own}", f"{owner.record.key}/1/{task_id}"])
        task_ids = [(await run.ledger.read_existing(job.record.key)).record.task_id for job in (job, owner)]
    assert task_ids == [own, task_id]


async def test_only_one_of_two_jobs_adopts_a_task(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver
) -> None:
    """If two collects get the same task for two jobs at the same time, exactly one job gets it."""
    async with open_callback_run(receiver) as run:
        first, task_id = await submit_and_lose_response(run, sandbox, provider)
        second, _ = await submit_and_lose_response(run, sandbox, provider, "b.jpg", 2)
    jobs = [first.record.key, second.record.key]
    await asyncio.gather(*(run_collect(receiver, [f"{job}/1/{task_id}"]) for job in jobs))
    async with open_callback_run(receiver) as run:
        tasks = Counter([(await run.ledger.read_existing(job)).record.task_id for job in jobs])
    assert tasks == {task_id: 1, None: 1}


def claimed_earlier(record: JobRecord, minutes: float) -> JobRecord:
    """Return the record as if it had been claimed this many minutes earlier."""
    (attempt,) = record.attempts
    earlier = attempt.model_copy(update={"claimed_at": attempt.claimed_at - timedelta(minutes=minutes)})
    return record.model_copy(update={"attempts": (earlier,)})


@pytest.mark.parametrize("case", ["unknown task", "older task", "newer task", "another attempt", "poll", "no task"])
async def test_a_callback_that_does_not_match_changes_nothing(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, case: str
) -> None:
    """A task of another time or attempt, an unknown task, and a job without a callback URL leave the job unknown."""
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(
            run, sandbox, provider, delivery="poll" if case == "poll" else "callback"
        )
        minutes = {"older task": -2.0, "newer task": 8.0}.get(case, 0.0)
        aged = claimed_earlier(job.record, minutes).model_dump_json().encode()
        await run.storage.put(keys.job_uri(run.settings, job.record.key), aged)
        hint = {
            "unknown task": f"{job.record.key}/1/task_unknown",
            "another attempt": f"{job.record.key}/2/{task_id}",
            "no task": job.record.key,
        }.get(case, f"{job.record.key}/1/{task_id}")
        before = record_bytes(sandbox, job.record.key)
        report = await reconcile(run, entries=[hint])
    assert [item.outcome for item in report.items] == [Outcome.UNKNOWN]
    assert record_bytes(sandbox, job.record.key) == before
    assert sandbox.keys("jobs/tasks/") == []


async def test_a_hint_is_used_again_after_a_failed_status_request(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver
) -> None:
    """If the provider cannot confirm a hint, the item fails and nothing changes; the same hint works later."""
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(run, sandbox, provider)
        hints = await asyncio.to_thread(receiver.wait, 1)
        assert hints == [f"{job.record.key}/1/{task_id}"]
        provider.add_fault(on="status", kind="answer", status=401)
        failed = await settle_open(run, entries=hints)
        assert [item.outcome for item in failed] == [Outcome.FAILED]
        assert [item.outcome for item in await settle_open(run, entries=hints)] == [Outcome.STORED]


async def test_a_callback_for_an_earlier_attempt_keeps_both(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver
) -> None:
    """After a resubmit, the first attempt gets its own task id, and both end stored; the first is the job's."""
    async with open_callback_run(receiver) as run:
        job, first = await submit_and_lose_response(run, sandbox, provider)
        await Resolver(run.storage, run.settings).resubmit(job.record.key)
        again = await submit(run, await make_order(run, sandbox, "a.jpg", 1))
        second = again.record.task_id
        await asyncio.to_thread(receiver.wait, 2)
        await settle_open(run, entries=[f"{job.record.key}/1/{first}", f"{job.record.key}/2/{second}"])
        record = (await run.ledger.read_existing(job.record.key)).record
    assert [attempt.task_id for attempt in record.attempts] == [first, second]
    assert (record.state, record.task_id, record.is_open) == (JobState.STORED, first, False)


async def test_a_callback_saves_a_second_payment(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver
) -> None:
    """If a callback arrives after a resubmit and before the next run, that run attaches instead of paying."""
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(run, sandbox, provider)
        await Resolver(run.storage, run.settings).resubmit(job.record.key)
        await reconcile(run, entries=[f"{job.record.key}/1/{task_id}"])
        again = await submit(run, await make_order(run, sandbox, "a.jpg", 1))
    assert again.record.task_id == task_id
    assert sum(provider.billed().values()) == 1


async def test_a_task_claimed_by_a_callback_cannot_be_adopted_by_hand(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver
) -> None:
    """A task that a callback claimed cannot be adopted for another job, even before the record names it."""
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(run, sandbox, provider)
        other, _ = await submit_and_lose_response(run, sandbox, provider, "b.jpg", 2)
        await claim_task(run.storage, run.settings, task_id, job.record.key, 1)
        with pytest.raises(CannotResolve, match="belongs to job"):
            await Resolver(run.storage, run.settings).adopt(other.record.key, task_id, run.client)
        adopted = await Resolver(run.storage, run.settings).adopt(job.record.key, task_id, run.client)
    assert adopted.task_id == task_id


async def test_a_second_task_id_is_kept(sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver) -> None:
    """A submit response with another task id than the callback's becomes a further attempt, and both are open."""
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(run, sandbox, provider)
        adopted, _ = await adopt_from_callback(run, job, CallbackHint(job.record.key, 1, task_id))
        token = adopted.record.attempts[0].claim
        merged = await run.ledger.change(
            adopted, lambda record: transitions.record_task(record, token, "task_late", record.updated_at)
        )
    assert merged is not None
    assert [attempt.task_id for attempt in merged.record.attempts] == [task_id, "task_late"]
    assert all(attempt.is_running for attempt in merged.record.attempts)


@pytest.mark.parametrize("where", ["/jobs/tasks/", "/jobs/open/", "record"])
async def test_a_failed_adoption_is_retried_with_the_same_hint(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """If S3 rejects the task's claim, the marker or the record, the item fails, and the same hint works later."""
    monkeypatch.setattr("i2v.recovery.adopt_from_callback.RETRY_SECONDS", ())
    async with open_callback_run(receiver) as run:
        job, task_id = await submit_and_lose_response(run, sandbox, provider)
    hints = await asyncio.to_thread(receiver.wait, 1)
    assert hints == [f"{job.record.key}/1/{task_id}"]
    with FaultProxy(sandbox.aws.address) as proxy:
        path = f"/jobs/{job.record.key}" if where == "record" else where
        proxy.add(FaultRule("fail", "PUT", path, status=403, code="AccessDenied", times=None))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        failed = await run_collect(receiver, hints)
    monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox.aws.url)
    assert [item.outcome for item in failed.items] == [Outcome.FAILED]
    assert (await run_collect(receiver, hints)).count(Outcome.STORED) == 1
    assert (sum(provider.billed().values()), sandbox.keys("jobs/open/")) == (1, [])


async def test_s3_requests_of_a_callback_job(
    sandbox: Sandbox, provider: Provider, receiver: CallbackReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback adds no S3 request to a submit, and an adoption takes three PUTs."""
    with FaultProxy(sandbox.aws.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        request_counts = []
        async with open_callback_run(receiver) as run:
            for number, delivery in enumerate(("poll", "poll", "callback")):  # the first one also checks the run
                order = await make_order(run, sandbox, f"{number}.jpg", number, delivery)  # type: ignore[arg-type]
                before = len(proxy.log)
                await submit(run, order)
                request_counts.append(len(proxy.log) - before)
            job, task_id = await submit_and_lose_response(run, sandbox, provider, "submit_and_lose_response.jpg", 7)
            before = len(proxy.log)
            await adopt_from_callback(run, job, CallbackHint(job.record.key, 1, task_id))
            adoption = Counter(entry.method for entry in proxy.log[before:])
    assert request_counts[1] == request_counts[2]
    assert adoption == {"PUT": 3}, "the task page, the marker and the record"
