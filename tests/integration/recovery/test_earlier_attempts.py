"""Every paid task of a job is asked for until it ends, also that of an earlier attempt whose answer came late."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from i2v.apixo.models import TaskStatus
from i2v.errors import AnswerLost, Busy, CannotResolve, Rejected, TaskRejected
from i2v.ledger import transitions
from i2v.ledger.attempt import EndKind, Reason
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.payment.accepted_or_lost import record_error, record_task_id
from i2v.pipeline.store import NotDelivered
from i2v.pipeline.submit import submit
from i2v.pipeline.video_order import Order
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.run_report import Outcome
from tests.support.memory_provider import (
    RUNNING,
    STEPS,
    SUCCESS,
    MemoryProvider,
    claim_by_hand,
    lose,
    put_order,
    store_without_bytes,
)
from tests.support.memory_storage import MemoryBucket, MemoryStorage, memory_run
from tests.support.reconciling import reconcile

FAILED, TIMED_OUT = "GENERATION_FAILED", "PROCESSING_TIMEOUT"
HOUR = 3600.0
LATE_ERRORS = {
    "429": Busy("429", "", "429", None, 429),
    "400": Rejected("400", "", "400", None, 400),
    "fail code": TaskRejected("a fail code", "", FAILED),
    "lost": AnswerLost("lost", ""),
}


class World:
    """A bucket whose job was lost at its first attempt, resubmitted by a person, and claimed a second time."""

    def __init__(self, **variables: Any) -> None:
        self.bucket = MemoryBucket()
        self.provider = MemoryProvider()
        self.variables = variables
        self.order: Order = put_order(self.bucket)

    def run(self, run_id: str) -> RunContext:
        """Return a run over this bucket."""
        return memory_run(MemoryStorage(self.bucket), run_id, client=self.provider, **self.variables)

    async def lose_and_claim_again(self) -> VersionedRecord:
        """Return the job, whose second attempt has no answer yet."""
        ledger = self.run("by hand").ledger
        await lose(ledger, await claim_by_hand(ledger, self.order, "one"), "one")
        await self.resolver.resubmit(self.order.key)
        return await claim_by_hand(ledger, self.order, "two")

    @property
    def resolver(self) -> Resolver:
        """A person at the command line."""
        run = self.run("person")
        return Resolver(run.storage, run.settings)

    async def answer(self, job: VersionedRecord, token: str, task_id: str, state: str) -> VersionedRecord:
        """Record the task that answers a claim."""
        self.provider.tasks[task_id] = state
        return await record_task_id(self.run("late"), job, token, task_id)

    async def reconcile(self, run_id: str) -> JobRecord:
        """Reconcile an hour later, when every run is gone; return the job."""
        self.bucket.wait(HOUR)
        run = self.run(run_id)
        await reconcile(run, steps=STEPS)
        return (await run.ledger.read_existing(self.order.key)).record

    async def pay(self) -> JobRecord:
        """Let another run want the same video."""
        return (await submit(self.run("next"), self.order)).record


@pytest.mark.parametrize("second", [FAILED, TIMED_OUT, "lost"])
async def test_a_late_task_of_an_earlier_attempt_is_stored(second: str) -> None:
    """A first attempt's task id that comes while a second is under way leads to its video, however the second ends."""
    world = World()
    job = await world.lose_and_claim_again()
    job = await world.answer(job, "one", "T-ONE", SUCCESS)
    assert (job.record.state, job.record.task_id) == (JobState.SUBMITTED, "T-ONE")
    if second == "lost":
        await lose(world.run("r").ledger, job, "two")
    else:
        await world.answer(job, "two", "T-TWO", second)
    record = await world.reconcile("reconcile")
    assert (record.state, record.task_id, "T-ONE" in world.provider.asked) == (JobState.STORED, "T-ONE", True)
    assert (await world.pay()).state is JobState.STORED
    assert world.provider.submits == []


