"""The two indexes beside the records: open markers, and the pages of paid tasks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from i2v.errors import LedgerError, StorageError
from i2v.ledger import keys, transitions
from i2v.ledger.attempt import EndKind, Reason
from i2v.ledger.job import JobRecord
from i2v.ledger.ledger import Edit, Ledger
from i2v.ledger.open_markers import BATCH_SIZE, OpenMarkerCleaner
from i2v.ledger.task_pages import TaskPage, claim_task
from sandbox import Sandbox
from tests.integration.ledger.conftest import MEMORY_SETTINGS
from tests.support.interleaving import S3Fault, SteppedStorage
from tests.support.job_records import LATER, NOW, SUBMITTED, VIDEO, applied
from tests.support.memory_provider import IMAGE, ORDER, claim_by_hand, lose, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage
from tests.support.scripted_faults import ScriptedFaults

KEY = ORDER.key
WHY = Reason(code="why", message="because")
VERSION = f"{keys.digest12(IMAGE.name)}-{keys.digest12(IMAGE.etag)}"


def add(task_id: str, claim: str = "t") -> Edit:
    """Return the edit that records a task."""
    return lambda record: transitions.record_task(record, claim, task_id, LATER)


async def test_each_attempt_has_one_marker(ledger: Ledger, sandbox: Sandbox) -> None:
    """However often it is put or deleted; the marker of another attempt stays."""
    for number in (1, 1, 2):
        await ledger.put_open_marker(IMAGE, KEY, number)
    assert sandbox.keys("jobs/open/") == [f"jobs/open/{VERSION}-{KEY}-{number}" for number in (1, 2)]
    stored = applied(transitions.store(SUBMITTED, "task_a", VIDEO, NOW)).model_copy(update={"key": KEY, "image": IMAGE})
    cleaner = OpenMarkerCleaner(ledger)
    for _ in range(2):
        await cleaner.add(stored, stored.attempts[0])
        await cleaner.flush()
    assert sandbox.keys("jobs/open/") == [f"jobs/open/{VERSION}-{KEY}-2"]


def memory_ledger(bucket: MemoryBucket, *faults: S3Fault | None) -> Ledger:
    """Return a ledger in memory whose operations end so."""
    return Ledger(SteppedStorage(bucket, ScriptedFaults(*faults)), MEMORY_SETTINGS)


def markers(bucket: MemoryBucket) -> list[str]:
    """Return how the names of the markers in a bucket end."""
    return sorted(uri.key.rpartition("-")[2] for uri in bucket.objects if "/open/" in uri.key)


async def test_only_the_marker_of_a_settled_attempt_is_deleted() -> None:
    """A marker that is deleted too early hides an open attempt from reconcile."""
    bucket = MemoryBucket()
    ledger, order = memory_ledger(bucket), put_order(bucket)
    cleaner = OpenMarkerCleaner(ledger)
    claimed = await claim_by_hand(ledger, order)
    lost = await lose(ledger, claimed)
    for record in (claimed.record, lost.record):
        await cleaner.add(record, record.attempts[0])
        await cleaner.add(record, None)
        await cleaner.flush()
        assert markers(bucket) == ["1"]
    dropped = transitions.drop(lost.record, WHY, NOW)
    assert dropped
    await cleaner.add(dropped, dropped.attempts[0])
    assert markers(bucket) == ["1"], "queued"
    await cleaner.flush()
    assert markers(bucket) == []


async def test_a_late_delete_leaves_a_reopened_attempt_its_marker() -> None:
    """The marker of a dropped attempt is queued for deletion; then its task id arrives, and later its video."""
    bucket = MemoryBucket()
    ledger, order = memory_ledger(bucket), put_order(bucket)
    cleaner = OpenMarkerCleaner(ledger)
    lost = await lose(ledger, await claim_by_hand(ledger, order))
    dropped = await ledger.change(lost, lambda record: transitions.drop(record, WHY, NOW))
    assert dropped
    await cleaner.add(dropped.record, dropped.record.attempts[0])
    reopened = await ledger.record_task(dropped, add("task_late"), "task_late")
    assert reopened
    await cleaner.flush()
    assert markers(bucket) == ["1r"]
    stored = transitions.store(reopened.record, "task_late", VIDEO, NOW)
    assert stored
    await cleaner.add(stored, stored.attempts[0])
    await cleaner.flush()
    assert markers(bucket) == []


async def test_markers_are_deleted_by_the_hundred() -> None:
    """One request for each full batch."""
    bucket = MemoryBucket()
    cleaner = OpenMarkerCleaner(memory_ledger(bucket))
    ledger, stored = memory_ledger(bucket), applied(transitions.store(SUBMITTED, "task_a", VIDEO, NOW))
    for number in range(BATCH_SIZE + 1):
        record = stored.model_copy(update={"key": f"{number:064x}"})
        await ledger.put_open_marker(record.image, record.key, 1)
        await cleaner.add(record, record.attempts[0])
    assert len(markers(bucket)) == 1
    await cleaner.flush()
    assert markers(bucket) == []


async def test_a_failed_delete_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Reconcile deletes the marker; the log says so."""
    bucket = MemoryBucket()
    ledger = memory_ledger(bucket, None, None, S3Fault.FAILS, S3Fault.FAILS)
    stored = applied(transitions.store(SUBMITTED, "task_a", VIDEO, NOW))
    await ledger.put_open_marker(stored.image, stored.key, 1)
    cleaner = OpenMarkerCleaner(ledger)
    await cleaner.add(stored, stored.attempts[0])
    await cleaner.flush()
    assert "the next reconcile deletes them" in caplog.text
    assert markers(bucket) == ["1"]


