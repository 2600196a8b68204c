"""What a submit writes after its answer is written until it succeeds: no false unknown, no task id without a home."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from i2v.errors import AccountRejected, AnswerLost, Busy, I2vError, ProviderError, Rejected, StorageError, TaskRejected
from i2v.ledger import keys
from i2v.ledger.job import JobRecord, JobState
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import process_order
from i2v.pipeline.payment import accepted_or_lost
from i2v.pipeline.submit import submit
from i2v.pipeline.video_order import Order
from i2v.s3_uri import S3Uri
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.memory_provider import PRICE, STEPS, MemoryProvider, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage, memory_run
from tests.support.reconciling import reconcile

FAULTS = {S3Fault.FAILS: 4, S3Fault.LATE: 4, S3Fault.BUSY: 4, S3Fault.LOST: 1, S3Fault.REPEATED: 1}
"""How often the writes fail; those that are done need no second."""
ANSWERS: dict[str, tuple[ProviderError, JobState]] = {
    "429": (Busy("429", "", "429", None, 429), JobState.READY),
    "401": (AccountRejected("401", "", "401", None, 401), JobState.READY),
    "404": (Rejected("404", "", "404", None, 404), JobState.READY),
    "400": (Rejected("400", "", "400", None, 400), JobState.REFUSED),
    "fail code": (TaskRejected("a fail code", "", "GENERATION_FAILED"), JobState.FAILED),
    "lost": (AnswerLost("lost", ""), JobState.UNKNOWN),
}
"""What a POST was answered, and the state that the job gets for it."""


class RecordFaults:
    """Fails the next writes of job records after the answer to a POST."""

    def __init__(self, *faults: S3Fault) -> None:
        self.left = list(faults)
        self.late: list[Callable[[], Any]] = []
        self.is_on = False

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> S3Fault | None:
        """Return the next fault of a record's write."""
        is_record = uri is not None and uri.key.startswith("jobs/") and uri.key.count("/") == 1
        return self.left.pop(0) if self.is_on and is_record and kind == "put if" and self.left else None


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepted_or_lost, "RETRY_FIRST_SECONDS", 0.01)


async def submit_with_faults(answer: ProviderError | None, fault: S3Fault) -> tuple[RunContext, Order, int]:
    """Submit one image whose answer cannot be recorded at first; return the run, the order and the faults left."""
    bucket, faults = MemoryBucket(), RecordFaults(*[fault] * FAULTS[fault])

    async def begin() -> None:
        faults.is_on = True

    provider = MemoryProvider(*([answer] if answer else []), on_submit=begin)
    storage = SteppedStorage(bucket, faults)
    run = memory_run(storage, client=provider, I2V_SUBMIT_PATIENCE_SECONDS=0.001)
    order = put_order(bucket)
    with suppress(ProviderError):  # it is raised where nothing was paid
        await asyncio.wait_for(submit(run, order), 20)
    assert len(provider.submits) == 1
    return run, order, len(faults.left)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_end_of_a_submit_is_written_despite_s3(answer: str, fault: S3Fault) -> None:
    """However often S3 fails, the record gets the end that the answer means, so that none becomes a false unknown."""
    error, state = ANSWERS[answer]
    run, order, left = await submit_with_faults(error, fault)
    record = (await run.ledger.read_existing(order.key)).record
    assert (record.state, left) == (state, 0)
    expected = Decimal(0) if state in {JobState.READY, JobState.REFUSED} else PRICE
    assert (record.cost_usd, run.budget.spent_usd) == (expected, expected)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_task_id_is_written_despite_s3(fault: S3Fault, caplog: pytest.LogCaptureFixture) -> None:
    """However often S3 fails, the task id is logged and recorded, once."""
    run, order, left = await submit_with_faults(None, fault)
    record = (await run.ledger.read_existing(order.key)).record
    assert (record.state, [one.task_id for one in record.attempts], left) == (JobState.SUBMITTED, ["task-1"], 0)
    if fault in {S3Fault.FAILS, S3Fault.LATE}:
        assert "PAID task task-1 is not recorded yet, retrying" in caplog.text


@pytest.mark.parametrize("fault", [S3Fault.FAILS, S3Fault.LOST, S3Fault.REPEATED, S3Fault.BUSY])
async def test_a_claim_whose_write_fails_is_released(fault: S3Fault) -> None:
    """If S3 fails during the claim, a submit is sent for a claim that stands, or not at all, and no job is unknown."""
    bucket, faults, provider = MemoryBucket(), RecordFaults(fault), MemoryProvider()
    faults.is_on = True
    run = memory_run(SteppedStorage(bucket, faults), client=provider)
    order = put_order(bucket)
    try:
        job = await submit(run, order)
    except StorageError:
        found = await run.ledger.read(order.key)
        assert found is None or found.record.state is JobState.READY
        assert (provider.submits, run.budget.spent_usd) == ([], Decimal(0))
    else:
        assert (job.record.state, len(provider.submits)) == (JobState.SUBMITTED, 1)
        assert run.budget.spent_usd == PRICE


