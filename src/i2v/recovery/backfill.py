"""What was left behind is caught up with: open jobs are settled, and images without an answer are generated.

`reconcile` settles and never pays; `missing` finds images in listings; here is what is taken of those, and how
much. Both ends are one run, with one record in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime

from i2v.errors import NotFound, NotTried, Stopped, UsageError
from i2v.inputs.prompts import RequestOptions, check_templates
from i2v.inputs.sources import InputItem
from i2v.ledger.job import JobState
from i2v.media.images import ImageRef
from i2v.pipeline import outcomes
from i2v.pipeline.generate import Steps, expected, generate, prepare
from i2v.pipeline.run import READERS, Run
from i2v.pipeline.submit import Order
from i2v.recovery.missing import Search, is_taken, taken_versions
from i2v.recovery.reconcile import settle_open
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.s3.listing import S3Entry
from i2v.settings import Settings

log = logging.getLogger(__name__)
BATCH = 5_000
"""Images without an answer that are kept in memory at once."""
NAMED_AT_MOST = 1_000
"""Images that cannot be generated and leave no answer are named so often in one report; the others are counted."""


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """Which images without an answer are generated (last written at `since` or later), and what is asked for them."""

    since: datetime
    default: RequestOptions
    settling: timedelta
    """Images that are younger are left alone."""


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """How it ended: the jobs that were settled, the images that were generated, and what stopped those."""

    settled: Report
    generated: Report | None = None
    stopped: Stopped | None = None

    @property
    def report(self) -> Report:
        """Both in one."""
        if self.generated is None:
            return self.settled
        return self.generated.model_copy(update={"items": (*self.settled.items, *self.generated.items)})

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed here; settled jobs that still render, or wait for a person, are no failure."""
        generated = self.generated is None or self.generated.succeeded
        return generated and not self.stopped and not self.settled.count(Outcome.FAILED)

    @property
    def summary(self) -> str:
        """All in words."""
        if self.report.items:
            return self.report.summary
        if self.generated and self.generated.stopped:
            return f"not all was looked at: {self.generated.stopped}"
        return "nothing is open" if self.generated is None else "nothing is open, and no image is without an answer"


def backfill_options(
    settings: Settings,
    default: RequestOptions,
    *,
    generate: bool,
    since: datetime | None,
    max_spend_usd: Decimal | None,
) -> BackfillOptions | None:
    """What a person or a schedule asked for; None where nothing shall be generated. A time without a zone is UTC's.

    Raises:
        UsageError: `generate` without a time and a limit, or a prompt with an unknown field.
    """
    if not generate:
        return None
    given = {"since": since, "max_spend_usd": max_spend_usd}
    if since is None or max_spend_usd is None:
        lacking = " and ".join(name for name, value in given.items() if value is None)
        raise UsageError(
            f"To generate what is missing, {lacking} must be given",
            "Say since when images count, such as 2026-11-22, and how much may be spent at most, so that no archive is "
            "animated by mistake",
        )
    check_templates(default.prompt, settings)
    zoned = since if since.tzinfo else since.replace(tzinfo=UTC)
    return BackfillOptions(zoned, default, timedelta(seconds=settings.settling_seconds))


async def reconcile_and_backfill(
    run: Run,
    wanted: BackfillOptions | None = None,
    *,
    keys: Sequence[str] | None = None,
    limit: int = 100,
    steps: Steps | None = None,
) -> ReconcileResult:
    """Settle open jobs, then generate what is wanted as far as the run's money goes, oldest first.

    Args:
        run: the flow run; in a dry run all is named and nothing is changed.
        wanted: which images are generated, if any.
        keys: job keys to settle, whoever works on them; none for all that are open.
        limit: so many jobs are settled at most, and so many images generated.
        steps: what is done to each image.

    Raises:
        UsageError: the ledger belongs to another provider or account.
        LedgerError: the ledger, or a record in it, cannot be read by this version.
        StorageError: S3 could not be read.
    """
    steps = steps or Steps()
    settled = Report(items=await settle_open(run, keys=keys, limit=limit, steps=steps))
    if wanted is None:
        await run.end(settled)
        return ReconcileResult(settled)
    told = {item.image for item in settled.items}
    prepared = [one for one in await _prepared(run, wanted, limit, steps) if _label(one) not in told]
    if not prepared:
        await run.end(settled)
        return ReconcileResult(settled, Report(stopped=run.stopped.message if run.stopped else None))
    generated, stopped = await generate(run, prepared, wanted.default, steps, partial=True, settled=settled.items)
    return ReconcileResult(settled, generated, stopped)


