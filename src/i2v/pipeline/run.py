"""One flow run's open resources and its life in the ledger: `Run`. What it does with them is in the steps.

The steps are `validate`, `submit`, `poll` and `store` of this package, in this order; each takes the `Run` first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.apixo.client import ApixoClient
from i2v.errors import I2vError, LedgerError, NotFound, NotTried, StorageError
from i2v.ledger import keys
from i2v.ledger.budget import Budget, DailySpendStore, today_utc
from i2v.ledger.job import FORMAT, JobRecord, Reason
from i2v.ledger.ledger import Ledger
from i2v.ledger.open_markers import OpenMarkerCleaner
from i2v.memory import limit_malloc_arenas
from i2v.net.fetcher import Fetcher
from i2v.reports.recent import RecentWriter
from i2v.reports.run_report import ItemReport, Report
from i2v.reports.savings import Saving, summarize_savings
from i2v.s3.objects import S3Object
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 60.0
PREPARERS = 16
"""Images that are looked at and validated at once: were it all, their story would be told faster than it is heard."""
READERS = 8
"""Images that are read and decoded at once: each may take 20 MB and its pixels."""
STORERS = 16
"""Videos that are brought into the bucket at once: more take more memory and are no faster."""
RENDERED = 50
STREAK = 3
"""So many unknowns, or images that the provider could not fetch, in a row stop a run's submits."""
UNFETCHED = "the provider could not fetch three images in a row: can it reach the bucket? see i2v doctor"
T = TypeVar("T")


class Watcher(Protocol):
    """Whoever looks at a run from the same process, such as a progress bar. Set `WATCHER` before the flow is called."""

    def opened(self, run: Run) -> None:
        """The run is open; it can be interrupted."""

    def counted(self, images: int) -> None:
        """So many images are in the run."""

    def step(self, step: str, job: str) -> None:
        """A job is waiting, rendering or storing."""

    def submitted(self, record: JobRecord) -> None:
        """This run has just paid for a job, and its task id is written down."""

    def done(self, item: ItemReport) -> None:
        """An image has come to its outcome."""

    def ended(self, report: Report) -> None:
        """The run has this report."""


WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class RunRecord(BaseModel):
    """`jobs/runs/<run id>.json`: touched each minute while the run lives."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run_id: str
    started_at: datetime
    touched_at: datetime
    ended_at: datetime | None = None
    days: tuple[str, ...] = ()
    label: str | None = None
    saved: tuple[Saving, ...] = ()
    """What its images would have cost without the ledger."""
    report: dict[str, Any] | None = None


class Streak:
    """Counts one kind of fault in a row over all images of a run."""

    def __init__(self) -> None:
        self._row = 0

    def fault(self) -> bool:
        """Count one more; whether the limit is reached."""
        self._row += 1
        return self._row >= STREAK

    def clear(self) -> None:
        """The row is broken."""
        self._row = 0


class Run:
    """What the steps share. Made by `open_run`."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        client: ApixoClient | None,
        fetcher: Fetcher,
        budget: Budget,
        record: RunRecord,
        *,
        dry_run: bool,
    ) -> None:
        self.settings = settings
        self.storage = storage
        self.ledger = Ledger(storage, settings)
        self.ended_marks = OpenMarkerCleaner(storage, settings)
        self._client = client
        self.fetcher = fetcher
        self.budget = budget
        self.record = record
        self.dry_run = dry_run
        self._watchers = [watcher for watcher in (WATCHER.get(),) if watcher]
        self._recent = RecentWriter(storage, settings, record.run_id, record.started_at, record.label)
        self.render_seconds: deque[float] = deque(maxlen=RENDERED)
        """How long the provider took for each of this run's last jobs."""
        self.polls: Counter[str] = Counter()
        """How often each job's status was asked, until its wait has ended."""
        self._heart: asyncio.Task[None] | None = None
        budget.before_block = self._before_block
        self.stopped: Reason | None = None
        self.stop_waiting = asyncio.Event()
        self.unknowns = Streak()
        self.unfetched = Streak()
        self.in_flight = asyncio.Semaphore(settings.max_in_flight)
        self.preparing = asyncio.Semaphore(PREPARERS)
        self.reading = asyncio.Semaphore(READERS)
        self.storing = asyncio.Semaphore(STORERS)
        self.read: dict[S3Uri, S3Object] = {}
        """What reading an image told of it beside its bytes, until somebody wants to know."""
        self._accounted: set[str] = set()
        self._job_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._kept: set[asyncio.Task[Any]] = set()

    @property
    def run_id(self) -> str:
        """The flow run's id, under which the ledger knows this run."""
        return self.record.run_id

    @property
    def client(self) -> ApixoClient:
        """The provider.

        Raises:
            UsageError: there is no key, as a dry run may be without.
        """
        self.settings.require_key()
        assert self._client is not None  # noqa: S101 - made wherever there is a key
        return self._client

    def account_once(self, key: str) -> bool:
        """Whether a job's cost is not yet in this run's report; it is from now on."""
        first = key not in self._accounted
        self._accounted.add(key)
        return first

    def job_lock(self, key: str) -> asyncio.Lock:
        """Lets one image of this run at a time work on a job, so that equal images pay, poll and store once."""
        return self._job_locks[key]

    def watch(self, watcher: Watcher) -> None:
        """Let one more look on from now on."""
        self._watchers.append(watcher)
        watcher.opened(self)

    def tell(self, step: str, job: str) -> None:
        """Tell the watchers what a job is at."""
        for watcher in self._watchers:
            watcher.step(step, job)

    def tell_submitted(self, record: JobRecord) -> None:
        """Tell the watchers that a job was paid."""
        for watcher in self._watchers:
            watcher.submitted(record)

    def tell_rendered(self, milliseconds: int | None) -> None:
        """Note how long the provider says that it took, from which the run's end can be foreseen."""
        if milliseconds is not None:
            self.render_seconds.append(milliseconds / 1000)

    def tell_done(self, item: ItemReport) -> None:
        """Tell the watchers what became of an image."""
        self._recent.add(item)
        for watcher in self._watchers:
            watcher.done(item)

    def tell_open(self) -> None:
        """Tell the watchers that this run can be interrupted."""
        for watcher in self._watchers:
            watcher.opened(self)

    def tell_count(self, images: int) -> None:
        """Tell the watchers, and the budget, of how many images the run is."""
        self.budget.jobs_expected = images
        for watcher in self._watchers:
            watcher.counted(images)

    def stop_submits(self, code: str, message: str) -> None:
        """Let this run submit nothing more; what is submitted is still waited for."""
        if self.stopped is None:
            self.stopped = Reason(code=code, message=message)
            log.log(logging.DEBUG if code == "ended" else logging.WARNING, "no more submits: %s", message)

    def interrupt(self) -> None:
        """End cleanly at a person's word: no more submits, and no more waiting for what is submitted."""
        self.stop_submits("interrupted", "interrupted")
        self.stop_waiting.set()

    def refuse_if_interrupted(self) -> None:
        """Look at no further image once a person has interrupted the run.

        Raises:
            NotTried: so it is.
        """
        if self.stop_waiting.is_set():
            raise NotTried("Interrupted before it was looked at")

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work near money so that no cancellation cuts it short; the run does not end before it does."""
        task = asyncio.ensure_future(work)
        self._kept.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._kept.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.debug("work near money ended with %r", error)

    async def sleep(self, seconds: float) -> None:
        """Wait, or until the run is told to stop waiting."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for would make a task of it, a thousand times over
                await self.stop_waiting.wait()

    async def touch(self, **changes: Any) -> None:
        """Write the run's record.

        Raises:
            StorageError: S3 did not answer well.
        """
        days = tuple(dict.fromkeys((*self.record.days, *self.budget.days)))
        update = {"touched_at": datetime.now(UTC), "days": days, **changes}
        self.record = self.record.model_copy(update=update)
        body = self.record.model_dump_json(indent=1).encode()
        uri = keys.run_uri(self.settings, self.run_id)
        await self.storage.put(uri, body, content_type="application/json")

    async def end(self, report: Report) -> None:
        """Give unspent money back and leave the report in the ledger; a failure here is logged and costs nothing."""
        await self.finish_kept()
        for watcher in self._watchers:
            watcher.ended(report)
        await self.ended_marks.flush()
        await self._write_lines(report)
        await self._write_end(report=report.for_json(), saved=summarize_savings(report.items))

    async def _write_lines(self, report: Report) -> None:
        if self.dry_run or not report.items:
            return
        uri = keys.run_items_uri(self.settings, self.run_id)
        try:
            await self.storage.put(uri, report.rows_jsonl, content_type="application/x-ndjson")
        except I2vError as error:
            log.warning("the run's table could not be written: %s", error)

    async def _write_end(self, **changes: Any) -> None:
        """From now on reconcile may take this run's jobs."""
        if self._heart is None or self.record.ended_at:
            return
        self._heart.cancel()
        await asyncio.wait({self._heart})
        try:
            await self.budget.close()
        except I2vError as error:
            log.warning("what was not spent counts until the day ends, since it could not be given back: %s", error)
        await self._recent.write()
        try:
            await self.touch(ended_at=datetime.now(UTC), **changes)
        except I2vError as error:
            log.warning("the run's end could not be written: %s", error)

    async def finish_kept(self) -> None:
        """Wait for the work near money that a cancellation left running."""
        cut: asyncio.CancelledError | None = None
        while self._kept:
            try:
                await asyncio.wait(set(self._kept))  # unlike gather it leaves what it waits for alone when cancelled
            except asyncio.CancelledError as error:
                cut = error
        if cut:
            raise cut

    async def start(self) -> None:
        """Write the run's record, so that a retry knows of it, and keep it fresh.

        Raises:
            LedgerError: it cannot be written.
        """
        try:
            await self.touch()
        except StorageError as error:
            raise LedgerError(f"The ledger cannot be written: {error.message}", error.hint) from None
        self._heart = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Submit nothing more, and wait for the work near money."""
        self.stop_submits("ended", "the run is ending")
        try:
            await self.finish_kept()
            await self.ended_marks.flush()
        finally:
            await self._write_end()

    async def _before_block(self) -> None:
        """Before money is reserved: nobody has paused it, and a retry of this run will know of today."""
        await self.ledger.raise_if_paused()
        today = today_utc()
        if today not in self.record.days:
            await self.touch(days=(*self.record.days, today))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, self.settings.run_gone_seconds / 3))
            try:
                await self.touch()
            except I2vError as error:
                log.warning("heartbeat not written: %s", error)
            await self.ended_marks.flush()
            await self._recent.write()


@asynccontextmanager
async def open_run(
    settings: Settings,
    run_id: str,
    *,
    max_spend_usd: Decimal | None = None,
    label: str | None = None,
    storage: Storage | None = None,
    dry_run: bool = False,
) -> AsyncIterator[Run]:
    """Open what a run needs, and close it whatever happens; work near money is finished first.

    Args:
        settings: the environment.
        run_id: the flow run's id.
        max_spend_usd: the run's own limit.
        label: names the run's purpose in the ledger.
        storage: another S3 than the environment's; it is closed with the run.
        dry_run: nothing will be submitted, so no key is needed and no heartbeat is written.

    Raises:
        UsageError: a needed setting is missing or wrong.
        LedgerError: the ledger cannot be read.
    """
    settings.require_bucket()
    if not dry_run:
        settings.require_key()
    limit_malloc_arenas()
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(storage or Storage())
        record = await _record(storage, settings, run_id, label)
        budget = Budget(
            DailySpendStore(storage, settings),
            run_id,
            max_spend_usd=max_spend_usd,
            daily_cap_usd=settings.daily_cap_usd,
            days=record.days,
        )
        client = await stack.enter_async_context(ApixoClient(settings)) if settings.api_key else None
        fetcher = await stack.enter_async_context(Fetcher(settings))
        run = Run(settings, storage, client, fetcher, budget, record, dry_run=dry_run)
        run.tell_open()
        if not dry_run:
            await run.start()
        try:
            yield run
        finally:
            await run.close()


async def _record(storage: Storage, settings: Settings, run_id: str, label: str | None) -> RunRecord:
    now = datetime.now(UTC)
    fresh = RunRecord(run_id=run_id, started_at=now, touched_at=now, label=label)
    try:
        found = await storage.get(keys.run_uri(settings, run_id))
        earlier = RunRecord.model_validate_json(found.body)
    except NotFound:
        return fresh
    except ValidationError:
        raise LedgerError(f"{keys.run_uri(settings, run_id)} cannot be read", "Restore it; never delete it") from None
    except StorageError as error:
        raise LedgerError(f"The ledger cannot be read: {error.message}", error.hint) from None
    return fresh.model_copy(update={"days": earlier.days, "started_at": earlier.started_at})
