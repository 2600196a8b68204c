"""Step 4, free: download a rendered video, check that it is complete, and publish it.

After a dead result URL or a broken file, the status is polled again; the job is never paid again.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from i2v.advised_commands import command
from i2v.apixo.models import TaskState, TaskStatus
from i2v.errors import BrokenVideo, DecoderStopped, FetchError, I2vError
from i2v.ledger import transitions
from i2v.ledger.attempt import StoredVideo
from i2v.ledger.ledger import VersionedRecord
from i2v.media.file_type import describe_file_type
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import StepStarted
from i2v.pipeline.outputs.publish import DeliveredVideo, publish_video
from i2v.pipeline.poll import job_label, job_log_context, query_status
from i2v.telemetry.spans import describe_job, traced

log = logging.getLogger(__name__)
FRESH_STATUSES = 3
"""How often the status is polled again for a working result URL, before the store fails."""


PAGE_SECONDS = 3600.0
PAGES = frozenset({"an HTML page", "text", "no data"})


class NotDelivered(I2vError):
    """The provider reports success, but its file cannot be downloaded or verified: paid, and the job stays open."""


@traced("store", describe_job)
async def store(run: RunContext, job: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    """Download, check and publish the video of a job whose task succeeded.

    Raises:
        NotDelivered: no status led to a video that could be verified or came twice; the job stays open.
        StorageError: S3 failed; the job stays open and is settled later.
    """
    run.emit(StepStarted("storing", job.record.key))
    try:
        video, status = await _deliver(run, job, status)
    except OSError as error:
        raise NotDelivered(
            f"Paid, but the video cannot be written to the temporary folder: {error.strerror or error}",
            "Free space there, or set TMPDIR to another folder; the job stays open and is not paid again",
        ) from error
    task_id, now = status.task_id, datetime.now(UTC)
    stored = await run.ledger.change(
        job, lambda record: transitions.store(record, task_id, video, now, status.created_at)
    )
    log.info("%s: stored as %s", job_label(job), video.uri, extra=job_log_context(job))
    if stored and not run.settings.publish_as:  # else the caller publishes first: its marker lets reconcile do it
        await run.ended_markers.add(stored.record, stored.record.attempt_for_task(task_id))
    return stored or await run.ledger.read_existing(job.record.key)


async def _deliver(run: RunContext, job: VersionedRecord, status: TaskStatus) -> tuple[StoredVideo, TaskStatus]:
    """Publish the video; return it with the status that led to it."""
    problem = "the provider returned no result URL"
    broken_here = set[str]()
    for fresh in range(FRESH_STATUSES + 1):
        if fresh:
            await run.brake.sleep(run.settings.poll_every_seconds)
            status = await query_status(run, job, status.task_id, fresh) or status
        for url in status.result_urls[:1] if status.state is TaskState.SUCCESS else ():
            try:
                async with run.limits.storing:
                    with _temporary_file() as path:
                        delivered = await _download(run, job, url, path, status.task_id, broken_here)
                        return await publish_video(run, job.record, delivered, status), status
            except (FetchError, BrokenVideo, DecoderStopped) as error:
                problem = str(error)
                log.warning("%s: %s", job_label(job), error)
    raise NotDelivered(
        f"Paid, but the video of task {status.task_id} cannot be downloaded: {problem}",
        "The job stays open and is not paid again; inspect it with: " + command("jobs", "show", job.record.key[:12]),
    )


@contextmanager
def _temporary_file() -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="i2v-", suffix=".mp4")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


async def _download(
    run: RunContext, job: VersionedRecord, url: str, path: Path, task_id: str, broken_here: set[str]
) -> DeliveredVideo:
    """Download and check a video. What cannot be verified is taken if it came before with the same bytes."""
    fetched = await run.fetcher.fetch_file(url, path, limit=run.settings.max_video_bytes)
    try:
        fingerprint = job.record.image.facts.fingerprint
        return DeliveredVideo(path, *await run.decoder.examine_video(path, fetched.sha256, fingerprint))
    except (BrokenVideo, DecoderStopped) as error:
        if not await _came_before(run, job.record.key, path, fetched.sha256, task_id, broken_here):
            raise
        return DeliveredVideo(path, *await run.decoder.salvage(path, fetched.sha256), error.message)


async def _came_before(run: RunContext, key: str, path: Path, sha256: str, task_id: str, broken_here: set[str]) -> bool:
    """Return whether a broken delivery is the one that came at least a poll ago; otherwise remember it in the ledger.

    A web page or an empty file may be a passing fault of the file host: it must come again an hour later. That time is
    the age of the record by S3's clock. `broken_here` has what came before this caller's last wait.
    """
    job = await run.ledger.read_existing(key)
    attempt = job.record.attempt_for_task(task_id)
    if attempt is None or attempt.broken_sha256 != sha256:
        await run.ledger.change(job, lambda record: transitions.note_delivery(record, task_id, sha256))
        broken_here.add(sha256)
        return False
    if await asyncio.to_thread(_is_page, path):
        return job.age_seconds >= PAGE_SECONDS
    has_waited = sha256 in broken_here and not run.brake.interrupted
    return has_waited or job.age_seconds >= run.settings.poll_every_seconds


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return describe_file_type(file.read(1024)) in PAGES