def _label(prepared: Order | ItemReport) -> str:
    return prepared.image.label if isinstance(prepared, Order) else prepared.image


async def _prepared(run: Run, wanted: BackfillOptions, limit: int, steps: Steps) -> list[Order | ItemReport]:
    """At most `limit` orders, and what was found on the way that cannot become one.

    What has no prompt, cannot be read or waits for a person leaves no answer, and comes again each time. So it does
    not count, and all that is missing is looked at until there are orders enough: such images never starve newer ones.
    """
    orders: list[Order] = []
    others: list[ItemReport] = []
    unnamed = 0
    async with aclosing(_batches(run, wanted)) as batches:
        async for batch in batches:
            rest = deque(batch)
            while rest and len(orders) < limit and not run.stopped:
                some = [rest.popleft() for _ in range(min(len(rest), max(limit - len(orders), READERS)))]
                looked_at = await asyncio.gather(*(_look(run, entry, wanted.default, steps) for entry in some))
                orders += [one for one in looked_at if isinstance(one, Order)]
                reports = [one for one in looked_at if isinstance(one, ItemReport)]
                unnamed += max(0, len(others) + len(reports) - NAMED_AT_MOST)
                others = (others + reports)[:NAMED_AT_MOST]
            if len(orders) >= limit or run.stopped:
                break
    if unnamed:
        log.warning("%d more images cannot be generated either, and are not named", unnamed)
    return [*orders[:limit], *others]


async def _batches(run: Run, wanted: BackfillOptions) -> AsyncGenerator[list[S3Entry], None]:
    until = await _s3_time(run) - wanted.settling
    try:
        search = Search(run, await taken_versions(run), wanted.since, until)
        batch = await search.next_batch(BATCH)
        _tell_left_out(search)
        while batch:
            yield batch
            batch = await search.next_batch(BATCH) if len(batch) == BATCH else []
    except NotTried:
        log.info("interrupted while it was listed")


def _tell_left_out(search: Search) -> None:
    if wrong := search.reserved:
        log.warning("%d objects such as %s are left out: no image's key may begin so", len(wrong), wrong[0])
    if search.unsettled:
        log.info("%d images are too young, and left to what watches the bucket", search.unsettled)


async def _look(run: Run, entry: S3Entry, default: RequestOptions, steps: Steps) -> Order | ItemReport | None:
    """Prepare an image; None where it is gone, was replaced, or was taken up since it was listed."""
    ref = ImageRef(uri=entry.uri)
    try:
        now = await run.storage.head(entry.uri)
        if now.etag != entry.etag or await is_taken(run, entry):
            return None
    except NotFound:
        return None
    except Exception as error:  # noqa: BLE001 - every image ends by itself
        return outcomes.of_error(run, ref.label, expected(error, ref.label))
    prepared = await prepare(run, InputItem(ref=ref, etag=entry.etag, size=entry.size), default, steps)
    return prepared if isinstance(prepared, ItemReport) else await _needs_a_person(run, prepared) or prepared


async def _needs_a_person(run: Run, order: Order) -> ItemReport | None:
    """A line for an image whose job no run brings further: it was unknown, or its video is gone, at an equal image."""
    label = order.image.label
    try:
        held = await run.ledger.read(order.key)
        if held and held.record.state is JobState.UNKNOWN:
            return outcomes.of_job(run, order, held.record, None, cached=False)
        if held and held.record.video:
            await run.storage.head(held.record.video.uri)
    except NotFound as error:
        gone = NotFound(f"Its video was stored and is gone: {error.message}", "Restore it, or order one with --take 2")
        return outcomes.of_error(run, label, gone, order)
    except Exception as error:  # noqa: BLE001 - every image ends by itself
        return outcomes.of_error(run, label, expected(error, label), order)
    return None


async def _s3_time(run: Run) -> datetime:
    """S3's own clock, which all times in listings are told by."""
    place = run.settings.images
    answer = await run.storage.call(
        place, run.storage.client.list_objects_v2, Bucket=place.bucket, Prefix=place.key, MaxKeys=1
    )
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
