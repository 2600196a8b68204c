"""Open and end a run: `open_run` yields its `RunContext`, `end_run` writes its report into the ledger."""

import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial

from opentelemetry import trace

from i2v.apixo.client import ApixoClient
from i2v.errors import I2vError, Stopped
from i2v.ledger import keys
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpendStore
from i2v.ledger.documents import Document
from i2v.ledger.ledger import Ledger
from i2v.ledger.open_markers import OpenMarkerCleaner
from i2v.ledger.run_record import RunRecord, new_run, read_run
from i2v.malloc_arenas import limit_malloc_arenas
from i2v.media.decoder import DECODER
from i2v.net.fetcher import Fetcher
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import LISTENER, Event, ImageDone, JobRendered, RunEnded
from i2v.pipeline.heartbeat import Heartbeat
from i2v.pipeline.payment.shard_budget import ALL_DAYS, BatchBudget, BatchSpendStore, ShardBudget
from i2v.reports.recent import RecentWriter
from i2v.reports.run_report import Report
from i2v.reports.savings import summarize_savings
from i2v.s3.storage import Storage
from i2v.settings import Settings
from i2v.telemetry.exporters import start_exporting
from i2v.telemetry.run_metrics import count_image, record_rendering
from i2v.telemetry.spans import describe_run, run_span

log = logging.getLogger(__name__)
GARBAGE_THRESHOLD = 5_000
"""New objects before Python looks for cycles. With its 700 that takes 5 ms of CPU a video in a run of 150, now 2 ms."""


@asynccontextmanager
async def open_run(
    settings: Settings,
    run_id: str,
    *,
    max_spend_usd: Decimal | None = None,
    label: str | None = None,
    storage: Storage | None = None,
    dry_run: bool = False,
    batch: str | None = None,
) -> AsyncIterator[RunContext]:
    """Open what a run needs; close it whatever happens, after shielded work has finished.

    `run_id` is the flow run's id, `label` its purpose for ledger and reports. `storage` has other credentials than the
    environment's, and is closed with the run. A dry run submits nothing, so it needs no key and writes no heartbeat.
    The limit is that of the whole `batch`, if this run is a shard of one.

    Raise `UsageError` if a setting is missing or invalid, `LedgerError` if the ledger cannot be read or written.
    """
    settings.require_bucket()
    if not dry_run:
        settings.require_key()
    limit_malloc_arenas()
    gc.set_threshold(max(GARBAGE_THRESHOLD, gc.get_threshold()[0]))
    start_exporting()
    async with AsyncExitStack() as stack:
        stack.enter_context(run_span(run_id, label, dry_run=dry_run))
        storage = stack.enter_context(storage or Storage())
        earlier = await read_run(storage, settings, run_id)
        client = await stack.enter_async_context(ApixoClient(settings)) if settings.api_key else None
        fetcher = await stack.enter_async_context(Fetcher(settings))
        run = make_context(
            settings,
            storage,
            client,
            fetcher,
            new_run(run_id, label, batch),
            earlier=earlier,
            max_spend_usd=max_spend_usd,
            dry_run=dry_run,
        )
        if listener := LISTENER.get():
            run.add_listener(listener)
        if not dry_run:
            await run.heartbeat.start()
        try:
            yield run
        finally:
            await close_run(run)


def make_context(
    settings: Settings,
    storage: Storage,
    client: ApixoClient | None,
    fetcher: Fetcher,
    record: RunRecord,
    *,
    earlier: Document[RunRecord] | None = None,
    max_spend_usd: Decimal | None = None,
    dry_run: bool = False,
) -> RunContext:
    """Assemble a run from its resources. This is the one place that knows how they fit together."""
    ledger = Ledger(storage, settings)
    if earlier:
        record = record.model_copy(update={"started_at": earlier.content.started_at})
    budget = make_budget(ledger, record, max_spend_usd)
    markers = OpenMarkerCleaner(ledger)
    recent = RecentWriter(storage, settings, record.run_id, record.started_at, record.label)
    etag = earlier.etag if earlier else None
    chores = (ledger.task_pages.put_missing, recent.write, markers.flush)  # an image is named by its marker or its page
    heartbeat = Heartbeat(storage, settings, record, budget, chores, etag)
    run = RunContext(
        settings, storage, ledger, budget, fetcher, heartbeat, markers, client, DECODER, dry_run, max_spend_usd
    )
    run.add_listener(_RecentListener(recent))
    run.add_listener(_TelemetryListener())
    return run


def make_budget(ledger: Ledger, record: RunRecord, max_spend_usd: Decimal | None) -> Budget | ShardBudget:
    """Return the run's budget; the limit of a shard is that of its whole batch."""
    storage, settings = ledger.storage, ledger.settings
    run = partial(
        Budget,
        DaySpendStore(storage, settings),
        record.run_id,
        limits=settings.limits_of(record.label),
        read_claim=ledger.read_claim,
        abandoned_after=settings.claim_to_post_seconds,
        first_day=record.started_at.date(),
    )
    if record.batch is None or max_spend_usd is None:
        return run(max_spend_usd=max_spend_usd)
    batch = BatchBudget(
        BatchSpendStore(storage, settings, record.batch),
        record.run_id,
        max_spend_usd=max_spend_usd,
        read_claim=ledger.read_claim,
        abandoned_after=settings.claim_to_post_seconds,
        today=lambda *_: ALL_DAYS,
    )
    return ShardBudget(batch, run(max_spend_usd=None))


class _RecentListener:
    """Collects outcomes for the gallery's pages."""

    def __init__(self, recent: RecentWriter) -> None:
        self._recent = recent

    def on_event(self, event: Event) -> None:
        """Keep an image's outcome."""
        if isinstance(event, ImageDone):
            self._recent.add(event.item)


class _TelemetryListener:
    """Counts images, and adds the run's outcome to the span in which it was made."""

    def __init__(self) -> None:
        self._span = trace.get_current_span()

    def on_event(self, event: Event) -> None:
        """Count an image or a rendered video, or describe the whole run."""
        match event:
            case ImageDone(item):
                count_image(item)
            case JobRendered(seconds) if seconds is not None:
                record_rendering(seconds)
            case RunEnded(report):
                describe_run(self._span, report)
            case _:
                pass


async def end_run(run: RunContext, report: Report, stopped: Stopped | None = None) -> None:
    """Write the report into the ledger and release unspent money. A failure is logged; paid work is not lost.

    `stopped` is the error that ended the run before its first submit.
    """
    await run.shielded.finish()
    run.emit(RunEnded(report, stopped))
    await run.ended_markers.flush()
    await _write_lines(run, report)
    saved = summarize_savings(report.items)
    await run.heartbeat.end(report=report.for_record(), saved=saved, stopped=run.brake.stopped)


async def _write_lines(run: RunContext, report: Report) -> None:
    if run.dry_run or not report.items:
        return
    uri = keys.run_items_uri(run.settings, run.run_id)
    try:
        await run.storage.put(uri, report.rows_jsonl, content_type="application/x-ndjson")
    except I2vError as error:
        log.warning("the run's JSON lines could not be written: %s", error)


async def close_run(run: RunContext) -> None:
    """Stop submits, wait for shielded work, and end the heartbeat where `end_run` has not."""
    run.brake.stop("ended", "the run is ending")
    try:
        await run.shielded.finish()
        await run.ended_markers.flush()
    finally:
        await run.heartbeat.end()
