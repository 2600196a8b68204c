"""Generate videos for a batch of images: prepare each, check the money, and run each to its outcome.

The order of the steps is here; the steps are passed in as `Steps`: the library's own, or Prefect tasks around them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from i2v.apixo.models import TaskStatus
from i2v.errors import BudgetExceeded, I2vError, ImageChanged, LedgerError, Refused, Stopped, StorageError
from i2v.inputs.prompts import PROMPT_RULES, RequestOptions, overridden_options
from i2v.inputs.sources import FoundItems, InputItem
from i2v.ledger.attempt import Delivery
from i2v.ledger.job import JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline import outcomes, preflight
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import ImageDone, JobRendered
from i2v.pipeline.named_copies.conflicts import without_conflicts
from i2v.pipeline.named_copies.publish_copy import publish_and_release
from i2v.pipeline.outputs.publish import publish_outputs
from i2v.pipeline.outputs.verdicts import put_verdict, refusal
from i2v.pipeline.poll import PollResult, poll
from i2v.pipeline.rerun_arguments import with_example_prompt, with_options, with_request
from i2v.pipeline.run import end_run
from i2v.pipeline.store import store
from i2v.pipeline.submit import submit
from i2v.pipeline.submit_brake import LIMIT, STOPPED
from i2v.pipeline.validate import ResolvedImage, ValidationResult, refresh_metadata, resolve_image, validate_image
from i2v.pipeline.video_order import Order, make_order, make_request
from i2v.reports.run_report import ItemReport, Report
from i2v.telemetry.spans import inside, start_image, until_done

log = logging.getLogger(__name__)
Prepared = Order | ItemReport
"""An image that may be paid for, or the line of one that may not."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What happens to an image, in this order. Each may raise what the library's own step of that name raises."""

    validate: Callable[[RunContext, ResolvedImage], Awaitable[ValidationResult]] = validate_image
    submit: Callable[[RunContext, Order], Awaitable[VersionedRecord]] = submit
    poll: Callable[[RunContext, VersionedRecord], Awaitable[PollResult]] = poll
    store: Callable[[RunContext, VersionedRecord, TaskStatus], Awaitable[VersionedRecord]] = store


async def generate(
    run: RunContext,
    items: Sequence[InputItem | Prepared],
    default: RequestOptions,
    steps: Steps,
    *,
    partial: bool = False,
    settled: Sequence[ItemReport] = (),
    delivery: Delivery = "poll",
) -> tuple[Report, Stopped | None]:
    """Generate a video of each image and end the run; in a dry run, report what would be generated.

    Return the report of `items`, and the error that stopped the run before its first submit, if one did. `default` has
    the options of images without their own. With `partial`, spend up to the limit; otherwise do not start unless the
    money suffices for all. `settled` are the lines of the run's earlier work, for its record. `poll` waits for the
    videos; `callback` ends once everything is submitted. Raise as `LedgerInfoStore.prepare` does.
    """
    paused = False if run.dry_run else await _prepare_ledger(run)
    run.set_image_count(len(settled) + len(items))
    spans = [start_image(label_of(item)) for item in items]
    preparing: list[asyncio.Future[Prepared]] = [
        asyncio.ensure_future(inside(span, prepare, run, item, default, steps))
        for span, item in zip(spans, items, strict=True)
    ]
    unfinished = set(preparing)
    for task in preparing:
        task.add_done_callback(unfinished.discard)
    try:
        if run.settings.publish_as:
            preparing = await without_conflicts(run, preparing)
        stopped = None if run.dry_run else await _check_funds(run, preparing, partial=partial, paused=paused)
        endings = [
            until_done(span, _run_image, run, task, steps, delivery)
            for span, task in zip(spans, preparing, strict=True)
        ]
        preparing.clear()  # a finished task keeps its context, in which Prefect stores the image's first step
        lines = await asyncio.gather(*endings)
    finally:
        for task in unfinished:
            task.cancel()
    report = _report(run, items, lines, partial=partial, delivery=delivery)
    await end_run(run, report.model_copy(update={"items": (*settled, *report.items)}), stopped)
    return report, stopped


