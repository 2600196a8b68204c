"""Jobs of format 1 have no task pages: they are written when the record is changed for the first time."""

import json
from typing import Any

import pytest

from i2v.errors import StorageError
from i2v.ledger import keys
from i2v.ledger.job import JobState
from i2v.ledger.task_pages import TaskPage
from i2v.pipeline.context import RunContext
from i2v.recovery.resolve_by_hand import Resolver
from i2v.s3_uri import S3Uri
from tests.support.format_1_records import FAILED_FOR, KEY, URI, old_attempt, old_record
from tests.support.memory_provider import RUNNING, STEPS, SUCCESS, MemoryProvider
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage, memory_run
from tests.support.reconciling import reconcile


def put_old(bucket: MemoryBucket, record: dict[str, Any]) -> None:
    """Put a record of format 1 as an older i2v left it."""
    bucket.put(URI, json.dumps(record).encode(), "application/json", {}, "")


def page(bucket: MemoryBucket, run: RunContext, task_id: str) -> TaskPage | None:
    """Return a task's page."""
    found = bucket.objects.get(keys.task_uri(run.settings, task_id))
    return TaskPage.model_validate_json(found.body) if found else None


@pytest.mark.parametrize(("task", "state"), [(SUCCESS, JobState.STORED), (RUNNING, JobState.SUBMITTED)])
async def test_reconcile_writes_the_page_of_an_open_job(task: str, state: JobState) -> None:
    """An open job of format 1 has its task's page once reconcile has asked for the task."""
    bucket, provider = MemoryBucket(), MemoryProvider(tasks={"task_a": task})
    put_old(bucket, old_record("submitted", old_attempt(task_id="task_a")))
    bucket.put(S3Uri("b-1", f"jobs/open/{'0' * 12}-{'0' * 12}-{KEY}"), b"", "", {}, "")
    bucket.wait(3600)
    run = memory_run(MemoryStorage(bucket), "later", client=provider)
    await reconcile(run, steps=STEPS)
    assert page(bucket, run, "task_a") == TaskPage(job=KEY, attempt=1, task_id="task_a")
    assert (await run.ledger.read_existing(KEY)).record.state is state


async def test_a_change_writes_the_pages_of_all_tasks_first() -> None:
    """A failed job of format 1 that a person resubmits gets the pages of its tasks; without them it is not changed."""
    bucket, is_broken = MemoryBucket(), True
    attempts = [old_attempt(1, "task_a", fail=FAILED_FOR), old_attempt(2, "task_b", fail=FAILED_FOR)]
    put_old(bucket, old_record("failed", *attempts, reason=FAILED_FOR))

    def fail(operation: str, uri: S3Uri) -> None:
        if is_broken and operation == "put if" and "/tasks/" in uri.key:
            raise StorageError("S3 failed", "Try again")

    run = memory_run(WatchedStorage(bucket, fail))
    resolver = Resolver(run.storage, run.settings)
    with pytest.raises(StorageError):
        await resolver.resubmit(KEY)
    assert json.loads(bucket.objects[URI].body)["format"] == 1
    is_broken = False
    assert (await resolver.resubmit(KEY)).state is JobState.READY
    assert [page(bucket, run, task) for task in ("task_a", "task_b")] == [
        TaskPage(job=KEY, attempt=1, task_id="task_a"),
        TaskPage(job=KEY, attempt=2, task_id="task_b"),
    ]
