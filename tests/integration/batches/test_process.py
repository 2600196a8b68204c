"""A batch from its images to its merged report, against the sandbox; its shards run in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from i2v.batches.merge import MergedBatch
from i2v.batches.plan import BatchPlan
from i2v.batches.process import BatchRun, find_or_write_shards
from i2v.errors import BudgetExceeded, Paused
from i2v.ledger.run_record import RunRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.run import open_run
from i2v.reports.run_report import Outcome
from i2v.settings import Settings
from sandbox import Sandbox
from tests.support.local_shards import DEFAULT, LocalShards
from tests.support.orders import job_records, put_photo, put_photos

IMAGES, SIZE = 6, 2
PRICE = Decimal("0.192")
BATCH = "0b0e7e2c-1f7b-4b57-8a6c-3a4a1f1c9f10"
Crashes = dict[tuple[int, int], Callable[[], bool]]


class World:
    """A bucket with images, and one batch of them."""

    def __init__(self, sandbox: Sandbox, settings: Settings) -> None:
        self.sandbox = sandbox
        self.settings = settings
        self.images = put_photos(sandbox, IMAGES)

    @asynccontextmanager
    async def parent(self, videos: int | None = None) -> AsyncIterator[tuple[RunContext, BatchPlan]]:
        """Open the parent's run, whose limit is the price of so many videos."""
        limit = None if videos is None else videos * PRICE
        async with open_run(self.settings, BATCH, max_spend_usd=limit, batch=BATCH) as run:
            prefix = f"s3://{self.sandbox.bucket}/images/"
            yield run, await find_or_write_shards(run, [prefix, self.images[0]], DEFAULT, SIZE)

    async def process(
        self,
        videos: int | None = None,
        *,
        partial: bool = False,
        crashes: Crashes | None = None,
        terminations: Crashes | None = None,
    ) -> tuple[MergedBatch, LocalShards]:
        """Process the batch."""
        async with self.parent(videos) as (run, plan):
            shards = LocalShards(plan, self.settings, run.max_spend_usd, crashes or {}, terminations or {})
            return await BatchRun(run, plan, shards, 2).process(partial=partial), shards

    @property
    def report(self) -> dict[str, Any]:
        """The merged report in the ledger."""
        report: dict[str, Any] = self.sandbox.read_json(f"jobs/batches/{BATCH}/report.json")
        return report

    @property
    def billed(self) -> int:
        """How many videos the provider charged."""
        return self.sandbox.provider.billed().total()


@pytest.fixture
def world(sandbox: Sandbox, settings: Settings, aws: None) -> World:
    """Return six images, which are three shards."""
    return World(sandbox, settings.model_copy(update={"first_submits": 100}))


async def test_the_shards_become_one_report(world: World) -> None:
    """Each image is one item, in order, and the sums are those of all shards; the parent's record has them too."""
    merged, shards = await world.process()
    assert merged.total.summary() == "6 stored · $1.15"
    assert [item["image"] for item in world.report["items"]] == world.images
    assert (world.report["stored"], world.report["spent_usd"], world.billed) == (6, 1.152, 6)
    rows = [json.loads(line) for line in world.sandbox.read(f"jobs/runs/{BATCH}.jsonl").splitlines()]
    assert [(row["image"], row["outcome"], row["cost_usd"]) for row in rows] == [
        (image, "stored", 0.192) for image in world.images
    ]
    record = RunRecord.model_validate(world.sandbox.read_json(f"jobs/runs/{BATCH}.json"))
    assert record.ended_at
    assert record.report
    assert record.report["stored"] == 6
    assert len(shards.tasks) == 3


async def test_shards_that_share_a_published_name_pay_for_none(world: World) -> None:
    """What no single shard can see is found before the first one; the report has the images as a run's would."""
    world.settings = world.settings.model_copy(update={"publish_as": "published/{stem}.mp4"})
    other = put_photo(world.sandbox, "other/000.jpg", seed=99)
    merged, shards = await world.process()
    assert {number for number, _ in shards.tasks} == {1, 2, 3}
    assert merged.total.summary() == "5 stored · 2 not tried · $0.96"
    assert world.billed == 5
    left_out = {item["image"]: item["reason"] for item in world.report["items"] if item["outcome"] == "not_tried"}
    assert left_out.keys() == {world.images[0], other}
    assert f"would be published as s3://{world.sandbox.bucket}/published/" in left_out[other]
    assert f"and so would {world.images[0]}" in left_out[other]
    assert not merged.total.completed(awaits_callbacks=False, is_partial=True)


async def test_the_limit_holds_for_all_shards_together(world: World) -> None:
    """Shards that run at the same time spend the batch's limit and no more; the others are not tried."""
    merged, _ = await world.process(4, partial=True)
    assert world.billed == 4
    assert merged.total.summary() == "4 stored · 2 not tried (spending limit) · $0.768"
    assert merged.total.completed(awaits_callbacks=False, is_partial=True)
    assert not merged.total.completed(awaits_callbacks=False, is_partial=False)


