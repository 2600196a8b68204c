"""From images to videos: `generate` prepares all images of a run, sees that they can be paid, and brings each home.

The four steps are given as `Steps`: the library's own, or an orchestrator's tasks around them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from i2v.apixo.models import TaskStatus
from i2v.errors import I2vError, ImageChanged, LedgerError, Stopped, StorageError
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import InputItem
from i2v.ledger.job import Delivery, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline import outcomes, preflight
from i2v.pipeline.poll import poll
from i2v.pipeline.run import Run
from i2v.pipeline.store import publish_outputs, put_verdict, refusal, store
from i2v.pipeline.submit import Order, submit
from i2v.pipeline.validate import (
    ResolvedImage,
    ValidationResult,
    make_order,
    make_request,
    refresh_metadata,
    resolve_image,
    validate_image,
)
from i2v.reports.run_report import ItemReport, Report

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done to an image, in this order. Each may raise what the library's own step of that name raises."""

    validate: Callable[[Run, ResolvedImage], Awaitable[ValidationResult]] = validate_image
    submit: Callable[[Run, Order], Awaitable[VersionedRecord]] = submit
    poll: Callable[[Run, VersionedRecord], Awaitable[tuple[VersionedRecord, TaskStatus | None]]] = poll
    store: Callable[[Run, VersionedRecord, TaskStatus], Awaitable[VersionedRecord]] = store


async def generate(
    run: Run,
    items: Sequence[InputItem | Order | ItemReport],
    default: RequestOptions,
    steps: Steps,
    *,
    partial: bool = False,
    settled: Sequence[ItemReport] = (),
    delivery: Delivery = "poll",
) -> tuple[Report, Stopped | None]:
    """Make a video of each image, or in a dry run foresee what would be made.

    Args:
        run: the flow run; its `dry_run` says whether anything is paid.
        items: what to animate; what is prepared already is not looked at again.
        default: what is asked for images that bring nothing of their own.
        steps: what is done to each image.
        partial: whether to go as far as the money goes.
        settled: what the run did before, which its record tells too.
        delivery: `poll` waits for the videos; with `callback` nothing waits, and the provider calls the door.

    Returns:
        The report of `items`, and the error that stopped the run before its first submit, if one did.

    Raises:
        UsageError: the ledger belongs to another provider or account.
        LedgerError: the ledger cannot be read, written or trusted.
    """
    paused = False
    if not run.dry_run:
        paused = (await run.ledger.prepare()).paused
        preflight.warn_of_short_credentials(run)
    run.tell_count(len(settled) + len(items))
    prepared = [asyncio.ensure_future(prepare(run, item, default, steps)) for item in items]
    unready = set(prepared)
    for each in prepared:
        each.add_done_callback(unready.discard)
    try:
        stopped = None if run.dry_run else await _secure_money(run, prepared, partial=partial, paused=paused)
        ends = [_end(run, each, steps, delivery) for each in prepared]
        prepared.clear()  # an ended task keeps its context, in which an orchestrator remembers the image's first step
        reports = await asyncio.gather(*ends)
    finally:
        for each in unready:
            each.cancel()
    stopped_by = run.stopped.message if run.stopped else None
    report = Report(items=tuple(reports), stopped=stopped_by, awaits_callbacks=delivery == "callback")
    await run.end(report.model_copy(update={"items": (*settled, *report.items)}))
    return report, stopped


async def _secure_money(
    run: Run, prepared: Sequence[asyncio.Future[Order | ItemReport]], *, partial: bool, paused: bool
) -> Stopped | None:
    """Stop a run that cannot be paid in full. Where even the worst case can, nobody waits for all to be validated."""
    try:
        room, limit = await preflight.room_usd(run)
        if paused or (room is not None and preflight.worst_case_usd(run, len(prepared)) > room):
            orders = [order for order in await asyncio.gather(*prepared) if isinstance(order, Order)]
            prices = await preflight.still_to_pay(run, orders)
            if prices and paused:
                await run.ledger.raise_if_paused()
            preflight.check_money(prices, room, limit, partial=partial)
            run.budget.lower_limit(room)
    except StorageError as error:
        return _stop(run, LedgerError(f"The ledger cannot be read: {error.message}", error.hint))
    except Stopped as error:
        return _stop(run, error)
    return None


def _stop(run: Run, error: Stopped) -> Stopped:
    run.stop_submits("stopped", error.message)
    return error


