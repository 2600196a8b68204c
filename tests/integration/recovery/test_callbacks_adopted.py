"""A submit's answer was lost: a callback gives the job its task where all agree, and a forged word changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from i2v.errors import CannotResolve
from i2v.ledger import keys, transitions
from i2v.ledger.job import Delivery, JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.order import Order
from i2v.pipeline.submit import submit
from i2v.recovery.callbacks import CallbackAdopter, CallbackHint, claim_task
from i2v.recovery.reconcile import list_open_markers, reconcile, settle_open
from i2v.recovery.resolve import Resolver
from i2v.reports.run_report import Outcome
from sandbox import Sandbox
from sandbox.fault_proxy import FaultProxy, FaultRule
from sandbox.provider import Provider
from tests.support.callback_receiver import CallbackReceiver, open_callback_run, run_collect, serve_callbacks
from tests.support.orders import order_for, put_photo
from tests.support.settings import MakeSettings


@pytest.fixture
def door(sandbox: Sandbox, make_settings: MakeSettings, aws: None) -> Iterator[CallbackReceiver]:
    """What is called back, and the settings by which it is."""
    with serve_callbacks(make_settings, sandbox.env) as door:
        yield door


async def ordered(run: RunContext, sandbox: Sandbox, name: str, seed: int, delivery: Delivery = "callback") -> Order:
    """The order of a new image."""
    return replace(await order_for(run, put_photo(sandbox, name, seed)), delivery=delivery)


async def lost(
    run: RunContext,
    sandbox: Sandbox,
    provider: Provider,
    name: str = "a.jpg",
    seed: int = 1,
    delivery: Delivery = "callback",
) -> tuple[VersionedRecord, str]:
    """A job that is unknown, and the task that was billed for it."""
    known = set(provider.tasks)
    provider.add_fault(on="submit", kind="lost_answer")
    held = await submit(run, await ordered(run, sandbox, name, seed, delivery))
    assert held.record.state is JobState.UNKNOWN
    (task_id,) = set(provider.tasks) - known
    return held, task_id


def record_bytes(sandbox: Sandbox, key: str) -> bytes:
    """The record as it lies in the bucket."""
    return sandbox.read(f"jobs/{key}.json")


async def test_a_lost_answer_is_made_up_for_by_the_callback(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver
) -> None:
    """The job is unknown until the provider calls; then its video is stored, with one payment and one question."""
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider)
    told = await asyncio.to_thread(door.wait, 1)
    assert told == [f"{held.record.key}/1/{task_id}"]
    assert (await run_collect(door, told)).summary == "1 stored · $0.00"
    assert (sum(provider.billed().values()), provider.status_requests()) == (1, {task_id: 1})
    assert sandbox.keys("jobs/open/") == []
    assert (await run_collect(door, told)).count(Outcome.STORED) == 1
    assert len(provider.request_log.find("file")) == 1


async def test_an_adopted_task_that_still_renders_is_settled_later(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver
) -> None:
    """A callback that came too early, or out of order, gives the task all the same; it is marked as open."""
    provider.set_options(render_seconds=60)
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider)
        for mark in await list_open_markers(run):
            await run.storage.delete(
                keys.open_marker_uri(run.settings, held.record.image.name, held.record.image.etag, mark)
            )
    report = await run_collect(door, [f"{held.record.key}/1/{task_id}"])
    assert [(item.outcome, item.task_id) for item in report.items] == [(Outcome.SUBMITTED, task_id)]
    assert len(sandbox.keys("jobs/open/")) == 1


@pytest.mark.parametrize("victim", ["poll", "callback", "adopted"])
async def test_a_forged_word_never_takes_anothers_task(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, victim: str
) -> None:
    """Whoever holds one job's address and knows another's task id, however that one got it, attaches nothing."""
    async with open_callback_run(door) as run:
        if victim == "adopted":
            owner, task_id = await lost(run, sandbox, provider, "b.jpg", 2)
            await claim_task(run.storage, run.settings, task_id, owner.record.key, 1)  # and died right after it
        else:
            delivery: Delivery = "poll" if victim == "poll" else "callback"
            owner = await submit(run, await ordered(run, sandbox, "b.jpg", 2, delivery))
            task_id = owner.record.task_id or ""
        held, own = await lost(run, sandbox, provider)
        before = record_bytes(sandbox, held.record.key)
        await settle_open(run, entries=[f"{held.record.key}/1/{task_id}"])
        assert record_bytes(sandbox, held.record.key) == before
        await settle_open(run, entries=[f"{held.record.key}/1/{own}", f"{owner.record.key}/1/{task_id}"])
        ends = [(await run.ledger.read_existing(one.record.key)).record.task_id for one in (held, owner)]
    assert ends == [own, task_id]


async def test_of_two_jobs_one_adopts_a_task(sandbox: Sandbox, provider: Provider, door: CallbackReceiver) -> None:
    """Two collects hear the same task for two jobs in the same moment: exactly one gets it."""
    async with open_callback_run(door) as run:
        one, task_id = await lost(run, sandbox, provider)
        other, _ = await lost(run, sandbox, provider, "b.jpg", 2)
    keys = [one.record.key, other.record.key]
    await asyncio.gather(*(run_collect(door, [f"{key}/1/{task_id}"]) for key in keys))
    async with open_callback_run(door) as run:
        tasks = Counter([(await run.ledger.read_existing(key)).record.task_id for key in keys])
    assert tasks == {task_id: 1, None: 1}


def aged(record: JobRecord, minutes: float) -> JobRecord:
    """The record as if it had been claimed at another time."""
    (attempt,) = record.attempts
    moved = attempt.model_copy(update={"claimed_at": attempt.claimed_at - timedelta(minutes=minutes)})
    return record.model_copy(update={"attempts": (moved,)})


@pytest.mark.parametrize(
    "case", ["nobody's task", "older task", "newer task", "another attempt", "by poll", "nothing but the key"]
)
async def test_what_does_not_agree_changes_nothing(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, case: str
) -> None:
    """A task that the provider does not know, or of another time, another attempt, or of a job that gave no address."""
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider, delivery="poll" if case == "by poll" else "callback")
        minutes = {"older task": -2.0, "newer task": 8.0}.get(case, 0.0)
        held = await run.ledger.change(held, lambda record: aged(record, minutes)) or held
        told = {
            "nobody's task": f"{held.record.key}/1/task_of_nobody",
            "another attempt": f"{held.record.key}/2/{task_id}",
            "nothing but the key": held.record.key,
        }.get(case, f"{held.record.key}/1/{task_id}")
        before = record_bytes(sandbox, held.record.key)
        report = await reconcile(run, entries=[told])
    assert [item.outcome for item in report.items] == [Outcome.UNKNOWN]
    assert record_bytes(sandbox, held.record.key) == before
    assert sandbox.keys("jobs/tasks/") == []


async def test_a_status_that_fails_leaves_the_word_to_be_heard_again(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver
) -> None:
    """While the provider cannot confirm it, the run fails and nothing changes; run again, it adopts."""
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider)
        told = await asyncio.to_thread(door.wait, 1)
        assert told == [f"{held.record.key}/1/{task_id}"]
        provider.add_fault(on="status", kind="answer", status=401)
        failed = await settle_open(run, entries=told)
        assert [item.outcome for item in failed] == [Outcome.FAILED]
        assert [item.outcome for item in await settle_open(run, entries=told)] == [Outcome.STORED]


async def test_a_word_for_an_older_attempt_leaves_the_newest_alone(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver
) -> None:
    """A person had it paid again: the first attempt's task is kept where it belongs, and the second one's is stored."""
    async with open_callback_run(door) as run:
        held, first = await lost(run, sandbox, provider)
        await Resolver(run.storage, run.settings).resubmit(held.record.key)
        again = await submit(run, await ordered(run, sandbox, "a.jpg", 1))
        second = again.record.task_id
        await asyncio.to_thread(door.wait, 2)
        await settle_open(run, entries=[f"{held.record.key}/1/{first}", f"{held.record.key}/2/{second}"])
        record = (await run.ledger.read_existing(held.record.key)).record
    assert [attempt.task_id for attempt in record.attempts] == [first, second]
    assert (record.state, record.task_id) == (JobState.STORED, second)


async def test_a_callback_saves_a_second_payment(sandbox: Sandbox, provider: Provider, door: CallbackReceiver) -> None:
    """A person wants it paid again, but the callback comes first: the paid task is taken up, and the run attaches."""
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider)
        await Resolver(run.storage, run.settings).resubmit(held.record.key)
        await reconcile(run, entries=[f"{held.record.key}/1/{task_id}"])
        again = await submit(run, await ordered(run, sandbox, "a.jpg", 1))
    assert again.record.task_id == task_id
    assert sum(provider.billed().values()) == 1


async def test_a_person_and_a_callback_share_the_tasks(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver
) -> None:
    """What a callback adopted no person gives to another job, not even before the record tells of it."""
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider)
        other, _ = await lost(run, sandbox, provider, "b.jpg", 2)
        await claim_task(run.storage, run.settings, task_id, held.record.key, 1)
        with pytest.raises(CannotResolve, match="belongs to job"):
            await Resolver(run.storage, run.settings).adopt(other.record.key, task_id, run.client)
        adopted = await Resolver(run.storage, run.settings).adopt(held.record.key, task_id, run.client)
    assert adopted.task_id == task_id


async def test_the_owners_own_answer_wins_no_second_task(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver
) -> None:
    """An answer that names another task than the callback did is kept beside it: neither is lost."""
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider)
        heard, _ = await CallbackAdopter(run).adopt_from_callback(held, [CallbackHint(held.record.key, 1, task_id)])
        token = heard.record.attempts[0].claim
        merged = await run.ledger.change(
            heard, lambda job: transitions.record_task(job, token, "task_late", job.updated_at)
        )
    assert merged is not None
    assert (merged.record.task_id, merged.record.attempts[0].other_task_ids) == (task_id, ("task_late",))


@pytest.mark.parametrize("where", ["/jobs/tasks/", "/jobs/open/", "record"])
async def test_an_adoption_that_dies_is_done_again(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """S3 fails at its page, its mark or its record: the run fails, and the same word heard again adopts."""
    monkeypatch.setattr("i2v.recovery.callbacks.RETRY_SECONDS", ())
    async with open_callback_run(door) as run:
        held, task_id = await lost(run, sandbox, provider)
    told = await asyncio.to_thread(door.wait, 1)
    assert told == [f"{held.record.key}/1/{task_id}"]
    with FaultProxy(sandbox.aws.address) as proxy:
        path = f"/jobs/{held.record.key}" if where == "record" else where
        proxy.add(FaultRule("fail", "PUT", path, status=403, code="AccessDenied", times=None))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        failed = await run_collect(door, told)
    monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox.aws.url)
    assert [item.outcome for item in failed.items] == [Outcome.FAILED]
    assert (await run_collect(door, told)).count(Outcome.STORED) == 1
    assert (sum(provider.billed().values()), sandbox.keys("jobs/open/")) == (1, [])


async def test_what_callbacks_cost_in_s3_requests(
    sandbox: Sandbox, provider: Provider, door: CallbackReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit by callback makes the requests of one by poll; an adoption, a listing, a page, a mark and a record."""
    with FaultProxy(sandbox.aws.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        costs = []
        async with open_callback_run(door) as run:
            run.set_image_count(9)  # so that money is reserved once
            for number, delivery in enumerate(("poll", "callback")):
                order = await ordered(run, sandbox, f"{number}.jpg", number, delivery)  # type: ignore[arg-type]
                await run.budget.reserve(order.price_usd)
                before = len(proxy.log)
                await submit(run, order)
                costs.append(len(proxy.log) - before)
            held, task_id = await lost(run, sandbox, provider, "lost.jpg", 7)
            before = len(proxy.log)
            await CallbackAdopter(run).adopt_from_callback(held, [CallbackHint(held.record.key, 1, task_id)])
            adoption = Counter(entry.method for entry in proxy.log[before:])
    assert costs[0] == costs[1]
    assert adoption == {"GET": 1 + 3, "PUT": 3}, "one listing, the three records of these minutes, and three writes"
