"""Step 4, free: download a rendered video, check that it is complete, and publish it.

After a dead result URL or a broken file, the status is polled again; the job is never paid again.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from i2v.apixo.models import TaskState, TaskStatus
from i2v.errors import BrokenVideo, DecoderStopped, FetchError, I2vError
from i2v.ledger import transitions
from i2v.ledger.attempt import StoredVideo
from i2v.ledger.ledger import VersionedRecord
from i2v.media.video_facts import VideoFacts
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import StepStarted
from i2v.pipeline.poll import job_label, job_log_context, query_status
from i2v.pipeline.publish import publish_video

log = logging.getLogger(__name__)
FRESH_STATUSES = 3
"""How often the status is polled again for a working result URL, before the store fails."""


class NotDelivered(I2vError):
    """The provider reports success, but its file cannot be downloaded or verified: paid, and the job stays open."""


async def store(run: RunContext, job: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    """Download, check and publish the video of a job whose task succeeded.

    Raises:
        NotDelivered: no status led to a complete video; the job stays open and is not paid again.
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
    if stored:
        await run.ended_markers.add(stored.record, stored.record.attempt_for_task(task_id))
    return stored or await run.ledger.read_existing(job.record.key)


async def _deliver(run: RunContext, job: VersionedRecord, status: TaskStatus) -> tuple[StoredVideo, TaskStatus]:
    """Publish the video; return it with the status that led to it."""
    problem = "the provider returned no result URL"
    for fresh in range(FRESH_STATUSES + 1):
        if fresh:
            await run.brake.sleep(run.settings.poll_every_seconds)
            status = await query_status(run, job, status.task_id, fresh) or status
        for url in status.result_urls[:1] if status.state is TaskState.SUCCESS else ():
            try:
                async with run.limits.storing:
                    with _temporary_file() as path:
                        facts, poster = await _download(run, url, path)
                        return await publish_video(run, job.record, path, facts, poster, status), status
            except (FetchError, BrokenVideo, DecoderStopped) as error:
                problem = str(error)
                log.warning("%s: %s", job_label(job), error)
    raise NotDelivered(
        f"Paid, but the video of task {status.task_id} cannot be downloaded: {problem}",
        f"The job stays open and is not paid again; inspect it with: i2v jobs show {job.record.key[:12]}",
    )


@contextmanager
def _temporary_file() -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="i2v-", suffix=".mp4")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


async def _download(run: RunContext, url: str, path: Path) -> tuple[VideoFacts, bytes]:
    """Download and check a video; return its facts and its poster."""
    fetched = await run.fetcher.fetch_file(url, path, limit=run.settings.max_video_bytes)
    return await run.decoder.examine_video(path, fetched.sha256)
