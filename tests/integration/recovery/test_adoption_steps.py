"""A callback's adoption that dies, fails or is overtaken at each of its S3 operations; the simulator combines them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from i2v.errors import Conflict, StorageError
from i2v.ledger.job import JobRecord, JobState
from i2v.pipeline.context import RunContext
from i2v.pipeline.payment.accepted_or_lost import record_task_id
from i2v.pipeline.video_order import Order
from i2v.recovery import adopt_from_callback as adopting
from i2v.recovery.adopt_from_callback import CallbackHint, adopt_from_callback
from i2v.s3_uri import S3Uri
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_provider import RUNNING, STEPS, SUCCESS, MemoryProvider, claim_by_hand, lose, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage, memory_run
from tests.support.reconciling import reconcile
from tests.support.scripted_faults import ScriptedFaults

T = TypeVar("T")
OPERATIONS = 4
"""Of an adoption: it reads the record, and puts the task page, the marker and the record."""
TASK = "T-FOUND"


class Killed(BaseException):
    """The process died."""


class World:
    """A bucket with one job whose first attempt uses a callback, and the task that was billed for it."""

    def __init__(self) -> None:
        self.bucket = MemoryBucket()
        self.provider = MemoryProvider(tasks={TASK: RUNNING, "T-OTHER": RUNNING})
        self.order: Order = replace(put_order(self.bucket), delivery="callback")

    def run(self, storage: MemoryStorage | None = None) -> RunContext:
        """Return a run over this bucket."""
        patience: dict[str, Any] = {"I2V_CALLBACK_PATIENCE_SECONDS": 1e-6}
        return memory_run(storage or MemoryStorage(self.bucket), "any", client=self.provider, **patience)

    async def adopt(self, storage: MemoryStorage | None = None, task_id: str = TASK) -> JobRecord:
        """Do what a collect run does with a callback."""
        run = self.run(storage)
        job = await run.ledger.read_existing(self.order.key)
        hint = CallbackHint(self.order.key, 1, task_id)
        return (await adopt_from_callback(run, job, hint))[0].record

    async def settle(self) -> JobRecord:
        """Reconcile an hour later, once the task has succeeded, and check that nothing is left open."""
        self.provider.tasks[TASK] = SUCCESS
        self.bucket.wait(3600)
        run = self.run()
        await reconcile(run, steps=STEPS)
        record = (await run.ledger.read_existing(self.order.key)).record
        assert not record.is_open
        assert not [uri for uri in self.bucket.objects if "/open/" in uri.key]
        return record


@pytest.fixture(params=["claimed", "lost"])
async def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world whose submit is still under way, or whose answer was lost."""
    monkeypatch.setattr(adopting, "RETRY_SECONDS", (0.0,))
    world = World()
    ledger = world.run().ledger
    job = await claim_by_hand(ledger, world.order)
    if request.param == "lost":
        await lose(ledger, job)
    return world


@pytest.mark.parametrize("moment", range(OPERATIONS))
async def test_an_interrupted_adoption_is_repeated(world: World, moment: int) -> None:
    """If the process dies before any operation, the callback's next delivery leads to the stored video."""
    count = [moment]

    def die(_operation: str, _uri: S3Uri) -> None:
        if not count[0]:
            raise Killed
        count[0] -= 1

    try:
        await world.adopt(WatchedStorage(world.bucket, die))
    except Killed:
        adopted = await world.adopt()
    else:
        adopted = (await world.run().ledger.read_existing(world.order.key)).record
        assert moment == OPERATIONS - 1, "a claim that is under way has its marker"
    assert [one.task_id for one in adopted.attempts] == [TASK]
    assert (await world.settle()).state is JobState.STORED


@pytest.mark.parametrize("moment", range(1, OPERATIONS))
@pytest.mark.parametrize("fault", S3Fault)
async def test_s3_fails_during_an_adoption(world: World, moment: int, fault: S3Fault) -> None:
    """However any write of an adoption fails, the same or the next delivery gives the job its task, exactly once."""
    faults = ScriptedFaults(*[None] * moment, fault)
    with suppress(StorageError):  # then the run fails, and Prefect or the provider delivers the callback again
        await world.adopt(SteppedStorage(world.bucket, faults))
    for late in faults.late:
        with suppress(Conflict):
            late()
    record = await world.adopt()
    assert [one.task_id for one in record.attempts] == [TASK]
    assert (await world.settle()).state is JobState.STORED


@pytest.mark.parametrize("moment", range(OPERATIONS))
@pytest.mark.parametrize("answer", [TASK, "T-OTHER"], ids=["the same task", "another task"])
async def test_the_answer_arrives_during_an_adoption(world: World, moment: int, answer: str) -> None:
    """An answer that arrives before any operation of an adoption drops no task, and both are asked for."""
    own = world.run()
    claimed = await own.ledger.read_existing(world.order.key)
    count, done = [moment], asyncio.Event()

    class Overtaken(MemoryStorage):
        async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
            if not count[0] and not done.is_set():
                done.set()
                await record_task_id(own, claimed, "t", answer)
            count[0] -= 1
            return await super().turn(operation, uri, action)

    await world.adopt(Overtaken(world.bucket))
    if not done.is_set():
        await record_task_id(own, claimed, "t", answer)
    world.provider.tasks["T-OTHER"] = SUCCESS
    record = await world.settle()
    assert answer in {one.task_id for one in record.attempts}
    assert record.state is JobState.STORED
    assert all(task in world.provider.asked for task in {one.task_id for one in record.attempts})


async def test_a_forged_callback_adds_nothing_to_an_answered_attempt(world: World) -> None:
    """Once the answer's task is recorded, a callback that names another task for the attempt changes nothing."""
    own = world.run()
    claimed = await own.ledger.read_existing(world.order.key)
    await record_task_id(own, claimed, "t", TASK)
    record = await world.adopt(task_id="T-OTHER")
    assert [one.task_id for one in record.attempts] == [TASK]
