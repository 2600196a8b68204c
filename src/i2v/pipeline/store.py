"""Store a rendered video: download, check, publish, and write its manifest last.

A dead result URL or a broken file makes `store` poll the status again; it never pays again. `publish_outputs` gives an
image its outputs from a job that has ended, also where another image with the same content paid for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from i2v.apixo.models import TaskState, TaskStatus
from i2v.errors import BrokenVideo, Conflict, FetchError, I2vError, NotFound
from i2v.ledger import keys, transitions
from i2v.ledger.job import JobImage, JobRecord, JobState, Reason, StoredVideo
from i2v.ledger.ledger import VersionedRecord, provider_host
from i2v.logs import log_context
from i2v.media.video_facts import VideoFacts, deviations
from i2v.pipeline.poll import job_label, query_status
from i2v.pipeline.run import Run
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from i2v.request import MODEL, Request, canonical_json
from i2v.s3.objects import S3Object
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

log = logging.getLogger(__name__)
FRESH_URLS = 3
"""So many fresh statuses are asked for a URL that works before a person is needed."""
MANIFEST_FORMAT = 1


class NotDelivered(I2vError):
    """The provider says success, but its file cannot be had: paid, kept open, and for a person to look at."""


@dataclass(frozen=True, slots=True)
class Download:
    """A video on disk that was found whole."""

    path: Path
    facts: VideoFacts
    poster: bytes
    status: TaskStatus


async def store(run: Run, held: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    """Download, check and publish the video of a job whose task has succeeded.

    Raises:
        NotDelivered: three fresh statuses gave no whole video; the job stays open and is not paid again.
        StorageError: S3 did not answer well; the job stays open and is settled later.
    """
    run.tell("storing", held.record.key)
    try:
        video, status = await _bring(run, held, status)
    except OSError as error:
        raise NotDelivered(
            f"Paid, but the video cannot be put aside in the temporary folder: {error.strerror or error}",
            "Free space there, or set TMPDIR to another; the job stays open and is not paid again",
        ) from error
    task_id, now = held.record.task_id or "", datetime.now(UTC)
    stored = await run.ledger.change(
        held, lambda record: transitions.store(record, task_id, video, now, status.created_at)
    )
    said = log_context(held.record.image.label, held.record.key, task_id)
    log.info("%s: stored as %s", job_label(held), video.uri, extra=said)
    if stored:
        await run.ended_marks.add(stored.record)
    return stored or await run.ledger.read_existing(held.record.key)


@contextmanager
def _aside() -> Iterator[Path]:
    """A file of its own in the temporary folder, as long as it is needed."""
    handle, name = tempfile.mkstemp(prefix="i2v-", suffix=".mp4")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


async def _bring(run: Run, held: VersionedRecord, status: TaskStatus) -> tuple[StoredVideo, TaskStatus]:
    """The video, published, and the status that led to it."""
    problem = "the provider named no file"
    for fresh in range(FRESH_URLS + 1):
        if fresh:
            await run.sleep(run.settings.poll_every_seconds)
            status = await query_status(run, held, fresh) or status
        for url in status.result_urls[:1] if status.state is TaskState.SUCCESS else ():
            try:
                async with run.storing:
                    with _aside() as path:
                        delivery = await _fetch(run, url, path, status)
                        return await _publish(run, held.record, delivery), status
            except (FetchError, BrokenVideo) as error:
                problem = str(error)
                log.warning("%s: %s", job_label(held), error)
    raise NotDelivered(
        f"Paid, but the video of task {held.record.task_id} cannot be had: {problem}",
        f"The job stays open and is not paid again; look at it with: i2v jobs show {held.record.key[:12]}",
    )


async def _fetch(run: Run, url: str, path: Path, status: TaskStatus) -> Download:
    fetched = await run.fetcher.fetch_file(url, path, limit=run.settings.max_video_bytes)
    facts, poster = await asyncio.to_thread(_examine, path, fetched.sha256)
    return Download(path, facts, poster, status)


def _examine(path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
    from i2v.media.videos import examine_video  # noqa: PLC0415 - FFmpeg: the first video loads it

    return examine_video(path, sha256)


async def _publish(run: Run, record: JobRecord, delivery: Download) -> StoredVideo:
    image, facts = record.image, delivery.facts
    flags = (*deviations(facts, record.request), *await _image_changed(run, image))
    video = StoredVideo(
        uri=_answer(run, record, image, ".mp4"),
        poster=_answer(run, record, image, ".jpg"),
        manifest=_answer(run, record, image, ".json"),
        sha256=facts.sha256,
        size=facts.size,
        width=facts.width,
        height=facts.height,
        seconds=facts.seconds,
        flags=flags,
    )
    for flag in flags:
        log.warning("%s: %s", image.name, flag)
    await _put_video(run, delivery.path, video, record)
    await run.storage.put(video.poster, delivery.poster, content_type="image/jpeg")
    await _put_json(run, video.manifest, manifest(run, record, video, delivery.status, facts))
    if record.may_have_verdicts:
        await remove_verdicts(run.storage, run.settings, image, record.request)
    return video


def _answer(run: Run, record: JobRecord, image: JobImage, ending: str) -> S3Uri:
    return keys.output_uri(run.settings, image.name, image.etag, record.request.digest12, ending)


async def _image_changed(run: Run, image: JobImage) -> tuple[str, ...]:
    """A flag where the provider may have seen other bytes than were checked: the object was replaced meanwhile."""
    if image.version_id or run.settings.jobs.holds(image.at):
        return ()
    try:
        now = await run.storage.head(image.at)
    except NotFound:
        return ("the image was deleted while its video was made",)
    return () if now.etag == image.etag else ("the image was replaced while its video was made",)


async def _put_video(run: Run, path: Path, video: StoredVideo, record: JobRecord) -> None:
    """Put the video where none is, or over the leftover of a store that died before its manifest."""
    metadata = {"job": record.key, "task": record.task_id or "", "sha256": video.sha256}

    async def put(over: str | None = None) -> None:
        await run.storage.put_file(
            video.uri,
            path,
            sha256=video.sha256,
            content_type="video/mp4",
            metadata=metadata,
            if_match=over,
        )

    try:
        await put()
    except Conflict:
        there = await _there(run, video.uri)
        if there is None or there.metadata.get("sha256") != video.sha256:
            await put(there.etag if there else None)


async def _there(run: Run, uri: S3Uri) -> S3Object | None:
    """What lies there; a 409 comes also where nothing does yet."""
    try:
        return await run.storage.head(uri)
    except NotFound:
        return None


async def _put_json(run: Run, uri: S3Uri, value: object, *, create: bool = False) -> None:
    await run.storage.put(uri, canonical_json(value), content_type="application/json", create=create)


def manifest(
    run: Run, record: JobRecord, video: StoredVideo, status: TaskStatus | None, facts: VideoFacts | None
) -> dict[str, Any]:
    """What lies beside a video: where it comes from, what it cost, and what was measured in it."""
    attempt = record.attempt
    return {
        "format": MANIFEST_FORMAT,
        "job": record.key,
        "image": record.image.model_dump(mode="json"),
        "request": {"model": MODEL, **record.request.model_dump(mode="json")},
        "label": record.label,
        "provider": provider_host(run.settings),
        "task_id": record.task_id,
        "cost_usd": str(sum((a.price_usd for a in record.attempts), Decimal(0))),
        "attempts": len(record.attempts),
        "run_id": attempt.run_id if attempt else None,
        "submitted_at": attempt.submitted_at.isoformat() if attempt and attempt.submitted_at else None,
        "rendering_ms": status.cost_ms if status else None,
        "stored_at": datetime.now(UTC).isoformat(),
        "video": {**video.model_dump(mode="json"), **(facts.model_dump(mode="json") if facts else {})},
    }


async def publish_outputs(run: Run, record: JobRecord, image: JobImage, *, is_new: bool = False) -> S3Uri | None:
    """Give an image its answers from a job that has ended; `is_new` where `store` has put its video just now.

    Returns:
        Where the image's video lies, if the job is stored.

    Raises:
        NotFound: the job's video is gone from the bucket.
        StorageError: S3 did not answer well.
    """
    if record.state is JobState.STORED and record.video:
        return await _finish_stored(run, record, record.video, image, is_new=is_new)
    if record.state in {JobState.REFUSED, JobState.FAILED} and record.reason:
        verdict = Verdict(image.name, image.label, image.etag, record.request, record.state, record.reason, record.key)
        await put_verdict(run, verdict)
        await run.ledger.delete_open_marker(record)
    return None


async def _finish_stored(run: Run, record: JobRecord, video: StoredVideo, image: JobImage, *, is_new: bool) -> S3Uri:
    target = _answer(run, record, image, ".mp4")
    if target == video.uri:
        if not is_new:
            await _must_exist(run, video.uri)
        return target
    manifest_uri = _answer(run, record, image, ".json")
    try:
        await run.storage.head(manifest_uri)
    except NotFound:
        await _copy(run, record, video, image, target)
    return target


async def _must_exist(run: Run, uri: S3Uri) -> None:
    try:
        await run.storage.head(uri)
    except NotFound:
        raise NotFound(
            f"The video {uri} was stored and is gone", "Restore it, or order another of the same image with --take 2"
        ) from None


async def _copy(run: Run, record: JobRecord, video: StoredVideo, image: JobImage, target: S3Uri) -> None:
    """An equal image elsewhere gets its own video without paying: a copy within S3, and last its own manifest."""
    await _must_exist(run, video.uri)
    poster, manifest_uri = _answer(run, record, image, ".jpg"), _answer(run, record, image, ".json")
    await run.storage.copy(video.uri, target)
    await run.storage.copy(video.poster, poster)
    own = video.model_copy(update={"uri": target, "poster": poster, "manifest": manifest_uri})
    text = {
        **manifest(run, record, own, None, None),
        "image": image.model_dump(mode="json"),
        "copied_from": str(video.uri),
        "cost_usd": "0",
    }
    await _put_json(run, manifest_uri, text)
    if record.may_have_verdicts:
        await remove_verdicts(run.storage, run.settings, image, record.request)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an image has no video: by its validation, without a job, or by its job."""

    name: str
    label: str
    etag: str
    request: Request
    state: JobState
    reason: Reason
    job: str | None = None


