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
from i2v.animate import Steps
from i2v.apixo.models import TaskState
from i2v.errors import I2vError, NotFound
from i2v.jobs import JobRecord, JobState
from i2v.ledger import Held
from i2v.poll import ask, end
from i2v.report import ItemReport, Outcome, Report
from i2v.runs import Run, RunRecord
from i2v.store import finish
from i2v.submit import LEASE_OVER, Order
from i2v.uris import S3Uri

log = logging.getLogger(__name__)
NEEDS_A_PERSON_AFTER = timedelta(hours=24)


async def reconcile(
    run: Run, *, keys: Sequence[str] | None = None, limit: int = 100, steps: Steps | None = None
) -> Report:
    """Settle open jobs: those of `keys`, else all that carry an open mark, oldest mark first.

    Args:
        run: the flow run; in a dry run open jobs are named and nothing is changed.
        keys: job keys to settle whoever works on them.
        limit: how many jobs at most.
        steps: whose `store` publishes a video.

    Returns:
        A report with each job that was looked at; one that is still open is `submitted`, one in need of a person
        `unknown`.

    Raises:
        StorageError: S3 could not be listed.
    """
    found = list(keys) if keys is not None else await open_keys(run)
    run.tell_count(len(found[:limit]))
    settled = await asyncio.gather(
        *(_settle(run, key, steps or Steps(), forced=keys is not None) for key in found[:limit])
    )
    report = Report(items=tuple(item for item in settled if item), stopped=None)
    if len(found) > limit:
        log.warning("%d open jobs are left for the next time (limit %d)", len(found) - limit, limit)
    await run.end(report)
    return report


async def open_keys(run: Run) -> list[str]:
    """The keys of all jobs that carry an open mark, oldest mark first.

    Raises:
        StorageError: S3 could not be listed.
    """
    marks = [entry async for entry in run.storage.list(run.settings.jobs / "open/")]
    return [entry.uri.key.rpartition("-")[2] for entry in sorted(marks, key=lambda entry: entry.last_modified)]


async def _settle(run: Run, key: str, steps: Steps, *, forced: bool) -> ItemReport | None:
    async with run.in_flight:
        held = None
        try:
            held = await run.ledger.read_existing(key)
            if not forced and not run.dry_run and await _is_owned(run, held):
                return None
            if not run.dry_run:
                held = await settle(run, held, steps)
            return _report(run, held.record)
        except I2vError as error:
            log.warning("job %s is not settled: %s", key[:12], error)
            return ItemReport(
                image=held.record.image.label if held else key, outcome=Outcome.FAILED, job=key, reason=str(error)
            )


async def settle(run: Run, held: Held, steps: Steps) -> Held:
    """Bring a job one step further: a lost claim to unknown, an ended task to its end, an end to its answers.

    Raises:
        I2vError: a step failed; the job stays as it is.
    """
    attempt = held.record.attempt
    if held.record.state is JobState.CLAIMED and attempt and held.age_seconds > run.settings.lease_seconds:
        held = await run.ledger.change(held, lambda record: jobs.lose(record, attempt.claim, LEASE_OVER)) or held
    if held.record.state is JobState.SUBMITTED and attempt:
        status = await ask(run, held, 1)
        if status and status.state is not TaskState.RUNNING:
            held, ready = await end(run, held, attempt, status)
            held = await steps.store(run, held, ready) if ready else held
    if held.record.state in {JobState.STORED, JobState.REFUSED, JobState.FAILED}:
        await finish(run, held.record, held.record.image)
        await run.ledger.unmark(held.record)
    return held


async def _is_owned(run: Run, held: Held) -> bool:
    """Whether a run that lives works on this job: its own record was touched within three minutes."""
    attempt = held.record.attempt
    if held.record.state is not JobState.SUBMITTED or attempt is None:
        return False
    uri = names.run_uri(run.settings, attempt.run_id)
    try:
        found = await run.storage.get(uri)
        record = RunRecord.model_validate_json(found.body)
    except (NotFound, ValidationError):
        return False
    return record.ended_at is None and found.age_seconds <= run.settings.run_gone_seconds


def _report(run: Run, record: JobRecord) -> ItemReport | None:
    """A line for a job that ended here, is open, or needs a person; none for one that waits to be paid."""
    if record.state in {JobState.READY, JobState.CLAIMED}:
        return None
    order = Order(image=record.image, request=record.request, price_usd=jobs.ZERO)
    uri: S3Uri | None = record.video.uri if record.video else None
    line = outcomes.of_job(run, order, record, uri, cached=False)
    attempt = record.attempt
    age = datetime.now(UTC) - attempt.claimed_at if attempt else timedelta(0)
    if record.state is JobState.SUBMITTED and age > NEEDS_A_PERSON_AFTER:
        return line.model_copy(
            update={"reason": f"open for {age.days} days: look at it with i2v jobs show {record.key[:12]}"}
        )
    return line
