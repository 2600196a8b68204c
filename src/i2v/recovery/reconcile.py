"""Settle open jobs whose run is gone: poll, store or close each of them. Reconcile never pays.

`i2v.recovery.backfill` then generates missing videos, if requested.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from i2v.apixo.models import TaskState, TaskStatus
from i2v.errors import I2vError, NotFound
from i2v.ledger import keys, transitions
from i2v.ledger.job import JobRecord, JobState
from i2v.ledger.ledger import VersionedRecord
from i2v.ledger.run_record import RunRecord
from i2v.money import ZERO
from i2v.pipeline import outcomes
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import ImageDone
from i2v.pipeline.generate import Steps, expected
from i2v.pipeline.order import Order
from i2v.pipeline.poll import handle_final_status, query_status
from i2v.pipeline.publish import publish_outputs
from i2v.pipeline.submit import LEASE_OVER
from i2v.recovery.callbacks import CallbackAdopter, CallbackHint, parse_job_entry
from i2v.reports.run_report import ItemReport, Outcome
from i2v.s3.listing import S3Entry

log = logging.getLogger(__name__)
NEEDS_ATTENTION_AFTER = timedelta(hours=24)


async def settle_open(
    run: RunContext, *, entries: Sequence[str] | None = None, limit: int = 100, steps: Steps | None = None
) -> tuple[ItemReport, ...]:
    """Settle the jobs that `entries` name, or all that have an open marker and no live run, oldest marker first.

    A job that waits for its callback is settled once `callback_patience_seconds` have passed.

    Args:
        run: it is not ended; in a dry run open jobs are reported and nothing is changed.
        entries: job keys, settled even if a run works on them, or `KEY/ATTEMPT/TASKID` from a callback.
        limit: how many jobs are settled at most; those that wait for a person do not count.
        steps: its `store` publishes a video.

    Returns:
        One line per settled job: `submitted` if it is still open, `unknown` if it needs a person.

    Raises:
        UsageError: the ledger belongs to another provider or account, or an entry is not valid.
        LedgerError: the ledger cannot be read.
    """
    if not run.dry_run:
        await run.ledger.prepare()
    steps, adopter = steps or Steps(), CallbackAdopter(run)
    if entries is None:
        settling = [_settle(run, job, steps, adopter) for job in await _open_jobs(run, limit)]
    else:
        settling = [_settle_entry(run, key, steps, adopter, hints) for key, hints in _hints_by_job(entries).items()]
    run.set_image_count(len(settling))
    return tuple(line for line in await asyncio.gather(*settling) if line)


def _hints_by_job(entries: Sequence[str]) -> dict[str, list[CallbackHint]]:
    """Return the callbacks' hints by job key; repeated entries count once."""
    hints: dict[str, list[CallbackHint]] = {}
    for key, hint in map(parse_job_entry, dict.fromkeys(entries)):
        hints.setdefault(key, []).extend([hint] if hint else [])
    return hints


async def _settle_entry(
    run: RunContext, key: str, steps: Steps, adopter: CallbackAdopter, hints: Sequence[CallbackHint]
) -> ItemReport | None:
    try:
        job = await run.ledger.read_existing(key)
    except I2vError as error:
        line = ItemReport(image=f"job {key}", outcome=Outcome.FAILED, job=key, reason=str(error))
        run.emit(ImageDone(line))
        return line
    return await _settle(run, job, steps, adopter, hints)