@pytest.mark.parametrize("answer", ["task", "400", "fail code", "lost"])
async def test_a_record_deleted_under_way_is_written_again(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    """If the record is deleted between claim and answer, it is recreated with its claim and the task id or end."""
    caplog.set_level(logging.ERROR)
    bucket = MemoryBucket()

    async def delete_record() -> None:
        del bucket.objects[keys.job_uri(run.settings, order.key)]

    provider = MemoryProvider(*([ANSWERS[answer][0]] if answer in ANSWERS else []), on_submit=delete_record)
    run = memory_run(MemoryStorage(bucket), client=provider)
    order = put_order(bucket)
    job = await asyncio.wait_for(submit(run, order), 20)
    expected = ANSWERS[answer][1] if answer in ANSWERS else JobState.SUBMITTED
    stored = JobRecord.model_validate_json(bucket.objects[keys.job_uri(run.settings, order.key)].body)
    assert (job.record.state, stored.state, stored.attempts) == (expected, expected, job.record.attempts)
    assert job.record.task_id == ("task-1" if answer == "task" else None)


async def test_a_busy_answer_for_a_deleted_record_ends() -> None:
    """A release of a claim whose record was deleted has nothing to release, and does not wait for ever."""
    bucket = MemoryBucket()

    async def delete_record() -> None:
        del bucket.objects[keys.job_uri(run.settings, order.key)]

    provider = MemoryProvider(ANSWERS["401"][0], on_submit=delete_record)
    run = memory_run(MemoryStorage(bucket), client=provider)
    order = put_order(bucket)
    with pytest.raises(I2vError):
        await asyncio.wait_for(submit(run, order), 20)
    assert run.budget.spent_usd == 0


async def test_a_failed_release_leaves_nothing_for_reconcile() -> None:
    """After a release that S3 took at its fifth try, reconcile has nothing to report, and the next run pays once."""
    run, order, _ = await submit_with_faults(ANSWERS["429"][0], S3Fault.FAILS)
    assert isinstance(run.storage, SteppedStorage)
    bucket = run.storage.bucket
    bucket.wait(3600)
    report = await reconcile(memory_run(MemoryStorage(bucket), "later", client=MemoryProvider()), steps=STEPS)
    assert report.items == ()
    again = await submit(memory_run(MemoryStorage(bucket), "again", client=(provider := MemoryProvider())), order)
    assert (again.record.state, len(provider.submits)) == (JobState.SUBMITTED, 1)


async def test_a_reservation_whose_answer_was_lost_is_not_taken_twice() -> None:
    """If the answer to the day's write is lost, it is read back: one price is reserved, and the image is submitted."""
    bucket = MemoryBucket()
    done: list[S3Uri] = []

    def lose_answer(uri: S3Uri, _body: bytes) -> None:
        if "/days/" in uri.key and not done:
            done.append(uri)
            raise StorageError("the answer was lost")

    bucket.on_put = lose_answer
    run = memory_run(MemoryStorage(bucket), client=(provider := MemoryProvider()), max_spend_usd=PRICE)
    await submit(run, put_order(bucket))
    assert (len(done), len(provider.submits), run.budget.spent_usd) == (1, 1, PRICE)


async def test_of_two_runs_about_to_claim_one_pays() -> None:
    """Two runs that have both read the same ready job claim it: one POST is sent, and the other run attaches."""
    bucket, order_ready = MemoryBucket(), asyncio.Barrier(2)
    order = put_order(bucket)

    class Together(MemoryStorage):
        is_first = True

        async def put(self, uri: S3Uri, body: bytes, **how: object) -> str:
            if uri.key == f"jobs/{order.key}.json" and self.is_first:
                self.is_first = False
                await order_ready.wait()
            return await super().put(uri, body, **how)  # type: ignore[arg-type] # passed on

    providers = MemoryProvider(), MemoryProvider()
    runs = [memory_run(Together(bucket), name, client=one) for name, one in zip("ab", providers, strict=True)]
    jobs = await asyncio.gather(*(submit(run, order) for run in runs))
    assert sum(len(provider.submits) for provider in providers) == 1
    assert {job.record.task_id for job in jobs} == {"task-1"}
    assert sum(run.budget.spent_usd for run in runs) == PRICE


async def test_the_image_of_a_failed_submit_is_named_with_its_cost() -> None:
    """A submit whose answer was lost is reported unknown, with its price at risk."""
    bucket = MemoryBucket()
    run = memory_run(MemoryStorage(bucket), client=MemoryProvider(ANSWERS["lost"][0]))
    line = await process_order(run, put_order(bucket), STEPS)
    assert (line.outcome.value, line.at_risk_usd) == ("unknown", PRICE)
    assert datetime.now(UTC) > run.started_at
