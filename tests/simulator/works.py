"""What processes do: a flow run's body, reconcile, a callback's run, and a person at the command line.

Each is what the flow or the command of that name does, without Prefect: its retries of the free steps are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from i2v.apixo.models import TaskStatus
from i2v.erasure.erase import erase
from i2v.erasure.search import search
from i2v.erasure.selection import Selection
from i2v.errors import I2vError
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import find_items
from i2v.ledger.ledger import Ledger, VersionedRecord
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.poll import PollResult, poll
from i2v.pipeline.run import open_run
from i2v.pipeline.store import store
from i2v.pipeline.submit import submit
from i2v.pipeline.validate import ResolvedImage, ValidationResult, validate_image
from i2v.pipeline.video_order import Order
from i2v.recovery.backfill import BackfillOptions, reconcile_and_backfill
from i2v.recovery.resolve_by_hand import Resolver
from i2v.request import Mode
from tests.simulator.models.clients import ORDERED
from tests.simulator.promises import reading

if TYPE_CHECKING:
    from tests.simulator.models.provider import RenderTask
    from tests.simulator.process import Process
    from tests.simulator.world import World

T = TypeVar("T")
Work = Callable[["Process"], Awaitable[None]]
RETRY_SECONDS = (2.0, 8.0)
LOOK_SECONDS = 20.0
"""How often a person looks whether there is something to resolve."""


async def _retried(run: RunContext, step: Callable[[], Awaitable[T]]) -> T:
    """Retry a free step as Prefect does."""
    for seconds in RETRY_SECONDS:
        try:
            return await step()
        except I2vError as error:
            if not error.retryable or run.brake.interrupted:
                raise
        await asyncio.sleep(seconds)
    return await step()


async def _validate(run: RunContext, image: ResolvedImage) -> ValidationResult:
    return await _retried(run, lambda: validate_image(run, image))


async def _submit(run: RunContext, order: Order) -> VersionedRecord:
    ORDERED.set(order.key)
    return await submit(run, order)


async def _poll(run: RunContext, job: VersionedRecord) -> PollResult:
    return await _retried(run, lambda: poll(run, job))


async def _store(run: RunContext, job: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    return await _retried(run, lambda: store(run, job, status))


STEPS = Steps(validate=_validate, submit=_submit, poll=_poll, store=_store)


def run_work(images: Any, delivery: Any, max_spend_usd: Any, partial: bool, duration: Any, label: str = "") -> Work:
    """Return the body of the flow `generate`."""
    default = RequestOptions(mode=Mode.STANDARD, duration=duration, take=1)

    async def work(process: Process) -> None:
        settings = process.world.settings
        process.max_spend, process.label = max_spend_usd, label
        process.named = frozenset(images if isinstance(images, list) else ())
        limits = {"max_spend_usd": max_spend_usd, "label": label or None}
        async with open_run(settings, process.run_id, **limits, storage=process.storage) as run:
            process.run = run
            items = await find_items(images, run.storage, settings)
            report, _ = await generate(run, items, default, STEPS, partial=partial, delivery=delivery)
        process.images = tuple(item.ref.label for item in items)
        process.report = report

    return work


def reconcile_work(limit: int = 100, entries: list[str] | None = None, max_spend_usd: Any = None) -> Work:
    """Return the body of the flow `reconcile`: `collect` has entries, `nightly` a limit of money."""

    async def work(process: Process) -> None:
        settings, options = process.world.settings, None
        process.max_spend = max_spend_usd
        if max_spend_usd is not None:
            since = process.world.plan.begins - timedelta(days=1)
            default = RequestOptions(mode=Mode.STANDARD, duration=6)
            options = BackfillOptions(since, default, timedelta(seconds=settings.settling_seconds))
        async with open_run(settings, process.run_id, max_spend_usd=max_spend_usd, storage=process.storage) as run:
            process.run = run
            result = await reconcile_and_backfill(run, options, entries=entries, limit=limit, steps=STEPS)
        process.report = result.report

    return work


def forget_work(key: str) -> Work:
    """Return what `i2v forget` does; the person repeats it until nothing is left, or the story is calm."""

    async def work(process: Process) -> None:
        world, label = process.world, f"s3://b-1/{key}"
        is_done = False
        while not is_done:
            is_done = await _forget(process, label) or world.is_calm
            await asyncio.sleep(0 if is_done else LOOK_SECONDS)

    return work


async def _forget(process: Process, label: str) -> bool:
    world = process.world
    ledger, selection = Ledger(process.storage, world.settings), Selection(world.settings)
    selection.add([label])
    await search(ledger, selection)
    if not selection.images or not next(iter(selection.images.values())).is_known:
        return False
    found = await erase(ledger, selection)
    world.erased.note(label, found)
    return found.is_complete


def resubmit_work(process: Process) -> Awaitable[None]:
    """Let a person have an unknown, refused or failed job paid again."""
    return _resolve(process, "resubmit", {"unknown", "refused", "failed"})


def drop_work(process: Process) -> Awaitable[None]:
    """Let a person give up an unknown or submitted job."""
    return _resolve(process, "drop", {"unknown", "submitted"})


async def _resolve(process: Process, what: str, states: set[str]) -> None:
    world = process.world
    found: list[str] = []
    while not found:
        if world.is_calm:
            return
        await asyncio.sleep(LOOK_SECONDS)
        found = [one.key for one in reading.jobs(world.bucket).values() if one.state in states]
    key = world.chance.choice(found)
    world.count(f"person: {what}")
    world.tell(process.name, f"{what} {key[:8]}")
    (world.resubmits if what == "resubmit" else world.drops)[key] += 1
    resolver = Resolver(process.storage, world.settings)
    await (resolver.resubmit(key) if what == "resubmit" else resolver.drop(key))


async def adopt_work(process: Process) -> None:
    """Let a person adopt a task that the provider's site shows and no record has, for its own job."""
    world = process.world
    lost: list[RenderTask] = []
    while not lost:
        if world.is_calm:
            return
        await asyncio.sleep(LOOK_SECONDS)
        lost = _lost_tasks(world)
    task = world.chance.choice(lost)
    world.count("person: adopt")
    world.adoptions[task.post.job] += 1
    world.tell(process.name, f"adopt {task.id} for {task.post.job[:8]}")
    await Resolver(process.storage, world.settings).adopt(task.post.job, task.id, process.client)  # type: ignore[arg-type]


def _lost_tasks(world: World) -> list[RenderTask]:
    jobs = reading.jobs(world.bucket)
    return [
        task
        for task in world.provider.tasks.values()
        if task.post.job in jobs
        and jobs[task.post.job].state == "unknown"
        and task.id not in jobs[task.post.job].task_ids
    ]


def pause_work(paused: bool) -> Work:
    """Return what `i2v pause` and `i2v resume` do."""

    async def work(process: Process) -> None:
        process.world.count("person: pause" if paused else "person: resume")
        await Ledger(process.storage, process.world.settings).info.set_paused(paused)

    return work


BY_HAND: Mapping[str, Work] = {"resubmit": resubmit_work, "drop": drop_work, "adopt": adopt_work}
"""What a person does who looks until there is something to resolve."""
