"""Reconcile with generation: settle open jobs, then generate the videos that images still lack.

`reconcile` settles, `images_without_video` finds the images; how many of them are generated is decided here. Both are
one run with one record in the ledger.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from i2v.errors import NotFound, NotTried, Stopped, UsageError
from i2v.inputs.prompts import RequestOptions, check_options
from i2v.inputs.sources import InputItem
from i2v.ledger.job import JobState
from i2v.media.images import ImageRef
from i2v.pipeline import outcomes
from i2v.pipeline.context import READERS, RunContext
from i2v.pipeline.generate import Prepared, Steps, expected, generate, label_of, prepare
from i2v.pipeline.run import end_run
from i2v.pipeline.video_order import Order
from i2v.recovery.images_without_video import MissingSearch, has_outcome, versions_with_outcome
from i2v.recovery.reconcile import settle_open
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.s3.listing import S3Entry
from i2v.settings import Settings

log = logging.getLogger(__name__)
BATCH = 5_000
"""Images without an outcome that are kept in memory at once."""
REPORTED_AT_MOST = 1_000
"""Images that cannot get a video and leave no outcome: this many get a line in the report, more are only counted."""


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """Which images are generated: those without an outcome that were last written at `since` or later."""

    since: datetime
    default: RequestOptions
    settling: timedelta
    """Images younger than this are left to the door."""


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """The jobs that were settled, the images that were generated, and the error that stopped the generation."""

    settled: Report
    generated: Report | None = None
    stopped: Stopped | None = None

    @property
    def report(self) -> Report:
        """Both as one report."""
        if self.generated is None:
            return self.settled
        return self.generated.model_copy(update={"items": (*self.settled.items, *self.generated.items)})

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed; a settled job that still renders or waits for a person is not a failure."""
        generated = self.generated is None or self.generated.succeeded
        return generated and not self.stopped and not self.settled.count(Outcome.FAILED)

    @property
    def completed(self) -> bool:
        """Whether it succeeded, except for what a spending limit left."""
        generated = self.generated is None or self.generated.completed
        return generated and not self.stopped and not self.settled.count(Outcome.FAILED)

    @property
    def summary(self) -> str:
        """The result in words."""
        if self.report.items:
            return self.report.summary
        if self.generated and self.generated.stopped:
            return f"stopped before all images were checked: {self.generated.stopped}"
        return "nothing is open" if self.generated is None else "nothing is open, and every image has an outcome"


def backfill_options(
    settings: Settings,
    default: RequestOptions,
    *,
    generate: bool,
    since: datetime | None,
    max_spend_usd: Decimal | None,
) -> BackfillOptions | None:
    """Return what to generate, `None` for nothing. A time without a zone is UTC.

    Raise `UsageError` for `generate` without `since` and `max_spend_usd`, or a prompt with an unknown field.
    """
    if not generate:
        return None
    if since is None or max_spend_usd is None:
        given = {"since": since, "max_spend_usd": max_spend_usd}
        missing = " and ".join(name for name, value in given.items() if value is None)
        hint = "Give the date of the oldest image, such as 2026-11-22, and a limit, to avoid processing old images"
        raise UsageError(f"To generate missing videos, {missing} must be given", hint)
    check_options(default, settings)
    zoned = since if since.tzinfo else since.replace(tzinfo=UTC)
    return BackfillOptions(zoned, default, timedelta(seconds=settings.settling_seconds))


async def reconcile_and_backfill(
    run: RunContext,
    options: BackfillOptions | None = None,
    *,
    entries: Sequence[str] | None = None,
    limit: int = 100,
    steps: Steps | None = None,
) -> ReconcileResult:
    """Settle open jobs, then generate missing videos up to the run's limits, oldest image first; end the run.

    `limit` is the most videos that are stored, and the most images that are generated; `entries` are those of
    `settle_open`. Raise as `settle_open` and `generate` do.
    """
    steps = steps or Steps()
    settled = Report(items=await settle_open(run, entries=entries, limit=limit, steps=steps))
    if options is None:
        await end_run(run, settled)
        return ReconcileResult(settled)
    reported = {item.image for item in settled.items}
    prepared = [one for one in await _prepare_missing(run, options, limit, steps) if label_of(one) not in reported]
    if not prepared:
        await end_run(run, settled)
        stopped_by = run.brake.stopped.message if run.brake.stopped else None
        return ReconcileResult(settled, Report(stopped=stopped_by))
    generated, stopped = await generate(run, prepared, options.default, steps, partial=True, settled=settled.items)
    return ReconcileResult(settled, generated, stopped)


