"""The page of a paid task: the record never waits for it, and where it could not be written, it is written later."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from i2v.errors import StorageError
from i2v.ledger import keys
from i2v.ledger.job import JobState
from i2v.ledger.task_pages import TaskPage
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import process_order
from i2v.pipeline.submit import submit
from i2v.pipeline.video_order import Order
from i2v.reports.run_report import Outcome
from i2v.s3_uri import S3Uri
from tests.support.memory_provider import STEPS, SUCCESS, MemoryProvider, claim_by_hand, put_order
from tests.support.memory_storage import MemoryBucket, MemoryStorage, WatchedStorage, memory_run
from tests.support.reconciling import reconcile

TASK = "task-1"
FAST: dict[str, Any] = {"I2V_POLL_FIRST_SECONDS": 0.01, "I2V_POLL_EVERY_SECONDS": 0.01}


class World:
    """A bucket in which the pages of tasks cannot be written until `heal`."""

    def __init__(self) -> None:
        self.bucket = MemoryBucket()
        self.order: Order = put_order(self.bucket)
        self.provider = MemoryProvider(tasks={TASK: SUCCESS})
        self.is_broken = True

    def run(self, run_id: str = "run-1") -> RunContext:
        """Return a run over this bucket."""
        return memory_run(WatchedStorage(self.bucket, self._fail), run_id, client=self.provider, **FAST)

    def _fail(self, operation: str, uri: S3Uri) -> None:
        if self.is_broken and operation == "put if" and "/tasks/" in uri.key:
            raise StorageError("S3 failed", "Try again")

    def heal(self) -> None:
        """Let pages be written from now on."""
        self.is_broken = False

    @property
    def page(self) -> TaskPage | None:
        """The task's page."""
        found = self.bucket.objects.get(keys.task_uri(self.run().settings, TASK))
        return TaskPage.model_validate_json(found.body) if found else None

    @property
    def markers(self) -> list[str]:
        """The open markers."""
        return [uri.key for uri in self.bucket.objects if "/open/" in uri.key]


async def test_the_record_does_not_wait_for_the_page() -> None:
    """While the write of the page hangs, the task id is recorded."""
    world, never = World(), asyncio.Event()

    class Hanging(MemoryStorage):
        async def turn(self, operation: str, uri: S3Uri, action: Callable[[], Any]) -> Any:
            if "/tasks/" in uri.key:
                await never.wait()
            return await super().turn(operation, uri, action)

    run = memory_run(Hanging(world.bucket), client=world.provider)
    submitting = asyncio.create_task(submit(run, world.order))
    recorded = asyncio.Event()
    world.bucket.on_put = lambda _uri, body: recorded.set() if b'"state": "submitted"' in body else None
    await asyncio.wait_for(recorded.wait(), 5)
    assert not submitting.done()
    never.set()
    assert (await submitting).record.state is JobState.SUBMITTED


async def test_a_run_writes_a_page_that_failed() -> None:
    """A video whose task's page cannot be written is stored; its marker stays, and the page is written later."""
    world = World()
    run = world.run()
    await run.heartbeat.start()
    line = await process_order(run, world.order, STEPS)
    await run.ended_markers.flush()
    assert (line.outcome, world.page, len(world.markers)) == (Outcome.STORED, None, 1)
    world.heal()
    await run.heartbeat.end()
    assert world.page == TaskPage(job=world.order.key, attempt=1, task_id=TASK)


@pytest.mark.parametrize("page_works", [True, False])
async def test_a_run_that_attaches_writes_the_page_of_a_dead_run(page_works: bool) -> None:
    """If a process dies between record and page, the run that ends the job writes the page, then deletes the marker."""
    world = World()
    await claim_by_hand(world.run().ledger, world.order, task_id=TASK)
    assert (world.page, len(world.markers)) == (None, 1)
    world.is_broken = not page_works
    run = world.run("later")
    assert (await process_order(run, world.order, STEPS)).outcome is Outcome.STORED
    await run.ended_markers.flush()
    assert (world.page is not None, world.markers == []) == (page_works, page_works)


@pytest.mark.parametrize("ended", [True, False], ids=["stored", "running"])
async def test_reconcile_writes_a_page_that_never_succeeded(ended: bool) -> None:
    """If the process dies before the page is written, reconcile writes it, and deletes the marker only then."""
    world = World()
    if ended:
        run = world.run()
        await process_order(run, world.order, STEPS)
        await run.ended_markers.flush()
    else:
        await claim_by_hand(world.run().ledger, world.order, task_id=TASK)
    world.bucket.wait(3600)
    await reconcile(world.run("broken"), steps=STEPS)
    assert (world.page, len(world.markers)) == (None, 1)
    world.heal()
    world.bucket.wait(3600)
    await reconcile(world.run("later"), steps=STEPS)
    assert (world.page, world.markers) == (TaskPage(job=world.order.key, attempt=1, task_id=TASK), [])
    assert (await world.run().ledger.read_existing(world.order.key)).record.state is JobState.STORED


async def test_an_unreadable_page_does_not_block_the_record(caplog: pytest.LogCaptureFixture) -> None:
    """Where the page of the task cannot be parsed, the task id is recorded, and the page is named in the log."""
    world = World()
    world.heal()
    run = world.run()
    await run.storage.put(keys.task_uri(run.settings, TASK), b"{")
    job = await asyncio.wait_for(submit(run, world.order), 5)
    assert (job.record.state, job.record.task_id) == (JobState.SUBMITTED, TASK)
    assert f"the page of task {TASK} cannot be read" in caplog.text
    assert (await process_order(world.run("next"), world.order, STEPS)).outcome is Outcome.STORED


async def test_a_task_that_another_job_adopted_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Where another job has adopted the task meanwhile, the task id is recorded, and the log names both jobs."""
    world, other = World(), "b" * 64
    world.heal()
    run = world.run()
    page = TaskPage(job=other, attempt=1, task_id=TASK)
    await run.storage.put(keys.task_uri(run.settings, TASK), page.model_dump_json().encode())
    with caplog.at_level(logging.ERROR):
        job = await asyncio.wait_for(submit(run, world.order), 5)
    assert (job.record.task_id, world.page) == (TASK, page)
    assert f"job {world.order.key[:12]}: its task {TASK} was adopted by job {other[:12]}" in caplog.text