async def test_a_batch_that_the_limit_does_not_cover_starts_no_shard(world: World) -> None:
    """The money is checked once for all images, before the first shard."""
    with pytest.raises(BudgetExceeded, match=r"6 videos cost \$1.15"):
        await world.process(5)
    assert world.billed == 0
    assert not [key for key in world.sandbox.keys("jobs/runs/") if f"{BATCH}-" in key]


async def test_a_paused_batch_starts_no_shard(world: World) -> None:
    """Nothing is started while submits are paused."""
    async with world.parent() as (run, _):
        await run.ledger.info.set_paused(True)
    with pytest.raises(Paused):
        await world.process()
    assert world.billed == 0


async def test_what_stops_the_submits_of_a_shard_stops_the_batch(world: World) -> None:
    """An account that is rejected in one shard is rejected in all: no further one is started."""
    world.sandbox.provider.add_fault(on="submit", kind="answer", status=402, times=None)
    async with world.parent() as (run, plan):
        shards = LocalShards(plan, world.settings)
        merged = await BatchRun(run, plan, shards, 1).process(partial=False)
    assert list(shards.tasks) == [(1, 1)]
    assert merged.total.counts[Outcome.NOT_TRIED] >= IMAGES - SIZE
    assert not merged.total.left_by_limit
    assert world.billed == 0


async def test_a_crashed_shard_is_finished_by_its_next_run_within_the_limit(world: World) -> None:
    """The next run attaches to what the dead one paid for and counts it; the limit covers exactly the six videos."""
    world.sandbox.provider.set_options(render_seconds=1)
    crashes: Crashes = {(1, 1): lambda: world.billed >= 2}
    merged, shards = await world.process(6, crashes=crashes)
    assert shards.crashed == {(1, 1)}
    assert set(world.sandbox.provider.billed().values()) == {1}
    assert merged.total.summary() == "6 stored · $1.15"


async def test_a_shard_that_the_end_of_its_worker_interrupts_is_finished_by_its_next_run(world: World) -> None:
    """A run that SIGTERM interrupted has a report; the batch goes on with another run all the same."""
    world.sandbox.provider.set_options(render_seconds=1)
    merged, shards = await world.process(terminations={(1, 1): lambda: world.billed >= 2})
    assert shards.crashed == {(1, 1)}
    assert set(world.sandbox.provider.billed().values()) == {1}
    assert merged.total.summary() == "6 stored · $1.15"


async def test_a_shard_that_always_crashes_is_reported_from_the_ledger(world: World) -> None:
    """Its images are named with what the ledger has: submitted where it was paid for, else not tried."""
    world.sandbox.provider.set_options(render_seconds=60)
    world.settings = world.settings.model_copy(update={"max_in_flight": 1, "poll_deadline_seconds": 2})
    crashes: Crashes = {
        (1, 1): lambda: any(job.image.label in world.images[:2] for job in job_records(world.sandbox) if job.task_id),
        (1, 2): lambda: True,
        (1, 3): lambda: True,
    }
    merged, shards = await world.process(crashes=crashes)
    assert shards.crashed == {(1, 1), (1, 2), (1, 3)}
    first, second = world.report["items"][:2]
    assert sorted(item["outcome"] for item in (first, second)) == ["not_tried", "submitted"]
    (paid,) = (item for item in (first, second) if item["outcome"] == "submitted")
    assert (paid["cost_usd"], bool(paid["task_id"])) == (0.192, True)
    (untried,) = (item for item in (first, second) if item["outcome"] == "not_tried")
    assert "its run is Crashed" in untried["reason"]
    assert merged.total.charges.charged == PRICE * world.billed
    assert merged.shards[1].counts == {Outcome.SUBMITTED: 1, Outcome.NOT_TRIED: 1}


async def test_a_parent_that_starts_again_lists_nothing_and_pays_nothing(world: World) -> None:
    """A second process of the batch finds its plan and its shards' reports."""
    await world.process()
    world.sandbox.put_image("images/late.jpg", b"not in the batch")
    async with world.parent() as (run, plan):
        shards = LocalShards(plan, world.settings)
        merged = await BatchRun(run, plan, shards, 2).process(partial=False)
    assert merged.total.counts == {Outcome.CACHED: 6} or merged.total.summary() == "6 stored · $1.15"
    assert world.billed == 6


async def test_a_cancel_ends_the_shards_and_names_what_is_open(world: World) -> None:
    """A batch that is cancelled interrupts its shards; what is paid is submitted, and the rest not tried."""
    world.sandbox.provider.set_options(render_seconds=60)
    async with world.parent() as (run, plan):
        shards = LocalShards(plan, world.settings)

        def interrupt_once_billed() -> bool:
            if world.billed:
                run.brake.interrupt()
            return False

        shards.crashes[1, 1] = interrupt_once_billed
        merged = await BatchRun(run, plan, shards, 1).process(partial=False)
    assert shards.cancelled == {1}
    assert merged.total.counts[Outcome.SUBMITTED] == world.billed
    assert merged.total.counts[Outcome.NOT_TRIED] == IMAGES - world.billed
    assert [item["outcome"] for item in world.report["items"]].count("submitted") == world.billed
