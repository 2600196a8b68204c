"""One bad object does not stop the others: each bad record, marker and verdict is one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from i2v.apixo.models import TaskStatus
from i2v.errors import AccessDenied
from i2v.ledger import keys
from i2v.ledger.job import JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.reports.run_report import Outcome, Report
from i2v.s3_uri import S3Uri
from tests.support.memory_provider import (
    RUNNING,
    STEPS,
    SUCCESS,
    MemoryProvider,
    claim_by_hand,
    put_order,
    store_without_bytes,
)
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage, memory_run
from tests.support.reconciling import reconcile

BAD, GOOD = 1, 2
NEWER_FORMAT = b'"format": 2', b'"format": 99'


async def submit_by_hand(bucket: MemoryBucket, number: int, task_id: str = "", run_id: str = "dead") -> str:
    """Submit one image in a run that dies right after, and return its job key."""
    order = put_order(bucket, number)
    run = memory_run(MemoryStorage(bucket))
    await claim_by_hand(run.ledger, order, run_id=run_id, task_id=task_id or f"T{number}")
    return order.key


async def settle(bucket: MemoryBucket, provider: MemoryProvider, storage: MemoryStorage | None = None) -> Report:
    """Reconcile an hour later."""
    bucket.wait(3600)
    return await reconcile(memory_run(storage or MemoryStorage(bucket), "later", client=provider), steps=STEPS)


def lines(report: Report) -> dict[str | None, Outcome]:
    """Return the outcomes by job key."""
    return {item.job: item.outcome for item in report.items}


def overwrite(bucket: MemoryBucket, key: str, body: bytes) -> None:
    """Overwrite a job's record."""
    uri = S3Uri("b-1", f"jobs/{key}.json")
    bucket.put(uri, body, "application/json", {}, "")


def read_record(bucket: MemoryBucket, key: str) -> bytes:
    """Return the bytes of a job's record."""
    return bucket.objects[S3Uri("b-1", f"jobs/{key}.json")].body


@pytest.mark.parametrize("damage", ["no JSON", "a newer format", "deep nesting"])
async def test_a_bad_record_is_one_line(damage: str) -> None:
    """A record that cannot be read, or that a newer i2v wrote, fails by itself; the next dead run's job is stored."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"T1": SUCCESS, "T2": SUCCESS})
    bad, good = await submit_by_hand(bucket, BAD), await submit_by_hand(bucket, GOOD)
    old = read_record(bucket, bad)
    body = {"no JSON": b"{", "a newer format": old.replace(*NEWER_FORMAT), "deep nesting": b"[" * 100_000}[damage]
    overwrite(bucket, bad, body)
    report = await settle(bucket, provider)
    assert lines(report) == {bad: Outcome.FAILED, good: Outcome.STORED}
    assert read_record(bucket, bad) == body
    assert [uri for uri in bucket.objects if bad in uri.key and "/open/" in uri.key], "its marker stays"


async def test_a_moved_video_stops_nothing() -> None:
    """A stored job whose marker is left and whose video a consumer has moved away: its marker goes, without a line."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"T1": SUCCESS, "T2": SUCCESS})
    run = memory_run(MemoryStorage(bucket), client=provider)
    moved = await submit_by_hand(bucket, BAD)
    job = await run.ledger.read_existing(moved)
    job = await store_without_bytes(run, job, await provider.status("T1"))  # and then the run is killed
    assert job.record.video
    del bucket.objects[job.record.video.uri]
    good = await submit_by_hand(bucket, GOOD)
    provider.asked.clear()
    report = await settle(bucket, provider)
    assert (lines(report), provider.asked) == ({good: Outcome.STORED}, ["T2"])
    assert not [uri for uri in bucket.objects if "/open/" in uri.key]


async def test_a_stored_jobs_marker_is_deleted_and_nothing_asked() -> None:
    """Of a stored job whose marker is left, reconcile reads the record and deletes the marker, and no more."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"T1": SUCCESS})
    run = memory_run(MemoryStorage(bucket), client=provider)
    key = await submit_by_hand(bucket, BAD)
    await store_without_bytes(run, await run.ledger.read_existing(key), await provider.status("T1"))
    provider.asked.clear()

    operations: list[str] = []

    def count(operation: str, uri: S3Uri) -> None:
        if key in uri.key or uri.key.startswith("videos/"):
            operations.append(operation)

    report = await settle(bucket, provider, WatchedStorage(bucket, count))
    assert (report.items, provider.asked, operations) == ((), [], ["get", "delete"])


@pytest.mark.parametrize("fails", [r"/videos/1.jpg", "/open/"], ids=["verdict", "marker"])
async def test_an_object_that_may_not_be_written_is_one_line(fails: str) -> None:
    """If S3 denies the verdict or the marker's delete of one job, that job fails, and the next is stored."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"T1": "NSFW", "T2": SUCCESS})
    bad, good = await submit_by_hand(bucket, BAD), await submit_by_hand(bucket, GOOD)

    def deny(operation: str, uri: S3Uri) -> None:
        is_bad = bad in uri.key or "/open/" not in uri.key
        if operation in {"put", "put if", "delete"} and fails in f"/{uri.key}" and is_bad:
            raise AccessDenied(f"S3 denied {operation} of {uri}", "i2v doctor")

    report = await settle(bucket, provider, WatchedStorage(bucket, deny))
    assert lines(report) == {bad: Outcome.FAILED, good: Outcome.STORED}


