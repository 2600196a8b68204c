"""Settle open jobs whose run is gone: poll every task of theirs, then store or close it. Reconcile never pays.

Each job is settled by itself; an error is a line of the report. `i2v.recovery.backfill` then generates missing videos,
if requested.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from i2v.advised_commands import command
from i2v.apixo.models import TaskState, TaskStatus
from i2v.errors import I2vError, LedgerError
from i2v.ledger import keys, transitions
from i2v.ledger.attempt import Attempt
from i2v.ledger.documents import read_document
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.ledger.run_record import RunRecord
from i2v.ledger.task_pages import claim_task
from i2v.money import ZERO
from i2v.pipeline import outcomes
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import ImageDone
from i2v.pipeline.generate import Steps, expected
from i2v.pipeline.named_copies.publish_copy import publish_copy
from i2v.pipeline.outputs.publish import publish_outputs
from i2v.pipeline.poll import handle_final_status, note_unknown_state, query_status
from i2v.pipeline.submit import LEASE_OVER
from i2v.pipeline.video_order import Order
from i2v.recovery.adopt_from_callback import CallbackHint, adopt_from_callback, hints_by_job
from i2v.recovery.leftover_markers import ListedMarker, delete_settled_markers, list_open_markers
from i2v.reports.run_report import ItemReport, Outcome
from i2v.telemetry.spans import start_image, until_done

log = logging.getLogger(__name__)
NEEDS_ATTENTION_AFTER = timedelta(hours=24)
NEXT_TIME = "the video is ready; the next reconcile stores it, since this one has reached its limit"


async def settle_open(
    run: RunContext, *, entries: Sequence[str] | None = None, limit: int = 100, steps: Steps | None = None
) -> tuple[ItemReport, ...]:
    """Settle all jobs that have an open marker and no live run; return a line for each. The run is not ended.

    A job that waits for its callback is settled once `callback_patience_seconds` have passed. At most `limit` videos
    are stored. In a dry run open jobs are reported and nothing is changed. With `entries`, settle only the jobs that
    they name by key, or by `KEY/ATTEMPT/TASKID` from a callback, even if a run works on them.

    Raise `UsageError` if an entry is not valid, `UsageError` or `LedgerError` if the ledger cannot be used.
    """
    if not run.dry_run:
        run.first_submits.trust(*(await run.ledger.info.prepare()).fetched_from)
    settler = Settler(run, steps or Steps(), limit if entries is None else None)
    markers = await list_open_markers(run) if entries is None else {}
    hints = hints_by_job(entries or ())
    found = run.ledger.read_many(list(markers if entries is None else hints))
    settling = [
        until_done(start_image(_label(key, job)), settler.settle, key, job, markers.get(key, ()), hints.get(key))
        async for key, job in found
    ]
    run.set_image_count(len(settling))
    return tuple(line for line in await asyncio.gather(*settling) if line)


class Settler:
    """Settles jobs in one run. It reads the record of each run that owns jobs once."""

    def __init__(self, run: RunContext, steps: Steps, limit: int | None) -> None:
        self._run = run
        self._steps = steps
        self._stores_left = limit
        self._postponed: set[str] = set()
        """Jobs with a video that is stored the next time."""
        self._alive: dict[str, asyncio.Task[bool]] = {}

    async def settle(
        self,
        key: str,
        found: VersionedRecord | I2vError | None,
        markers: Sequence[ListedMarker] = (),
        hints: Sequence[CallbackHint] | None = None,
    ) -> ItemReport | None:
        """Settle a job that has these markers, and delete those of settled attempts; or one that `hints` name."""
        label = _label(key, found)
        try:
            async with self._run.limits.in_flight:
                line = await self._settle_found(key, found, markers, hints)
        except Exception as error:  # noqa: BLE001 - one job's error must not end the others
            failure = expected(error, label)
            log.warning("job %s is not settled: %s", key[:12], failure)
            line = ItemReport(image=label, outcome=Outcome.FAILED, job=key, reason=str(failure))
        if line:
            self._run.emit(ImageDone(line))
        return line

    async def _settle_found(
        self,
        key: str,
        found: VersionedRecord | I2vError | None,
        markers: Sequence[ListedMarker],
        hints: Sequence[CallbackHint] | None,
    ) -> ItemReport | None:
        line = None
        if isinstance(found, I2vError):
            raise found
        if found is None and hints is not None:
            await self._park(key, hints)
        if found and (hints is not None or found.record.is_open):
            found, line = await self._settle(found, hints)
        if not self._run.dry_run:
            await delete_settled_markers(self._run, found.record if found else None, markers)
        return line

    async def _park(self, key: str, hints: Sequence[CallbackHint]) -> None:
        """Keep the tasks of a job whose record was deleted, and raise `LedgerError`, which names them."""
        for hint in hints if not self._run.dry_run else ():
            await claim_task(self._run.storage, self._run.settings, hint.task_id, hint.key, hint.attempt)
        tasks = ", ".join(hint.task_id for hint in hints)
        known = f", and the provider has its task {tasks}" if tasks else ""
        message = f"The record of job {key[:12]} is missing{known}"
        raise LedgerError(message, f"Never delete job records: restore it, then run: {command('reconcile')}")

    async def _settle(
        self, job: VersionedRecord, hints: Sequence[CallbackHint] | None = None
    ) -> tuple[VersionedRecord, ItemReport | None]:
        """Settle each open attempt of a job by itself; return the job and its line, if there is something to report.

        Without `hints`, leave attempts alone that a live run works on.
        """
        run, before, touched = self._run, job.record, hints is not None
        statuses: dict[str, TaskStatus | None] = {}
        errors: list[I2vError] = []
        for hint in hints or () if not run.dry_run else ():
            with _collect(errors, job):
                job, statuses[hint.task_id] = await adopt_from_callback(run, job, hint)
        for attempt in [one for one in job.record.attempts if not one.is_settled]:
            with _collect(errors, job):
                if hints is None and await self._is_owned(job, attempt):
                    continue
                touched = True
                job = await self._settle_attempt(job, attempt, statuses.get(attempt.task_id or ""))
        if not run.dry_run and job.record is not before:
            video = await publish_outputs(run, job.record, job.record.image, just_stored=True)
            await publish_copy(run, job.record, job.record.image, None, video)
            for attempt in job.record.attempts:
                await run.ended_markers.add(job.record, attempt)
        line = _line(run, job.record, was=before.state) if touched else None
        if errors:
            line = outcomes.of_job(run, _order(job.record), job.record, None, cached=False)
            return job, line.model_copy(update={"outcome": Outcome.FAILED, "reason": "; ".join(map(str, errors))})
        if line and job.record.key in self._postponed:
            line = line.model_copy(update={"reason": NEXT_TIME})
        return job, line

    async def _settle_attempt(
        self, job: VersionedRecord, attempt: Attempt, known: TaskStatus | None
    ) -> VersionedRecord:
        """Settle an attempt, whose task's status may be known already."""
        if attempt.is_claimed:
            return await self._settle_claim(job, attempt)
        if not attempt.is_running or self._run.dry_run:
            return job
        job, status = await self._ask(job, attempt, known)
        if status and self._stores_left == 0:
            self._postponed.add(job.record.key)
        elif status:
            self._stores_left = None if self._stores_left is None else self._stores_left - 1
            job = await self._steps.store(self._run, job, status)
        return job

    async def _settle_claim(self, job: VersionedRecord, attempt: Attempt) -> VersionedRecord:
        """Mark a claim whose lease is over as lost."""
        if self._run.dry_run or job.age_seconds <= self._run.settings.lease_seconds:
            return job
        now = datetime.now(UTC)
        lost = await self._run.ledger.change(
            job, lambda record: transitions.mark_lost(record, attempt.claim, LEASE_OVER, now)
        )
        return lost or await self._run.ledger.read_existing(job.record.key)

    async def _ask(
        self, job: VersionedRecord, attempt: Attempt, status: TaskStatus | None
    ) -> tuple[VersionedRecord, TaskStatus | None]:
        """Get a task's status unless it is known; return the job, and the status if the video is ready."""
        await self._run.ledger.task_pages.ensure(job.record, attempt)
        status = status or await query_status(self._run, job, attempt.task_id or "", 1)
        if status is None:
            return job, None
        job = await note_unknown_state(self._run, job, status)
        if status.state is TaskState.RUNNING:
            return job, None
        ended, ready, _ = await handle_final_status(self._run, job, status, 1)
        return ended, ready

    async def _is_owned(self, job: VersionedRecord, attempt: Attempt) -> bool:
        """Return whether a live run works on an attempt, its callback is expected, or its lease is not over."""
        if attempt.is_claimed:
            return job.age_seconds <= self._run.settings.lease_seconds
        if attempt.is_unknown:
            return False
        if attempt.delivery == "callback":
            return _age(attempt.claimed_at) <= timedelta(seconds=self._run.settings.callback_patience_seconds)
        if attempt.run_id not in self._alive:
            self._alive[attempt.run_id] = asyncio.ensure_future(self._is_alive(attempt.run_id))
        return await self._alive[attempt.run_id]

    async def _is_alive(self, run_id: str) -> bool:
        try:
            found = await read_document(self._run.storage, RunRecord, keys.run_uri(self._run.settings, run_id))
        except LedgerError as error:
            log.warning("%s", error)
            return False
        return bool(
            found and found.content.ended_at is None and found.age_seconds <= self._run.settings.run_gone_seconds
        )