@pytest.mark.parametrize("second", [FAILED, TIMED_OUT])
async def test_no_third_attempt_is_paid_around_a_task_in_hand(second: str) -> None:
    """While the first attempt's task still renders, the end of the second pays for no third; then the job goes on."""
    world = World(I2V_MAX_ATTEMPTS=3)
    job = await world.answer(await world.lose_and_claim_again(), "one", "T-ONE", RUNNING)
    await world.answer(job, "two", "T-TWO", second)
    record = await world.reconcile("first")
    assert (record.state, record.task_id) == (JobState.SUBMITTED, "T-ONE")
    assert ((await world.pay()).task_id, world.provider.submits) == ("T-ONE", [])
    assert [one.ended_as(EndKind.FAILED) for one in record.attempts] == [False, True]

    world.provider.tasks["T-ONE"] = SUCCESS
    assert (await world.reconcile("second")).state is JobState.STORED
    assert world.provider.submits == []


@pytest.mark.parametrize("second", [RUNNING, SUCCESS])
async def test_a_video_that_cannot_be_stored_stops_no_other_attempt(second: str) -> None:
    """If the first attempt's video can never be stored, the second attempt's task is asked for, and stored if ready."""
    world = World()
    job = await world.answer(await world.lose_and_claim_again(), "one", "T-ONE", SUCCESS)
    await world.answer(job, "two", "T-TWO", second)

    async def store(run: RunContext, job: VersionedRecord, status: TaskStatus) -> VersionedRecord:
        if status.task_id == "T-ONE":
            raise NotDelivered("Paid, but the video of task T-ONE cannot be downloaded")
        return await store_without_bytes(run, job, status)

    world.bucket.wait(HOUR)
    run = world.run("reconcile")
    (line,) = (await reconcile(run, steps=replace(STEPS, store=store))).items
    assert sorted(world.provider.asked) == ["T-ONE", "T-TWO"]
    assert (line.outcome, "T-ONE" in (line.reason or "")) == (Outcome.FAILED, True)
    record = (await run.ledger.read_existing(world.order.key)).record
    assert record.state is (JobState.STORED if second == SUCCESS else JobState.SUBMITTED)
    assert [one.is_running for one in record.attempts] == [True, second == RUNNING]


async def test_both_attempts_are_asked_for_at_once() -> None:
    """If both attempts have tasks that render, reconcile asks for both, and stores each that is ready."""
    world = World()
    job = await world.answer(await world.lose_and_claim_again(), "one", "T-ONE", RUNNING)
    await world.answer(job, "two", "T-TWO", SUCCESS)
    record = await world.reconcile("first")
    assert sorted(world.provider.asked) == ["T-ONE", "T-TWO"]
    assert (record.state, record.task_id, record.is_open) == (JobState.STORED, "T-TWO", True)

    world.provider.tasks["T-ONE"] = FAILED
    record = await world.reconcile("second")
    assert (record.state, record.task_id, record.is_open) == (JobState.STORED, "T-TWO", False)
    assert not [uri for uri in world.bucket.objects if "/open/" in uri.key]


async def test_a_person_adopts_the_task_of_an_earlier_attempt() -> None:
    """A person can adopt the first attempt's task after the second attempt has failed for good."""
    world = World()
    job = await world.lose_and_claim_again()
    await world.answer(job, "two", "T-TWO", FAILED)
    assert (await world.reconcile("first")).state is JobState.FAILED
    world.provider.tasks["T-ONE"] = SUCCESS
    adopted = await world.resolver.adopt(world.order.key, "T-ONE", world.provider)  # type: ignore[arg-type] # in memory
    assert (adopted.state, adopted.attempts[0].task_id) == (JobState.SUBMITTED, "T-ONE")
    record = await world.reconcile("second")
    assert (record.state, record.task_id) == (JobState.STORED, "T-ONE")