async def test_an_unreadable_run_record_stops_nothing() -> None:
    """A run whose record cannot be read counts as gone: reconcile asks for its tasks, as for those of others."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"T1": SUCCESS, "T2": SUCCESS})
    one = await submit_by_hand(bucket, BAD, run_id="odd")
    two = await submit_by_hand(bucket, GOOD)
    bucket.put(S3Uri("b-1", "jobs/runs/odd.json"), b"{", "application/json", {}, "")
    assert lines(await settle(bucket, provider)) == {one: Outcome.STORED, two: Outcome.STORED}


async def test_a_dead_video_is_one_line() -> None:
    """A video that cannot be stored fails its own job, which stays open, and the next is stored."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"T1": SUCCESS, "T2": SUCCESS})
    bad, good = await submit_by_hand(bucket, BAD), await submit_by_hand(bucket, GOOD)
    bucket.wait(3600)
    run = memory_run(MemoryStorage(bucket), "later", client=provider)

    async def store(run: RunContext, job: VersionedRecord, status: TaskStatus) -> VersionedRecord:
        if job.record.key == bad:
            raise ValueError("a bug in i2v")
        return await store_without_bytes(run, job, status)

    report = await reconcile(run, steps=replace(STEPS, store=store))
    assert lines(report) == {bad: Outcome.FAILED, good: Outcome.STORED}
    assert (await run.ledger.read_existing(bad)).record.state is JobState.SUBMITTED


async def test_each_runs_record_is_read_once() -> None:
    """Of a live run with 200 jobs, reconcile reads the record once, and asks for none of its tasks."""
    bucket, provider = MemoryBucket(), MemoryProvider()
    live = memory_run(MemoryStorage(bucket), "live")
    await live.heartbeat.start()
    for number in range(200):
        await submit_by_hand(bucket, number, run_id="live")

    reads: list[S3Uri] = []
    storage = WatchedStorage(bucket, lambda operation, uri: reads.append(uri) if operation == "get" else None)
    report = await reconcile(memory_run(storage, "later", client=provider), steps=STEPS)
    await live.heartbeat.end()
    live_record = S3Uri("b-1", "jobs/runs/live.json")
    assert (report.items, provider.asked, reads.count(live_record)) == ((), [], 1)


async def test_asking_has_no_limit() -> None:
    """100 jobs that render for ever do not keep a newer one from being stored, with a limit of 1."""
    bucket, provider = MemoryBucket(), MemoryProvider()
    for number in range(100):
        provider.tasks[f"T{number}"] = RUNNING
        await submit_by_hand(bucket, number)
    bucket.wait(60)
    provider.tasks["T500"] = SUCCESS
    newest = await submit_by_hand(bucket, 500)
    bucket.wait(3600)
    run = memory_run(MemoryStorage(bucket), "later", client=provider)
    report = await reconcile(run, steps=STEPS, limit=1)
    assert lines(report)[newest] is Outcome.STORED
    assert (report.count(Outcome.SUBMITTED), len(provider.asked)) == (100, 101)


async def test_storing_has_a_limit() -> None:
    """Of three videos that are ready, a limit of 2 stores two; the third is named, and stored the next time."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks=dict.fromkeys(("T1", "T2", "T3"), SUCCESS))
    for number in (1, 2, 3):
        await submit_by_hand(bucket, number)
    bucket.wait(3600)
    first = await reconcile(memory_run(MemoryStorage(bucket), "one", client=provider), steps=STEPS, limit=2)
    (left,) = [item for item in first.items if item.outcome is not Outcome.STORED]
    assert (first.count(Outcome.STORED), left.outcome) == (2, Outcome.SUBMITTED)
    assert "the next reconcile stores it" in (left.reason or "")
    bucket.wait(3600)
    second = await reconcile(memory_run(MemoryStorage(bucket), "two", client=provider), steps=STEPS, limit=2)
    assert lines(second) == {left.job: Outcome.STORED}


async def test_every_task_of_a_deleted_record_is_kept() -> None:
    """Callbacks for a job whose record was deleted keep all its tasks under `jobs/tasks/`; the report names them."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"T1": SUCCESS, "T2": SUCCESS})
    key = await submit_by_hand(bucket, 1)
    del bucket.objects[S3Uri("b-1", f"jobs/{key}.json")]
    run = memory_run(MemoryStorage(bucket), "collect", client=provider)
    (line,) = (await reconcile(run, entries=[f"{key}/1/T1", f"{key}/2/T2"])).items
    assert (line.outcome, "its task T1, T2" in (line.reason or "")) == (Outcome.FAILED, True)
    assert {keys.task_uri(run.settings, task) for task in ("T1", "T2")} <= set(bucket.objects)