async def prepare(
    run: Run, item: InputItem | Order | ItemReport, default: RequestOptions, steps: Steps
) -> Order | ItemReport:
    """Look at an image, validate it and price its request; nothing is paid here. What is prepared stays as it is."""
    if not isinstance(item, InputItem):
        return item
    try:
        async with run.preparing:
            run.refuse_if_interrupted()
            try:
                return await _prepare(run, item, default, steps)
            except ImageChanged:
                return await _prepare(run, item.unlisted, default, steps)
    except Exception as error:  # noqa: BLE001 - every image ends by itself
        return outcomes.of_error(run, item.ref.label, expected(error, item.ref.label))


async def _prepare(run: Run, item: InputItem, default: RequestOptions, steps: Steps) -> Order | ItemReport:
    seen = await resolve_image(run, item, default)
    if not seen.is_listed:
        make_request(seen)  # what cannot be asked for is not read
    checked = await steps.validate(run, seen)
    seen = await refresh_metadata(run, item, seen, default)
    request = make_request(seen)
    if checked.facts:
        return make_order(run, seen, checked, request)
    refused = outcomes.refused(run, seen, checked, request)
    if run.dry_run or await put_verdict(run, refusal(seen, checked, request), is_lasting=True):
        return refused
    return refused.model_copy(update={"is_new_outcome": False})


async def _end(run: Run, prepared: asyncio.Future[Order | ItemReport], steps: Steps, delivery: Delivery) -> ItemReport:
    """One image from its order to its end, whatever that is."""
    order = await prepared
    del prepared  # what it remembers of the image's first steps
    if isinstance(order, ItemReport):
        report = order
    else:
        try:
            order = replace(order, delivery=delivery)
            report = await (outcomes.preview(run, order) if run.dry_run else process_order(run, order, steps))
        except Exception as error:  # noqa: BLE001 - every image ends by itself
            report = outcomes.of_error(run, order.image.label, expected(error, order.image.label), order)
    run.tell_done(report)
    return report


def expected(error: Exception, label: str) -> I2vError:
    """The error as one of ours. Another is a fault of i2v itself: it is logged whole and ends this image alone."""
    if isinstance(error, I2vError):
        return error
    log.error("%s: a fault in i2v", label, exc_info=error)
    return I2vError(f"A fault in i2v: {type(error).__name__}: {error}", "Please report it with the log")


async def process_order(run: Run, order: Order, steps: Steps) -> ItemReport:
    """Submit, poll and store until the job has ended, then give this image its answers; by callback, submit alone.

    Raises:
        I2vError: the first step failed, so that this run knows of no job. What fails later is told with the job.
    """
    async with run.job_lock(order.key), run.in_flight:
        held = await steps.submit(run, order)
        try:
            return await run_to_completion(run, order, held, steps)
        except Exception as error:  # noqa: BLE001 - what was paid is told whatever happens after it
            newest = await _newest(run, held)
            return outcomes.of_failed_job(run, order, newest.record, expected(error, order.image.label))


async def _newest(run: Run, held: VersionedRecord) -> VersionedRecord:
    try:
        return await run.ledger.read_existing(held.record.key)
    except I2vError:
        return held


async def run_to_completion(run: Run, order: Order, held: VersionedRecord, steps: Steps) -> ItemReport:
    """Submit, poll and store until the job has ended; then publish the outputs of this image."""
    cached = held.record.state is JobState.STORED and not _has_just_paid(run, held)
    is_new_outcome = not _had_ended(run, held)
    is_new = False
    while order.delivery == "poll" and held.record.state in {JobState.SUBMITTED, JobState.READY}:
        if held.record.state is JobState.READY:
            await run.sleep(run.settings.poll_every_seconds)
            held = await steps.submit(run, order)
            continue
        held, status = await steps.poll(run, held)
        if status:
            run.tell_rendered(status.cost_ms)
            held = await steps.store(run, held, status)
            is_new = True
        elif held.record.state is JobState.SUBMITTED:
            break
    video = await publish_outputs(run, held.record, order.image, is_new=is_new)
    return outcomes.of_job(run, order, held.record, video, cached=cached).model_copy(
        update={"is_new_outcome": is_new_outcome}
    )


def _had_ended(run: Run, held: VersionedRecord) -> bool:
    """Whether an earlier run has told of this refusal or failure. What is unknown is told again: it needs a person."""
    is_ended = held.record.state in {JobState.REFUSED, JobState.FAILED}
    return is_ended and all(attempt.run_id != run.run_id for attempt in held.record.attempts)


def _has_just_paid(run: Run, held: VersionedRecord) -> bool:
    """Whether the video is this run's own, which a callback brought home before the submit was answered."""
    attempt = held.record.attempt
    return attempt is not None and attempt.delivery == "callback" and attempt.run_id == run.run_id