async def _prepare_ledger(run: RunContext) -> bool:
    """Prepare the ledger for submits; return whether they are paused."""
    info = await run.ledger.info.prepare()
    run.first_submits.trust(*info.fetched_from)
    preflight.warn_of_expiring_credentials(run)
    return info.paused


def _report(
    run: RunContext,
    items: Sequence[InputItem | Prepared],
    lines: Sequence[ItemReport],
    *,
    partial: bool,
    delivery: Delivery,
) -> Report:
    found = items if isinstance(items, FoundItems) else None
    return Report(
        items=tuple(lines),
        stopped=run.brake.stopped.message if run.brake.stopped else None,
        awaits_callbacks=delivery == "callback",
        is_partial=partial,
        other_files=found.others if found else {},
        bad_rows=found.bad_rows if found else (),
    )


def label_of(item: InputItem | Prepared) -> str:
    """Return how an image is named in reports."""
    if isinstance(item, ItemReport):
        return item.image
    return item.image.label if isinstance(item, Order) else item.ref.label


async def _check_funds(
    run: RunContext, preparing: Sequence[asyncio.Future[Prepared]], *, partial: bool, paused: bool
) -> Stopped | None:
    """Stop a run that the money does not cover. If it covers the worst case, do not wait for all validations."""
    try:
        room, limit = await preflight.room_usd(run)
        if paused or (room is not None and preflight.worst_case_usd(run, len(preparing)) > room):
            orders = [order for order in await asyncio.gather(*preparing) if isinstance(order, Order)]
            prices = await preflight.unpaid_prices(run, orders)
            if prices and paused:
                await run.ledger.info.raise_if_paused()
            preflight.check_money(prices, room, limit, partial=partial)
            if limit == preflight.BALANCE:  # the budget knows the others, which reset at midnight
                run.budget.lower_limit(room, limit)
    except StorageError as error:
        return _stop(run, LedgerError(f"Cannot read the ledger: {error.message}", error.hint))
    except Stopped as error:
        return _stop(run, error)
    return None


def _stop(run: RunContext, error: Stopped) -> Stopped:
    run.brake.stop(LIMIT if isinstance(error, BudgetExceeded) else STOPPED, error.message)
    return error


async def prepare(run: RunContext, item: InputItem | Prepared, default: RequestOptions, steps: Steps) -> Prepared:
    """Resolve and validate an image and price its request; nothing is paid. Return what is prepared already."""
    if not isinstance(item, InputItem):
        return item
    try:
        async with run.limits.preparing:
            run.brake.check_interrupt()
            try:
                return await _prepare(run, item, default, steps)
            except ImageChanged:
                return await _prepare(run, item.unlisted, default, steps)
    except Exception as error:  # noqa: BLE001 - one image's error must not end the others
        line = outcomes.of_error(run, item.ref.label, expected(error, item.ref.label))
        needs_prompt = isinstance(error, Refused) and error.rule in PROMPT_RULES
        again = with_example_prompt(run, item) if needs_prompt else with_options(run, item, default)
        return line.model_copy(update={"again": again, "needs_prompt": needs_prompt, "extra": dict(item.options.extra)})


async def _prepare(run: RunContext, item: InputItem, default: RequestOptions, steps: Steps) -> Prepared:
    image = await resolve_image(run, item, default)
    if not image.is_listed:
        make_request(image)  # an image without a valid request is not read
    validation = await steps.validate(run, image)
    image = await refresh_metadata(run, item, image, validation, default)
    request = make_request(image)
    again = with_request(run, item, request, image.options.prompt_source)
    if validation.facts:
        overridden = overridden_options(request, default, item.ref, run.settings)
        order = make_order(run, image, validation, request)
        return replace(order, overridden=overridden, again=again, by_name=item.by_name)
    line = outcomes.refused(run, image, validation, request).model_copy(update={"again": again})
    if run.dry_run:
        return line
    verdict = refusal(image, validation, request)
    is_new = await put_verdict(run.storage, run.settings, verdict, keep_existing=True)
    return line.model_copy(update={"is_new_outcome": is_new})


