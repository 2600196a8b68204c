"""Publish what an image gets: video, poster and manifest, or a verdict file that says why there is no video.

`publish_video` puts a new video; its manifest comes last. `publish_outputs` gives an image the outputs of an ended job,
which another image with the same content may have paid for.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from i2v.advised_commands import command
from i2v.apixo.models import TaskStatus
from i2v.errors import Conflict, I2vError, NotFound
from i2v.ledger import keys
from i2v.ledger.attempt import StoredVideo
from i2v.ledger.job import JobImage, JobRecord, JobState
from i2v.ledger.ledger_info import provider_host
from i2v.media.video_facts import AI_GENERATED, VideoFacts, deviations
from i2v.pipeline.context import RunContext
from i2v.pipeline.outputs.verdicts import FORMAT, job_verdict, put_verdict, remove_verdicts
from i2v.request import MODEL, canonical_json
from i2v.s3_uri import S3Uri

log = logging.getLogger(__name__)
METADATA_TASK_CHARS = 1000
CONTENT_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "mkv": "video/x-matroska"}
DELETED = "the image was deleted while its video was made"
REPLACED = "the image was replaced while its video was made"
BESIDE = "another attempt of this job had stored its video first"


class NotCopied(I2vError):
    """An equal image's video is not copied, because it may show another image."""


@dataclass(frozen=True, slots=True)
class DeliveredVideo:
    """A downloaded video with its measurements and poster, and why it is `unverified`, if it is."""

    path: Path
    facts: VideoFacts
    poster: bytes
    unverified: str | None = None

    @property
    def ending(self) -> str:
        """Its ending in the bucket."""
        return f"{'.unverified' if self.unverified else ''}.{self.facts.container}"

    def flags(self, record: JobRecord) -> tuple[str, ...]:
        """Return what is odd about it."""
        if self.unverified is None:
            return deviations(self.facts, record.request)
        keep = command("jobs", "resolve", record.key[:12], "--keep")
        decide = f"To keep it: {keep}; to pay again, use --resubmit instead"
        return (f"unverified: {self.unverified}. {decide}",)


async def publish_video(
    run: RunContext, record: JobRecord, delivered: DeliveredVideo, status: TaskStatus
) -> StoredVideo:
    """Put a video, its poster, and last its manifest."""
    image, facts = record.image, delivered.facts
    changed = await _changed_flags(run, image)
    attempt = record.attempt_for_task(status.task_id)
    number = attempt.number if attempt else 0
    names = (("", ()), (f".attempt-{number}", (BESIDE,)))
    for name, beside in names[1:] if record.state is JobState.STORED else names:
        video = StoredVideo(
            uri=_output_uri(run, record, image, name + delivered.ending),
            poster=_output_uri(run, record, image, f"{name}.jpg"),
            manifest=_output_uri(run, record, image, f"{name}.json"),
            sha256=facts.sha256,
            size=facts.size,
            width=facts.width,
            height=facts.height,
            seconds=facts.seconds,
            flags=(*delivered.flags(record), *changed, *beside),
            unverified=delivered.unverified,
            image_changed=bool(changed),
        )
        if await _put_video(run, delivered.path, video, record.key, number, status.task_id):
            break
    for flag in video.flags:
        log.warning("%s: %s", image.name, flag)
    await run.storage.put(video.poster, delivered.poster, content_type="image/jpeg")
    await _put_manifest(run, record, image, video.manifest, manifest(run, record, video, status, facts))
    return video


def _output_uri(run: RunContext, record: JobRecord, image: JobImage, ending: str) -> S3Uri:
    return keys.output_uri(run.settings, image.name, image.etag, record.request.digest12, ending)


async def _changed_flags(run: RunContext, image: JobImage) -> tuple[str, ...]:
    """Flag an object that was replaced: the provider may have fetched other bytes than were validated."""
    if image.version_id or run.settings.jobs.holds(image.at):
        return ()
    try:
        now = await run.storage.head(image.at)
    except NotFound:
        return (DELETED,)
    return () if now.etag == image.etag else (REPLACED,)


async def _put_video(run: RunContext, path: Path, video: StoredVideo, job: str, attempt: int, task_id: str) -> bool:
    """Put the video if there is none, or replace one whose store died before it wrote the manifest.

    Return `False` if there is the video of another attempt, which is never replaced.
    """
    content_type = CONTENT_TYPES[video.uri.key.rpartition(".")[2]]
    metadata = {"job": job, "attempt": str(attempt), "sha256": video.sha256, **_task_metadata(task_id)}
    put = partial(
        run.storage.put_file, video.uri, path, sha256=video.sha256, content_type=content_type, metadata=metadata
    )
    try:
        await put()
    except Conflict:
        try:
            existing = await run.storage.head(video.uri)
        except NotFound:  # S3 answers 409 also while another write is under way
            await put()
            return True
        if existing.metadata.get("sha256") == video.sha256:
            return True
        if existing.metadata.get("attempt", str(attempt)) != str(attempt):
            return False
        await put(if_match=existing.etag)
    return True