def _label(key: str, found: VersionedRecord | I2vError | None) -> str:
    return found.record.image.label if isinstance(found, VersionedRecord) else f"job {key}"


@contextmanager
def _collect(errors: list[I2vError], job: VersionedRecord) -> Iterator[None]:
    """Keep the error of one attempt, so that it does not end the others."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - see above
        failure = expected(error, job.record.image.label)
        log.warning("job %s is not settled: %s", job.record.key[:12], failure)
        errors.append(failure)


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - moment


def _order(record: JobRecord) -> Order:
    return Order(image=record.image, request=record.request, price_usd=ZERO, extra=record.extra)


def _line(run: RunContext, record: JobRecord, was: JobState) -> ItemReport | None:
    """Report a job that ended here, is open, failed for now, or needs a person; `None` for an unpaid one."""
    fails_for_now = record.state is JobState.READY and was not in {JobState.READY, JobState.STORED}
    if record.state in {JobState.READY, JobState.CLAIMED} and not fails_for_now:
        return None
    line = outcomes.of_job(run, _order(record), record, record.video.uri if record.video else None, cached=False)
    age, reason = _age(record.attempt.claimed_at) if record.attempt else timedelta(0), line.reason
    if fails_for_now:
        reason = f"{reason or 'nothing was paid'}; the next run of this image pays for another attempt"
    elif record.state is JobState.SUBMITTED and age > NEEDS_ATTENTION_AFTER:
        days = "1 day" if age.days == 1 else f"{age.days} days"
        reason = f"open for more than {days}; inspect it with: {command('jobs', 'show', record.key[:12])}"
    return line.model_copy(update={"is_new_outcome": record.state is not was, "reason": reason})
