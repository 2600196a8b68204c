"""What is left open is settled: `reconcile` takes over every open job whose run is gone. It never pays.

Safe at any time and in any number: each change is conditional, and a store that is done twice puts the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from i2v import jobs, names, outcomes
from i2v.animate import Steps, expected
from i2v.apixo.models import TaskState
from i2v.errors import NotFound
from i2v.jobs import JobRecord, JobState
from i2v.ledger import Held
from i2v.poll import ask, end
from i2v.report import ItemReport, Outcome, Report
from i2v.runs import Run, RunRecord
from i2v.storage import S3Entry
from i2v.store import finish
from i2v.submit import LEASE_OVER, Order

log = logging.getLogger(__name__)
NEEDS_A_PERSON_AFTER = timedelta(hours=24)


async def reconcile(
    run: Run, *, keys: Sequence[str] | None = None, limit: int = 100, steps: Steps | None = None
) -> Report:
    """Settle open jobs: those of `keys`, else all that carry an open mark and whose run is gone, oldest mark first.

    Args:
        run: the flow run; in a dry run open jobs are named and nothing is changed.
        keys: job keys to settle whoever works on them.
        limit: how many jobs are settled at most; those that wait for a person do not count.
        steps: whose `store` publishes a video.

    Returns:
        A report with each job that was looked at; one that is still open is `submitted`, one in need of a person
        `unknown`.

    Raises:
        UsageError: the ledger belongs to another provider or account.
        LedgerError: the ledger, or a record in it, cannot be read by this version.
        StorageError: S3 could not be read.
    """
    if not run.dry_run:
        await run.ledger.prove()
    found = await _named(run, keys) if keys is not None else await _marked(run, limit)
    run.tell_count(len(found))
    settled = await asyncio.gather(*(_settle(run, held, steps or Steps()) for held in found))
    report = Report(items=tuple(item for item in settled if item))
    await run.end(report)
    return report


async def _named(run: Run, keys: Sequence[str]) -> list[Held]:
    return [await run.ledger.read_existing(key) for key in keys]


async def open_marks(run: Run) -> dict[str, list[S3Entry]]:
    """All open marks by job key, oldest first; equal images have a mark each.

    Raises:
        StorageError: S3 could not be listed.
    """
    entries = [entry async for entry in run.storage.list(run.settings.jobs / "open/")]
    marks: dict[str, list[S3Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.last_modified):
        marks.setdefault(entry.uri.key.rpartition("-")[2], []).append(entry)
    return marks


async def _marked(run: Run, limit: int) -> list[Held]:
    """What is open and nobody's, at most `limit` of what can be settled; marks of what is not open are taken away."""
    marks = await open_marks(run)
    found, left = [], 0
    async for held in run.ledger.read_many(list(marks)):
        if not held.record.state.is_open:
            await _clear(run, held, marks[held.record.key])
        elif held.record.state is JobState.UNKNOWN:
            found.append(held)
        elif limit > 0 and not await _is_owned(run, held):
            found.append(held)
            limit -= 1
        elif limit <= 0:
            left += 1
    if left:
        log.warning("%d open jobs are left for the next time", left)
    return found


async def _clear(run: Run, held: Held, marks: Sequence[S3Entry]) -> None:
    """Take the marks of an ended job away, and of a ready one that nobody is about to claim."""
    is_ready = held.record.state is JobState.READY
    if run.dry_run or (is_ready and await _is_fresh(run, marks[-1])):
        return
    if not is_ready:
        await finish(run, held.record, held.record.image)
    for mark in marks:
        await run.storage.delete(mark.uri)
    newest = (await run.ledger.read_existing(held.record.key)).record
    if newest.state.is_open or (newest.state is JobState.READY and not is_ready):
        await run.ledger.mark_open(newest.image, newest.key)


async def _is_fresh(run: Run, mark: S3Entry) -> bool:
    """Whether somebody may be about to claim the job, by S3's clock; also where the mark is gone just now."""
    try:
        return (await run.storage.head(mark.uri)).age_seconds < run.settings.lease_seconds
    except NotFound:
        return True


async def _settle(run: Run, held: Held, steps: Steps) -> ItemReport | None:
    async with run.in_flight:
        try:
            now = held if run.dry_run else await settle(run, held, steps)
            line = _report(run, now.record)
        except Exception as error:  # noqa: BLE001 - every job is settled by itself
            label = held.record.image.label
            told = expected(error, label)
            log.warning("job %s is not settled: %s", held.record.key[:12], told)
            line = ItemReport(image=label, outcome=Outcome.FAILED, job=held.record.key, reason=str(told))
        if line:
            run.tell_done(line)
        return line


async def settle(run: Run, held: Held, steps: Steps) -> Held:
    """Bring a job one step further: a lost claim to unknown, an ended task to its end, an end to its answers.

    Raises:
        I2vError: a step failed; the job stays as it is.
    """
    attempt = held.record.attempt
    if held.record.state is JobState.CLAIMED and attempt and held.age_seconds > run.settings.lease_seconds:
        lost = await run.ledger.change(held, lambda record: jobs.lose(record, attempt.claim, LEASE_OVER))
        return lost or await run.ledger.read_existing(held.record.key)
    if held.record.state is JobState.SUBMITTED and attempt:
        status = await ask(run, held, 1)
        if status and status.state is not TaskState.RUNNING:
            held, ready = await end(run, held, attempt, status)
            held = await steps.store(run, held, ready) if ready else held
    if not held.record.state.is_open and held.record.state is not JobState.READY:
        await finish(run, held.record, held.record.image)
        await run.ledger.unmark(held.record)
    return held


async def _is_owned(run: Run, held: Held) -> bool:
    """Whether a run that lives works on this job, or a claim's lease is not over."""
    attempt = held.record.attempt
    if attempt is None or held.record.state is JobState.CLAIMED:
        return held.age_seconds <= run.settings.lease_seconds
    try:
        found = await run.storage.get(names.run_uri(run.settings, attempt.run_id))
        record = RunRecord.model_validate_json(found.body)
    except (NotFound, ValidationError):
        return False
    return record.ended_at is None and found.age_seconds <= run.settings.run_gone_seconds


def _report(run: Run, record: JobRecord) -> ItemReport | None:
    """A line for a job that ended here, is open, or needs a person; none for one that waits to be paid."""
    if record.state in {JobState.READY, JobState.CLAIMED}:
        return None
    order = Order(image=record.image, request=record.request, price_usd=jobs.ZERO)
    line = outcomes.of_job(run, order, record, record.video.uri if record.video else None, cached=False)
    age = datetime.now(UTC) - record.attempt.claimed_at if record.attempt else timedelta(0)
    if record.state is JobState.SUBMITTED and age > NEEDS_A_PERSON_AFTER:
        reason = f"open for over {age.days} days: look at it with i2v jobs show {record.key[:12]}"
        return line.model_copy(update={"reason": reason})
    return line