def refusal(seen: ResolvedImage, checked: ValidationResult, request: Request) -> Verdict:
    """The verdict of an image that validation refused."""
    reason = Reason(code=checked.rule, message=checked.refusal or "")
    return Verdict(seen.name, seen.ref.label, checked.etag, request, JobState.REFUSED, reason)


async def remove_verdicts(storage: Storage, settings: Settings, image: JobImage, request: Request) -> None:
    """Take away what an earlier end left beside, since it no longer holds.

    Raises:
        StorageError: S3 did not answer well.
    """
    for state in (JobState.REFUSED, JobState.FAILED):
        await storage.delete(keys.output_uri(settings, image.name, image.etag, request.digest12, f".{state}.json"))


async def put_verdict(run: Run, verdict: Verdict, *, is_lasting: bool = False) -> bool:
    """Put `.refused.json` or `.failed.json` where the video would have been; whether it is news.

    Args:
        run: the flow run.
        verdict: what is put.
        is_lasting: one that is there already says the same, and stays.

    Raises:
        StorageError: S3 did not answer well.
    """
    ending = f".{verdict.state}.json"
    uri = keys.output_uri(run.settings, verdict.name, verdict.etag, verdict.request.digest12, ending)
    text = {
        "format": MANIFEST_FORMAT,
        "image": verdict.label,
        "etag": verdict.etag,
        "request": {"model": MODEL, **verdict.request.model_dump(mode="json")},
        "job": verdict.job,
        "reason": verdict.reason.model_dump(),
        "at": datetime.now(UTC).isoformat(),
    }
    try:
        await _put_json(run, uri, text, create=is_lasting)
    except Conflict:
        return False
    return True