def _task_metadata(task_id: str) -> dict[str, str]:
    """Return the task id, unless it does not fit into S3's metadata: 2 KB of ASCII. The manifest has it in any case."""
    return {"task": task_id} if task_id.isascii() and len(task_id) <= METADATA_TASK_CHARS else {}


async def _put_manifest(
    run: RunContext, record: JobRecord, image: JobImage, uri: S3Uri, manifest: dict[str, Any]
) -> None:
    await run.storage.put(uri, canonical_json(manifest), content_type="application/json")
    if record.may_have_verdicts:
        await remove_verdicts(run.storage, run.settings, image, record.request)


def manifest(
    run: RunContext, record: JobRecord, video: StoredVideo, status: TaskStatus | None, facts: VideoFacts | None
) -> dict[str, Any]:
    """Return the JSON beside a video: its lineage, request, cost and measurements."""
    attempt = (status and record.attempt_for_task(status.task_id)) or record.attempt
    return {
        "format": FORMAT,
        "job": record.key,
        "image": record.image.model_dump(mode="json"),
        "request": {"model": MODEL, **record.request.model_dump(mode="json")},
        "label": record.label,
        "extra": dict(record.extra),
        "provider": provider_host(run.settings),
        "task_id": attempt.task_id if attempt else None,
        "cost_usd": str(record.cost_usd),
        "attempts": record.paid_attempts,
        "run_id": attempt.run_id if attempt else None,
        "submitted_at": attempt.submitted_at.isoformat() if attempt and attempt.submitted_at else None,
        "rendering_ms": status.cost_ms if status else None,
        "stored_at": datetime.now(UTC).isoformat(),
        "digital_source_type": AI_GENERATED,
        "video": {**(facts.model_dump(mode="json") if facts else {}), **video.model_dump(mode="json")},
    }


async def publish_outputs(
    run: RunContext,
    record: JobRecord,
    image: JobImage,
    extra: Mapping[str, str] | None = None,
    *,
    just_stored: bool = False,
) -> S3Uri | None:
    """Give an image the outputs of an ended job; return where its video is, or `None` if the job is not stored.

    `extra` are the image's custom columns in this run; the record's if `None`. Raise `NotFound` if the job's video is
    no longer in the bucket, which is not checked if it was `just_stored`.
    """
    extra = record.extra if extra is None else extra
    if record.state is JobState.STORED and record.video:
        uri = await _publish_stored(run, record, record.video, image, extra, just_stored=just_stored)
        if extra and (extra != record.extra or not just_stored):
            await _update_columns(run, keys.sibling_uri(uri, ".json"), extra)
        return uri
    if record.state in {JobState.REFUSED, JobState.FAILED} and record.reason:
        await put_verdict(run.storage, run.settings, job_verdict(record, image, record.reason, extra))
    return None


async def _update_columns(run: RunContext, uri: S3Uri, extra: Mapping[str, str]) -> None:
    """Give a manifest that an earlier run wrote the custom columns of this run. A failure is logged."""
    try:
        found = await run.storage.get(uri)
        old = json.loads(found.body)
        if old.get("extra", {}) != extra:
            body = canonical_json({**old, "extra": dict(extra)})
            await run.storage.put(uri, body, content_type="application/json", if_match=found.etag)
    except (I2vError, ValueError, AttributeError) as error:
        log.warning("%s keeps its columns: %s", uri, error)


async def _publish_stored(
    run: RunContext,
    record: JobRecord,
    video: StoredVideo,
    image: JobImage,
    extra: Mapping[str, str],
    *,
    just_stored: bool,
) -> S3Uri:
    target = _output_uri(run, record, image, keys.video_ending(video.uri))
    if target == video.uri:
        if not just_stored:
            await _require_video(run, video.uri)
        return target
    try:
        await run.storage.head(_output_uri(run, record, image, ".json"))
    except NotFound:
        if video.image_changed or set(video.flags) & {DELETED, REPLACED}:
            raise NotCopied(
                f"Not copied: the video of equal content may show another image ({'; '.join(video.flags)})",
                "Look at it in the gallery; order another of this image with --take 2",
            ) from None
        await _copy(run, record, video, image, extra, target)
    return target


async def _require_video(run: RunContext, uri: S3Uri) -> None:
    try:
        await run.storage.head(uri)
    except NotFound:
        raise NotFound(
            f"The stored video {uri} no longer exists", "Restore it, or order another of the same image with --take 2"
        ) from None


async def _copy(
    run: RunContext, record: JobRecord, video: StoredVideo, image: JobImage, extra: Mapping[str, str], target: S3Uri
) -> None:
    """Copy the video for an equal image at another key, free of charge, with a manifest of its own."""
    await _require_video(run, video.uri)
    poster, manifest_uri = _output_uri(run, record, image, ".jpg"), _output_uri(run, record, image, ".json")
    await run.storage.copy(video.uri, target)
    await run.storage.copy(video.poster, poster)
    copied = video.model_copy(update={"uri": target, "poster": poster, "manifest": manifest_uri})
    changes = {"image": image.model_dump(mode="json"), "copied_from": str(video.uri), "cost_usd": "0"}
    changes["extra"] = dict(extra)
    await _put_manifest(run, record, image, manifest_uri, manifest(run, record, copied, None, None) | changes)