async def _run_image(
    run: RunContext, preparing: asyncio.Future[Prepared], steps: Steps, delivery: Delivery
) -> ItemReport:
    """Take one image from its order to its outcome."""
    order = await preparing
    del preparing  # and with it the context of the image's first step
    if isinstance(order, ItemReport):
        line = order
    else:
        try:
            order = replace(order, delivery=delivery)
            line = await (outcomes.preview(run, order) if run.dry_run else process_order(run, order, steps))
        except Exception as error:  # noqa: BLE001 - one image's error must not end the others
            line = outcomes.of_error(run, order.image.label, expected(error, order.image.label), order)
    run.emit(ImageDone(line))
    return line


def expected(error: Exception, label: str) -> I2vError:
    """Return the error as an `I2vError`; any other is a bug in i2v and is logged with its traceback."""
    if isinstance(error, I2vError):
        return error
    log.error("%s: internal error", label, exc_info=error)
    return I2vError(f"Internal error: {type(error).__name__}: {error}", "Please report it with the log")


async def process_order(run: RunContext, order: Order, steps: Steps) -> ItemReport:
    """Submit the order, and run its job to completion; a later error is reported together with the job.

    Raise `I2vError` if the submit failed, so this run has no job for the image.
    """
    bucket = order.image.at.bucket
    async with run.job_lock(order.key), run.limits.in_flight, run.first_submits.turn(bucket) as turn:
        if turn.is_first:
            order = replace(order, delivery="poll")
        job = await steps.submit(run, order)
        turn.paid = any(attempt.run_id == run.run_id and attempt.cost_usd for attempt in job.record.attempts)
        if job.record.state is JobState.STORED:
            await run.first_submits.rendered(bucket)
        try:
            return await run_to_completion(run, order, job, steps)
        except Exception as error:  # noqa: BLE001 - what was paid must be reported whatever happens after it
            newest = await _newest(run, job)
            return outcomes.of_failed_job(run, order, newest.record, expected(error, order.image.label))


async def _newest(run: RunContext, job: VersionedRecord) -> VersionedRecord:
    try:
        return await run.ledger.read_existing(job.record.key)
    except I2vError:
        return job


async def run_to_completion(run: RunContext, order: Order, job: VersionedRecord, steps: Steps) -> ItemReport:
    """Poll, store, and submit again after a transient failure, until the job has ended; then publish the outputs."""
    cached = job.record.state is JobState.STORED and not _was_paid_here(run, job)
    is_new = not _ended_before(run, job)
    just_stored = False
    while order.delivery == "poll" and job.record.state in {JobState.SUBMITTED, JobState.READY}:
        if job.record.state is JobState.READY:
            await run.brake.sleep(run.settings.poll_every_seconds)
            run.first_submits.count_another(order.image.at.bucket)
            job = await steps.submit(run, order)
            continue
        job, status, _ = await steps.poll(run, job)
        if status:
            run.emit(JobRendered(None if status.cost_ms is None else status.cost_ms / 1000))
            job = await steps.store(run, job, status)
            just_stored = True
        elif job.record.state is JobState.SUBMITTED:
            break
    video = await publish_outputs(run, job.record, order.image, order.extra, just_stored=just_stored)
    problem = await publish_and_release(run, job.record, order, video, just_stored=just_stored)
    line = outcomes.of_job(run, order, job.record, video, cached=cached)
    reason = "; ".join(filter(None, (line.reason, problem))) or None
    return line.model_copy(update={"is_new_outcome": is_new, "reason": reason})


def _ended_before(run: RunContext, job: VersionedRecord) -> bool:
    """Return whether an earlier run has reported this refusal or failure. An unknown job is reported again."""
    is_ended = job.record.state in {JobState.REFUSED, JobState.FAILED, JobState.FORGOTTEN}
    return is_ended and all(attempt.run_id != run.run_id for attempt in job.record.attempts)


def _was_paid_here(run: RunContext, job: VersionedRecord) -> bool:
    """Return whether this run paid for a video that a callback stored before the submit was answered."""
    attempt = job.record.attempt
    return attempt is not None and attempt.delivery == "callback" and attempt.run_id == run.run_id