async def _prepare_missing(run: RunContext, options: BackfillOptions, limit: int, steps: Steps) -> list[Prepared]:
    """Return at most `limit` orders, and the lines of images that cannot become one.

    An image without a prompt, or whose job waits for a person, leaves no outcome and is found again each time. It does
    not count toward `limit`, so that such images never starve newer ones.
    """
    orders: list[Order] = []
    lines: list[ItemReport] = []
    unreported = 0
    async with aclosing(_batches(run, options)) as batches:
        async for batch in batches:
            rest = deque(batch)
            while rest and len(orders) < limit and not run.brake.stopped:
                some = [rest.popleft() for _ in range(min(len(rest), max(limit - len(orders), READERS)))]
                checked = await asyncio.gather(*(_prepare_entry(run, entry, options.default, steps) for entry in some))
                orders += [one for one in checked if isinstance(one, Order)]
                reports = [one for one in checked if isinstance(one, ItemReport)]
                unreported += max(0, len(lines) + len(reports) - REPORTED_AT_MOST)
                lines = (lines + reports)[:REPORTED_AT_MOST]
            if len(orders) >= limit or run.brake.stopped:
                break
    if unreported:
        log.warning("%d more images cannot get a video; the report omits them", unreported)
    return [*orders[:limit], *lines]


async def _batches(run: RunContext, options: BackfillOptions) -> AsyncGenerator[list[S3Entry], None]:
    until = await run.storage.server_time(run.settings.images) - options.settling
    try:
        search = MissingSearch(run, await versions_with_outcome(run), options.since, until)
        batch = await search.next_batch(BATCH)
        _log_skipped(search)
        while batch:
            yield batch
            batch = await search.next_batch(BATCH) if len(batch) == BATCH else []
    except NotTried:
        log.info("interrupted while listing images")


def _log_skipped(search: MissingSearch) -> None:
    if reserved := search.reserved:
        count, example = len(reserved), reserved[0]
        log.warning("%d objects such as %s are skipped: their keys start with a reserved name", count, example)
    if search.unsettled:
        log.info("%d images are too young and left to the door", search.unsettled)


async def _prepare_entry(run: RunContext, entry: S3Entry, default: RequestOptions, steps: Steps) -> Prepared | None:
    """Prepare an image; return `None` if it was deleted, replaced or picked up by another run since the listing."""
    ref = ImageRef(uri=entry.uri)
    try:
        now = await run.storage.head(entry.uri)
        if now.etag != entry.etag or await has_outcome(run, entry):
            return None
    except NotFound:
        return None
    except Exception as error:  # noqa: BLE001 - one image's error must not end the others
        return outcomes.of_error(run, ref.label, expected(error, ref.label))
    prepared = await prepare(run, InputItem(ref=ref, etag=entry.etag, size=entry.size), default, steps)
    return prepared if isinstance(prepared, ItemReport) else await _needs_attention(run, prepared) or prepared


async def _needs_attention(run: RunContext, order: Order) -> ItemReport | None:
    """Return a line for an image whose job only a person can resolve: it is unknown, or its video no longer exists."""
    label = order.image.label
    try:
        job = await run.ledger.read(order.key)
        if job and job.record.state is JobState.UNKNOWN:
            return outcomes.of_job(run, order, job.record, None, cached=False)
        if job and job.record.video:
            await run.storage.head(job.record.video.uri)
    except NotFound as error:
        message, hint = (
            f"The stored video no longer exists: {error.message}",
            "Restore it, or order another with --take 2",
        )
        return outcomes.of_error(run, label, NotFound(message, hint), order)
    except Exception as error:  # noqa: BLE001 - one image's error must not end the others
        return outcomes.of_error(run, label, expected(error, label), order)
    return None
