"""Open markers name their attempt: a late delete of one takes no other's, and only settled attempts lose theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from i2v.errors import StorageError
from i2v.ledger import transitions
from i2v.ledger.job import JobState
from i2v.ledger.keys import OpenMarker
from i2v.pipeline.payment.accepted_or_lost import record_task_id
from i2v.pipeline.submit import submit
from i2v.recovery.resolve_by_hand import Resolver
from i2v.reports.run_report import Outcome
from i2v.s3_uri import S3Uri
from tests.support.memory_provider import STEPS, SUCCESS, MemoryProvider, claim_by_hand, lose, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage, memory_run, ready
from tests.support.reconciling import reconcile

T = TypeVar("T")


class LateDeletes(MemoryStorage):
    """A storage whose deletes of markers fail, and are done later, when the test says so."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.late: list[Callable[[], object]] = []

    async def turn(self, operation: str, uri: S3Uri, action: Callable[[], T]) -> T:
        """Fail a delete of a marker."""
        if operation == "delete" and "/open/" in uri.key:
            self.late.append(action)
            raise StorageError(f"the delete of {uri} timed out")
        return await super().turn(operation, uri, action)

    def land(self) -> None:
        """Do the deletes now."""
        for action in self.late:
            action()


def marked_attempts(bucket: MemoryBucket) -> list[str]:
    """Return the attempts that have a marker, as the names of the markers have them."""
    return sorted(uri.key.rpartition("-")[2] for uri in bucket.objects if "/open/" in uri.key)


async def test_a_late_delete_takes_no_other_attempts_marker() -> None:
    """If the delete of the first attempt's marker lands after the second is paid, reconcile still finds the job."""
    bucket = MemoryBucket()
    order, late = put_order(bucket), LateDeletes(bucket)
    ledger = memory_run(MemoryStorage(bucket)).ledger
    job = await claim_by_hand(ledger, order)
    released = await ledger.change(job, lambda record: transitions.release(record, "t", record.updated_at))
    assert released
    bucket.wait(3600)
    report = await reconcile(memory_run(late, "first", client=MemoryProvider()), steps=STEPS)
    assert [item.outcome for item in report.items] == [Outcome.FAILED], "the delete failed, and is reported"

    dead = await submit(memory_run(MemoryStorage(bucket), "dead", client=MemoryProvider()), order)
    late.land()
    assert marked_attempts(bucket) == ["2"]

    bucket.wait(7200)
    run = memory_run(MemoryStorage(bucket), "later", client=MemoryProvider(tasks={dead.record.task_id or "": SUCCESS}))
    report = await reconcile(run, steps=STEPS)
    assert [item.outcome for item in report.items] == [Outcome.STORED]
    assert marked_attempts(bucket) == []


async def test_a_late_delete_takes_no_reopened_attempts_marker() -> None:
    """If the delete of a dropped attempt's marker lands after its task id has reopened it, reconcile still finds it."""
    bucket = MemoryBucket()
    order, late = put_order(bucket), LateDeletes(bucket)
    run = memory_run(MemoryStorage(bucket), "slow")
    job = await lose(run.ledger, await claim_by_hand(run.ledger, order))
    await Resolver(run.storage, run.settings).drop(order.key)
    bucket.wait(3600)
    await reconcile(memory_run(late, "first", client=MemoryProvider()), steps=STEPS)
    await record_task_id(run, job, "t", "T-LATE")
    late.land()
    assert marked_attempts(bucket) == ["1r"]

    bucket.wait(3600)
    later = memory_run(MemoryStorage(bucket), "later", client=MemoryProvider(tasks={"T-LATE": SUCCESS}))
    assert [item.outcome for item in (await reconcile(later, steps=STEPS)).items] == [Outcome.STORED]
    assert marked_attempts(bucket) == []


async def test_only_the_marker_of_the_settled_attempt_is_deleted() -> None:
    """Of a job whose first attempt ended and whose second renders, reconcile deletes the first marker alone."""
    bucket = MemoryBucket()
    order = put_order(bucket)
    ledger = memory_run(MemoryStorage(bucket)).ledger
    job = await claim_by_hand(ledger, order)
    await ledger.change(job, lambda record: transitions.release(record, "t", record.updated_at))
    await claim_by_hand(ledger, order, "u", task_id="T-TWO")
    bucket.wait(3600)
    run = memory_run(MemoryStorage(bucket), "later", client=MemoryProvider(tasks={"T-TWO": "processing"}))
    report = await reconcile(run, steps=STEPS)
    assert [item.outcome for item in report.items] == [Outcome.SUBMITTED]
    assert marked_attempts(bucket) == ["2"]


@pytest.mark.parametrize(("age", "left"), [(1.0, ["1"]), (3600.0, [])], ids=["fresh", "old"])
@pytest.mark.parametrize("has_record", [True, False])
async def test_a_marker_of_no_attempt_is_deleted_once_it_is_old(age: float, left: list[str], has_record: bool) -> None:
    """A marker without a claim may belong to a claim that is about to be made, until it is as old as a lease."""
    bucket = MemoryBucket()
    order = put_order(bucket)
    run = memory_run(MemoryStorage(bucket), client=(provider := MemoryProvider()))
    if has_record:
        await ready(run.ledger, order.key, order.image, order.request)
    await run.ledger.put_open_marker(order.image, order.key, 1)
    bucket.wait(age)
    report = await reconcile(run, steps=STEPS)
    assert (report.items, provider.asked, marked_attempts(bucket)) == ((), [], left)


async def test_markers_of_format_1_are_read() -> None:
    """A marker that names no attempt stays while its job is open, and is deleted once the job is stored."""
    bucket = MemoryBucket()
    order = put_order(bucket)
    run = memory_run(MemoryStorage(bucket), client=MemoryProvider(tasks={"T": "processing"}))
    await claim_by_hand(run.ledger, order, task_id="T")
    (uri,) = [uri for uri in bucket.objects if "/open/" in uri.key]
    old = S3Uri(uri.bucket, uri.key.rpartition("-")[0])
    bucket.objects[old] = bucket.objects.pop(uri)
    parsed = OpenMarker.parse(old.key.rpartition("/")[2])
    assert parsed
    assert parsed.number is None

    states = []
    for run_id, state in (("first", "processing"), ("second", SUCCESS)):
        bucket.wait(3600)
        run = memory_run(MemoryStorage(bucket), run_id, client=MemoryProvider(tasks={"T": state}))
        await reconcile(run, steps=STEPS)
        states.append(((await run.ledger.read_existing(order.key)).record.state, old in bucket.objects))
    assert states == [(JobState.SUBMITTED, True), (JobState.STORED, False)]