async def test_a_recorded_task_is_not_adopted_again() -> None:
    """A person who names a task that the job already has learns so, and nothing changes."""
    world = World()
    await world.answer(await world.lose_and_claim_again(), "one", "T-ONE", RUNNING)
    with pytest.raises(CannotResolve, match="already has task T-ONE"):
        await world.resolver.adopt(world.order.key, "T-ONE", world.provider)  # type: ignore[arg-type] # in memory


async def test_a_late_task_of_a_dropped_job_is_settled() -> None:
    """A task id that arrives after its job was dropped and its marker deleted is stored, though its run dies."""
    world = World()
    ledger = world.run("by hand").ledger
    job = await lose(ledger, await claim_by_hand(ledger, world.order))
    await world.resolver.drop(world.order.key)
    assert (await world.reconcile("first")).state is JobState.FAILED
    assert not [uri for uri in world.bucket.objects if "/open/" in uri.key]

    late = await world.answer(job, "t", "T-LATE", SUCCESS)
    assert (late.record.state, late.record.attempts[0].reopened) == (JobState.SUBMITTED, True)
    record = await world.reconcile("second")
    assert (record.state, record.task_id) == (JobState.STORED, "T-LATE")
    assert not [uri for uri in world.bucket.objects if "/open/" in uri.key]


@pytest.mark.parametrize("late", ["another task", "the same task", "429", "400", "fail code", "lost"])
async def test_a_late_answer_after_an_adoption_takes_nothing_away(late: str) -> None:
    """Whatever answer a submit gets after a person adopted a task for it, the adopted task is stored."""
    world = World()
    run = world.run("slow")
    claimed = await claim_by_hand(run.ledger, world.order)
    job = await lose(run.ledger, claimed)
    world.provider.tasks["T-FOUND"] = RUNNING
    await world.resolver.adopt(world.order.key, "T-FOUND", world.provider)  # type: ignore[arg-type] # in memory
    if late.endswith("task"):
        await world.answer(job, "t", "T-FOUND" if late == "the same task" else "T-OTHER", RUNNING)
    else:
        error = LATE_ERRORS[late]
        try:
            await record_error(run, claimed, world.order, "t", error)
        except type(error):
            assert late == "429"
    world.provider.tasks["T-FOUND"] = SUCCESS
    world.provider.tasks["T-OTHER"] = TIMED_OUT
    record = await world.reconcile("reconcile")
    assert (record.state, record.task_id) == (JobState.STORED, "T-FOUND")
    assert ("T-OTHER" in world.provider.asked) is (late == "another task")
    assert record.is_open is False


async def test_a_second_task_of_one_claim_is_asked_for_too() -> None:
    """If answer and callback name two tasks for one claim, each becomes an attempt, and both are asked for."""
    world = World(I2V_CALLBACK_PATIENCE_SECONDS=1e-6)
    ledger = world.run("by hand").ledger
    job = await claim_by_hand(ledger, replace(world.order, delivery="callback"), task_id="T-ONE")
    world.provider.tasks["T-ONE"] = FAILED
    await world.answer(job, "t", "T-TWO", SUCCESS)
    record = await world.reconcile("reconcile")
    assert sorted(world.provider.asked) == ["T-ONE", "T-TWO"]
    assert (record.state, record.task_id, record.paid_attempts) == (JobState.STORED, "T-TWO", 2)


async def test_an_end_names_no_other_attempt() -> None:
    """A fail code of the second attempt's task leaves the first attempt, which still runs, as it is."""
    world = World()
    job = await world.answer(await world.lose_and_claim_again(), "one", "T-ONE", RUNNING)
    job = await world.answer(job, "two", "T-TWO", RUNNING)
    reason, now = Reason(code=FAILED, message="failed"), datetime.now(UTC)
    ended = transitions.end_task(job.record, "T-TWO", EndKind.FAILED, reason, now)
    assert ended
    assert [one.is_running for one in ended.attempts] == [True, False]
    assert ended.attempts[0] == job.record.attempts[0]
