"""Publish a stored video under its name: video, poster, and last the manifest, which decides who has the name.

The newest stored video of an image has the name. Processes that publish at the same time end in the same state: the
manifest is replaced by conditional writes, and the process that loses restores the winner's files.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from i2v.errors import Conflict, NotFound, NotTried, StorageError
from i2v.ledger.attempt import EndKind
from i2v.ledger.job import JobImage, JobRecord, JobState
from i2v.ledger.keys import sibling_uri, video_ending
from i2v.pipeline.context import RunContext
from i2v.pipeline.named_copies.names import image_digest, named_copy_uri
from i2v.pipeline.outputs.publish import CONTENT_TYPES
from i2v.pipeline.video_order import Order
from i2v.request import canonical_json
from i2v.s3_uri import S3Uri

log = logging.getLogger(__name__)
ROUNDS = 10
"""How often a process that loses to others begins again."""


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What a manifest says, in the videos prefix or published."""

    content: Mapping[str, Any]

    @classmethod
    async def read(cls, run: RunContext, uri: S3Uri) -> tuple[Self, str]:
        """Return the manifest and its etag. Raise `ValueError` if it is not one."""
        found = await run.storage.get(uri)
        manifest = cls(json.loads(found.body))
        try:
            manifest.age, manifest.files, manifest.image  # noqa: B018 - each may be missing
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{uri} is not a manifest: {error!r}") from None
        return manifest, found.etag

    @property
    def image(self) -> str:
        """The image's address."""
        return str(self.content["image"]["label"])

    @property
    def age(self) -> tuple[str, str]:
        """When the video was stored, and its job: the highest has the name."""
        return str(self.content["stored_at"]), str(self.content["job"])

    @property
    def files(self) -> tuple[S3Uri, S3Uri]:
        """The stored video and poster."""
        video = self.content["video"]
        return S3Uri.parse(video["uri"]), S3Uri.parse(video["poster"])

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of its published files."""
        sha256, job = str(self.content["video"]["sha256"]), str(self.content["job"])
        return {"image": image_digest(self.image), "job": job, "sha256": sha256}


async def publish_and_release(
    run: RunContext, record: JobRecord, order: Order, video: S3Uri | None, *, just_stored: bool
) -> str | None:
    """Publish an order's video and release the markers of this run's attempts; return why it is not published.

    After an S3 error the markers stay, so that reconcile publishes it. A marker stands for the image that the job was
    paid for, which may be an equal one: its video is published first, since its own run may be dead.
    """
    ended = [
        one for one in record.attempts if one.run_id == run.run_id or (just_stored and one.ended_as(EndKind.STORED))
    ]
    try:
        problem = await publish_copy(run, record, order.image, order.extra, video)
    except StorageError as error:
        log.warning("%s: not published yet: %s", order.log_name, error)
        return f"not published yet, reconcile does it: {error.message}"
    try:
        if ended and record.video and record.image.label != order.image.label:
            await publish_copy(run, record, record.image, None, record.video.uri)
    except StorageError as error:  # the order's own copy is not affected
        log.warning("%s: not published yet, reconcile does it: %s", record.image.name, error)
        return problem
    for attempt in ended:
        await run.ended_markers.add(record, attempt)
    return problem


async def publish_copy(
    run: RunContext, record: JobRecord, image: JobImage, extra: Mapping[str, str] | None, video: S3Uri | None
) -> str | None:
    """Copy an image's stored video to the name that `I2V_PUBLISH_AS` gives it; return why not, if that is final.

    An unverified video is not published. `extra` are the image's custom columns, the record's if `None`; `video` is
    where the image's video is stored. Raise `StorageError` if it may work later.
    """
    if video is None or record.state is not JobState.STORED or record.attempt is None or record.attempt.is_unverified:
        return None
    extra = record.extra if extra is None else extra
    try:
        name = named_copy_uri(run.settings, image, record.request, extra)
        if name is None:
            return None
        stored, _ = await _Manifest.read(run, sibling_uri(video, ".json"))
        problem = await _publish(run, _Manifest({**stored.content, "extra": dict(extra)}), name)
    except (NotTried, NotFound, ValueError) as error:
        problem = str(error)
    if problem:
        log.warning("%s is not published: %s", video, problem)
        return f"not published: {problem}"
    return None


async def _publish(run: RunContext, mine: _Manifest, name: S3Uri) -> str | None:
    """Publish until the name has its newest video; return why not, if another image has it.

    The last round changes nothing: a process that read an older manifest may have copied in between, and it, too, reads
    again after its copies.
    """
    place = sibling_uri(name, ".json")
    for _ in range(ROUNDS):
        published, etag = await _read_published(run, place)
        is_other = published is not None and published.image != mine.image
        winner = published if published and (is_other or published.age > mine.age) else mine
        has_copied = await _copy_files(run, winner, name)
        body = canonical_json({**mine.content, "published_as": str(_target(name, mine))})
        if winner is mine and not (published and canonical_json(dict(published.content)) == body):
            with suppress(Conflict):
                await run.storage.put(
                    place,
                    body,
                    content_type="application/json",
                    metadata=mine.metadata,
                    create=etag is None,
                    if_match=etag,
                )
        elif not has_copied:
            return f"{name} is the video of another image" if is_other else None
    raise StorageError(f"{name} is being replaced by others", "Run again")


async def _read_published(run: RunContext, place: S3Uri) -> tuple[_Manifest | None, str | None]:
    try:
        return await _Manifest.read(run, place)
    except NotFound:
        return None, None


async def _copy_files(run: RunContext, manifest: _Manifest, name: S3Uri) -> bool:
    """Copy video and poster, unless they are there; return whether any was copied.

    Raise `NotTried` if one would replace an object that i2v did not publish.
    """
    video, poster = manifest.files
    video_type = CONTENT_TYPES.get(video.key.rpartition(".")[2], "video/mp4")
    files = ((video, _target(name, manifest), video_type), (poster, sibling_uri(name, ".jpg"), "image/jpeg"))
    missing = [file for file in files if not await _is_there(run, file[1], manifest.metadata)]
    for source, target, content_type in missing:
        await run.storage.copy(source, target, metadata=manifest.metadata, content_type=content_type)
    return bool(missing)


def _target(name: S3Uri, manifest: _Manifest) -> S3Uri:
    """Return where the video goes: under another ending if it is not an mp4."""
    return sibling_uri(name, video_ending(manifest.files[0]).replace(".unverified", ""))


async def _is_there(run: RunContext, target: S3Uri, metadata: Mapping[str, str]) -> bool:
    try:
        found = (await run.storage.head(target)).metadata
    except NotFound:
        return False
    if "image" not in found:
        raise NotTried(f"{target} is an object that i2v did not publish", "Rename or delete it")
    return all(found.get(name) == value for name, value in metadata.items())