async def test_a_task_belongs_to_the_first_that_claims_it(ledger: Ledger) -> None:
    """Of sixteen jobs one gets it, and all learn which."""
    claims = (claim_task(ledger.storage, ledger.settings, "task_a", f"{n:064x}", n) for n in range(16))
    pages = await asyncio.gather(*claims)
    assert len(set(pages)) == 1
    assert pages[0].task_id == "task_a"


@pytest.mark.parametrize("fault", [S3Fault.BUSY, S3Fault.REPEATED])
async def test_a_task_is_claimed_through_conflicts(fault: S3Fault) -> None:
    """After a 409 there may be no page yet; after a 412 for our own write it is ours."""
    storage = SteppedStorage(MemoryBucket(), ScriptedFaults(fault))
    assert await claim_task(storage, MEMORY_SETTINGS, "task_a", KEY, 2) == TaskPage(
        job=KEY, attempt=2, task_id="task_a"
    )


async def test_a_page_that_cannot_be_read_is_nobodys() -> None:
    """A task whose owner is unknown is not adopted."""
    storage = MemoryStorage()
    await storage.put(keys.task_uri(MEMORY_SETTINGS, "task_a"), b"{")
    with pytest.raises(LedgerError, match="cannot be read"):
        await claim_task(storage, MEMORY_SETTINGS, "task_a", KEY, 1)


async def test_a_task_that_cannot_be_claimed_is_an_error() -> None:
    """The caller tries again; it never goes on as if the task were its own."""
    with pytest.raises(StorageError):
        await claim_task(SteppedStorage(MemoryBucket(), ScriptedFaults(S3Fault.FAILS)), MEMORY_SETTINGS, "t", KEY, 1)


async def test_a_task_is_recorded_after_its_marker() -> None:
    """If the process dies between the two, reconcile finds a marker and not a task that is never polled."""
    bucket = MemoryBucket()
    ledger, order = memory_ledger(bucket), put_order(bucket)
    lost = await lose(ledger, await claim_by_hand(ledger, order))
    resubmitted = await ledger.change(lost, transitions.resubmit)
    assert resubmitted
    for uri in [uri for uri in bucket.objects if "/open/" in uri.key]:
        del bucket.objects[uri]
    seen: list[list[str]] = []
    bucket.on_put = lambda uri, _body: seen.append(markers(bucket)) if uri.key.endswith(f"{order.key}.json") else None
    recorded = await ledger.record_task(resubmitted, add("task_a"), "task_a")
    assert recorded
    assert (recorded.record.task_id, seen) == ("task_a", [["1r"]])
    assert await ledger.record_task(recorded, add("task_a"), "task_a") is recorded, "once is enough"


async def test_a_second_task_of_a_claim_gets_a_marker_of_its_own() -> None:
    """Each task is asked for until it ends."""
    bucket = MemoryBucket()
    ledger, order = memory_ledger(bucket), put_order(bucket)
    job = await claim_by_hand(ledger, order, task_id="task_a")
    ended = await ledger.change(
        job, lambda record: transitions.end_task(record, "task_a", EndKind.FAILED, WHY, datetime.now(UTC))
    )
    assert ended
    recorded = await ledger.record_task(ended, add("task_b"), "task_b")
    assert recorded
    assert [one.task_id for one in recorded.record.attempts] == ["task_a", "task_b"]
    assert markers(bucket) == ["1", "2"]


async def test_a_task_is_not_recorded_in_a_version_that_changed() -> None:
    """Its marker names the attempt of the version that was read; the caller reads again."""
    bucket = MemoryBucket()
    ledger, order = memory_ledger(bucket), put_order(bucket)
    claimed = await claim_by_hand(ledger, order)
    await lose(ledger, claimed)
    assert await ledger.record_task(claimed, add("task_a"), "task_a") is None
    newest = await ledger.read_existing(order.key)
    recorded = await ledger.record_task(newest, add("task_a"), "task_a")
    assert recorded
    assert (recorded.record.task_id, markers(bucket)) == ("task_a", ["1", "1r"])


async def test_a_task_of_no_claim_is_an_error() -> None:
    """It names the job; nothing is written."""
    bucket = MemoryBucket()
    ledger, order = memory_ledger(bucket), put_order(bucket)
    claimed = await claim_by_hand(ledger, order)
    with pytest.raises(ValueError, match=f"job {order.key[:12]} has no attempt for task task_a"):
        await ledger.record_task(claimed, add("task_a", "another"), "task_a")

    def apply_nothing(record: JobRecord) -> None:
        del record

    with pytest.raises(ValueError, match="has no attempt"):
        await ledger.record_task(claimed, apply_nothing, "task_a")