async def list_open_markers(run: RunContext) -> dict[str, list[S3Entry]]:
    """Return all open markers by job key, oldest first; equal images have one each."""
    entries = [entry async for entry in run.storage.list(run.settings.jobs / "open/")]
    markers: dict[str, list[S3Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.last_modified):
        markers.setdefault(entry.uri.key.rpartition("-")[2], []).append(entry)
    return markers


async def _open_jobs(run: RunContext, limit: int) -> list[VersionedRecord]:
    """Return open jobs without a run, at most `limit` that can be settled; delete the markers of all others."""
    markers = await list_open_markers(run)
    found, postponed = [], 0
    without_record = set(markers)
    async for job in run.ledger.read_many(list(markers)):
        without_record.remove(job.record.key)
        if not job.record.state.is_open:
            await _clear(run, job.record, markers[job.record.key])
        elif job.record.state is JobState.UNKNOWN:
            found.append(job)
        elif limit > 0 and not await _is_owned(run, job):
            found.append(job)
            limit -= 1
        elif limit <= 0:
            postponed += 1
    for key in without_record:  # its process died before the claim, which is a job's first record
        await _clear(run, None, markers[key])
    if postponed:
        log.warning("%d open jobs are postponed to the next reconcile", postponed)
    return found


async def _clear(run: RunContext, record: JobRecord | None, markers: Sequence[S3Entry]) -> None:
    """Delete the markers of an ended job, and of an unpaid one unless a run may be about to claim it."""
    unpaid = record is None or record.state is JobState.READY
    if run.dry_run or (unpaid and await _is_fresh(run, markers[-1])):
        return
    if record and not unpaid:
        await publish_outputs(run, record, record.image)
    for marker in markers:
        await run.storage.delete(marker.uri)
    job = await run.ledger.read(markers[0].uri.key.rpartition("-")[2])
    newest = job.record if job else None
    if newest and (newest.state.is_open or (newest.state is JobState.READY and newest != record)):
        await run.ledger.put_open_marker(newest.image, newest.key)


async def _is_fresh(run: RunContext, marker: S3Entry) -> bool:
    """Return whether a run may be about to claim the job, by S3's clock; also if the marker was deleted just now."""
    try:
        return (await run.storage.head(marker.uri)).age_seconds < run.settings.lease_seconds
    except NotFound:
        return True


async def _settle(
    run: RunContext, job: VersionedRecord, steps: Steps, adopter: CallbackAdopter, hints: Sequence[CallbackHint] = ()
) -> ItemReport | None:
    async with run.limits.in_flight:
        try:
            now = job
            if not run.dry_run:
                adopted, status = await adopter.adopt_from_callback(job, hints)
                now = await settle(run, adopted, status, steps)
            line = _line(run, now.record, was=job.record.state)
        except Exception as error:  # noqa: BLE001 - one job's error must not end the others
            label = job.record.image.label
            failure = expected(error, label)
            log.warning("job %s is not settled: %s", job.record.key[:12], failure)
            line = ItemReport(image=label, outcome=Outcome.FAILED, job=job.record.key, reason=str(failure))
        if line:
            run.emit(ImageDone(line))
        return line


async def settle(run: RunContext, job: VersionedRecord, status: TaskStatus | None, steps: Steps) -> VersionedRecord:
    """Settle one job: a claim past its lease becomes unknown, a finished task is stored or closed.

    Args:
        status: the task's status, if it was requested just now.

    Raises:
        I2vError: a step failed; the job stays open.
    """
    attempt = job.record.attempt
    if job.record.state is JobState.CLAIMED and attempt and job.age_seconds > run.settings.lease_seconds:
        lost = await run.ledger.change(job, lambda record: transitions.mark_unknown(record, attempt.claim, LEASE_OVER))
        return lost or await run.ledger.read_existing(job.record.key)
    if job.record.state is JobState.SUBMITTED and attempt:
        status = status or await query_status(run, job, 1)
        if status and status.state is not TaskState.RUNNING:
            job, ready, _ = await handle_final_status(run, job, attempt, status, 1)
            job = await steps.store(run, job, ready) if ready else job
    if not job.record.state.is_open and job.record.state is not JobState.READY:
        await publish_outputs(run, job.record, job.record.image)
        await run.ledger.delete_open_marker(job.record)
    return job


async def _is_owned(run: RunContext, job: VersionedRecord) -> bool:
    """Return whether a live run works on the job, its callback is still expected, or its claim's lease is not over."""
    attempt = job.record.attempt
    if attempt is None or job.record.state is JobState.CLAIMED:
        return job.age_seconds <= run.settings.lease_seconds
    if attempt.delivery == "callback":
        return _age(attempt.claimed_at) <= timedelta(seconds=run.settings.callback_patience_seconds)
    try:
        found = await run.storage.get(keys.run_uri(run.settings, attempt.run_id))
        owner = RunRecord.model_validate_json(found.body)
    except (NotFound, ValidationError):
        return False
    return owner.ended_at is None and found.age_seconds <= run.settings.run_gone_seconds


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - moment


def _line(run: RunContext, record: JobRecord, was: JobState) -> ItemReport | None:
    """Report a job that ended here, is open, failed for now, or needs a person; `None` for an unpaid one."""
    fails_for_now = record.state is JobState.READY and was.is_open
    if record.state in {JobState.READY, JobState.CLAIMED} and not fails_for_now:
        return None
    order = Order(image=record.image, request=record.request, price_usd=ZERO)
    line = outcomes.of_job(run, order, record, record.video.uri if record.video else None, cached=False)
    line = line.model_copy(update={"is_new_outcome": record.state is not was})
    if fails_for_now:
        reason = f"{line.reason or 'nothing was paid'}; the next run of this image pays for another attempt"
        return line.model_copy(update={"reason": reason})
    age = _age(record.attempt.claimed_at) if record.attempt else timedelta(0)
    if record.state is JobState.SUBMITTED and age > NEEDS_ATTENTION_AFTER:
        days = "1 day" if age.days == 1 else f"{age.days} days"
        reason = f"open for more than {days}; inspect it with: i2v jobs show {record.key[:12]}"
        return line.model_copy(update={"reason": reason})
    return line
