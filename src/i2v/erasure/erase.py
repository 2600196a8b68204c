"""Erase what `search` found: `erase`. An image with an open job stays as it is, and is named.

Pointers to the rest go last, so that a second try finds what the first one left: markers, copies of the bytes,
documents, job records, outputs, and the image itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from i2v.erasure.documents import DOCUMENTS, Eraser, erase_from_manifest
from i2v.erasure.open_jobs import what_to_do, why_open
from i2v.erasure.records import forget, move
from i2v.erasure.selection import FoundImage, Selection, Sharer
from i2v.errors import Conflict, I2vError
from i2v.export.places import own_place
from i2v.export.write import rewrite_jobs
from i2v.inputs.prompts import sidecar
from i2v.ledger import keys
from i2v.ledger.attempt import StoredVideo
from i2v.ledger.documents import read_if_valid, wait_briefly
from i2v.ledger.job import JobImage, JobRecord
from i2v.ledger.ledger import Ledger
from i2v.ledger.ledger_info import PAUSE_RECHECK_SECONDS
from i2v.ledger.run_record import RunRecord
from i2v.pipeline.outputs.publish import CONTENT_TYPES
from i2v.s3.versions import NotDeleted, delete_all
from i2v.s3_uri import S3Uri

T = TypeVar("T")
AT_ONCE = 16
ENDINGS = (*(f".{kind}" for kind in CONTENT_TYPES), ".jpg", ".json")
"""Of a published copy: what leads to it goes last."""
STILL_WORKING = "this run is still working, and its report may name an image: run this command again after it"
IN_USE = "an open, paid job needs these bytes: run this command again after it"


@dataclass(slots=True)
class Erasure:
    """What was erased and what was not."""

    erased: list[FoundImage] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """By the image's label, why nothing of it was erased."""
    left: list[NotDeleted] = field(default_factory=list)
    deleted: int = 0
    """Objects and versions that are gone."""
    rewritten: int = 0
    """Documents and records."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left of what was to be erased."""
        return not self.refused and not self.left


async def erase(ledger: Ledger, selection: Selection, *, with_images: bool = False) -> Erasure:
    """Erase the images, and with `with_images` the objects themselves and their prompt files. May be repeated."""
    eraser = _Eraser(ledger, selection)
    images = list(selection.images.values())
    if await ledger.info.set_forgotten() and await eraser.has_live_run():
        await asyncio.sleep(2 * PAUSE_RECHECK_SECONDS)  # until every run looks for markers
    await eraser.each(images, eraser.mark)
    selection.close(without=[image.name for image in images if image.label in eraser.result.refused])
    images = list(selection.images.values())
    await eraser.each(images, eraser.delete_inputs)
    await eraser.each(selection.documents, eraser.rewrite)
    await eraser.each(selection.manifests, eraser.rewrite_manifest)
    await eraser.each(images, eraser.erase_jobs)
    await eraser.each([keys.tables_uri(ledger.settings)], eraser.erase_from_tables)
    await eraser.each(images, eraser.delete_outputs)
    if with_images:
        await eraser.each(images, eraser.delete_image)
    result = eraser.result
    result.erased, result.left = images, [*selection.unreadable, *result.left, *eraser.live_runs()]
    return result


class _Eraser:
    def __init__(self, ledger: Ledger, selection: Selection) -> None:
        self._ledger = ledger
        self._selection = selection
        self._since = datetime.now(UTC)
        """When the first of the images was marked as forgotten, maybe by an earlier try."""
        self.result = Erasure()

    async def each(self, things: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Do the work for each; an error is kept, and stops no other."""
        waiting = list(things)
        for start in range(0, len(waiting), AT_ONCE):
            some = waiting[start : start + AT_ONCE]
            for thing, error in zip(some, await asyncio.gather(*map(work, some), return_exceptions=True), strict=True):
                if isinstance(error, I2vError):
                    self.result.left.append(NotDeleted(_uri(thing, self._ledger), str(error)))
                elif error:
                    raise error

    async def has_live_run(self) -> bool:
        """Return whether a run may be working now."""
        prefix, gone = self._ledger.settings.jobs / "runs/", self._ledger.settings.run_gone_seconds
        oldest = await self._ledger.storage.server_time(prefix) - timedelta(seconds=gone)
        entries = [one async for one in self._ledger.storage.list(prefix) if one.last_modified > oldest]
        for entry in entries:
            run = await read_if_valid(self._ledger.storage, RunRecord, entry.uri) if _is_record(entry.uri) else None
            if run and run.ended_at is None:
                return True
        return False

    async def mark(self, image: FoundImage) -> None:
        """Let no run make the image again; refuse it if that fails, or if a job is open or about to be paid."""
        try:
            await self._mark(image)
        except I2vError as error:
            self.result.refused[image.label] = str(error)

    async def _mark(self, image: FoundImage) -> None:
        new = [version for version in image.versions if await self._ledger.forgotten.add(version)]
        old = {one: at for one in image.versions - set(new) if (at := await self._ledger.forgotten.since(one))}
        if why := await why_open(self._ledger, self._selection, image, old):
            self.result.refused[image.label] = why
            for version in new:
                await self._ledger.forgotten.remove(version)
            return
        self._since = min([self._since, *old.values()])

    async def delete_inputs(self, image: FoundImage) -> None:
        """Delete the copies of the image's bytes, unless a paid job of another image still needs one."""
        for uri in image.inputs:
            if uri in self._selection.inputs_in_use:
                self.result.left.append(NotDeleted(uri, IN_USE))
            else:
                await self._delete(uri)

    async def rewrite(self, uri: S3Uri) -> None:
        """Take the images out of a document that names others too, and delete its older versions."""
        name = uri.key.removeprefix(self._ledger.settings.jobs.key)
        (kind,) = [kind for kind in DOCUMENTS if name.startswith(kind.prefix) and name.endswith(kind.ending)]
        await self._rewrite(uri, kind.eraser)

    async def rewrite_manifest(self, uri: S3Uri) -> None:
        """Take out of another image's manifest where its video was copied from."""
        await self._rewrite(uri, erase_from_manifest)

    async def _rewrite(self, uri: S3Uri, eraser: Eraser) -> None:
        while True:
            found, images = await self._ledger.storage.get(uri), dict[str, FoundImage]()
            body = eraser(found.body, self._selection, images)
            if not images:
                return
            try:
                if body != found.body:
                    kind = found.content_type
                    await self._ledger.storage.put(uri, body, content_type=kind, if_match=found.etag)
                    self.result.rewritten += 1
            except Conflict:
                await wait_briefly()
                continue
            await self._delete(uri, keep_latest=True)
            return

    async def erase_jobs(self, image: FoundImage) -> None:
        """Erase the job records: one that another image shares becomes that image's. Older versions go."""
        for key in image.jobs:
            sharers = [one for one in self._selection.sharers.get(key, ()) if not self._is_selected(one)]
            for sharer in sharers:
                await self.rewrite_manifest(sharer.manifest)
            await self._erase_job(key, image, sharers)
            await self._delete(keys.job_uri(self._ledger.settings, key), keep_latest=True)

    async def erase_from_tables(self, tables: S3Uri) -> None:
        """Write the jobs' rows again in the tables beside the ledger, and delete the older versions of their files.

        Raise `UsageError` if there are tables and no pyarrow.
        """
        if [entry async for entry in self._ledger.storage.list(tables)]:
            jobs = {job for image in self._selection.images.values() for job in image.jobs}
            place = own_place(self._ledger.storage, self._ledger.settings)
            for name in await rewrite_jobs(self._ledger, place, jobs):
                self.result.rewritten += 1
                await self._delete(tables / name, keep_latest=True)

    def _is_selected(self, sharer: Sharer) -> bool:
        return self._selection.find((sharer.content.get("image") or {}).get("label")) is not None

    async def _erase_job(self, key: str, image: FoundImage, sharers: list[Sharer]) -> None:
        job = await self._ledger.read(key)
        if job is None or self._selection.find(job.record.image.label) is not image:
            return

        def edit(record: JobRecord) -> JobRecord | None:
            for sharer in sharers:
                content = sharer.content
                other = JobImage.model_validate(content["image"])
                video = StoredVideo.model_validate(content["video"])
                if moved := move(record, other, video, content.get("extra")):
                    return moved
            own = keys.forgotten_image(self._ledger.settings, record.image)
            return forget(record, own, datetime.now(UTC))

        if await self._ledger.change(job, edit):
            self.result.rewritten += 1
        elif (newest := await self._ledger.read(key)) and newest.record.is_open:
            self.result.left.append(NotDeleted(keys.job_uri(self._ledger.settings, key), what_to_do(newest.record)))

    async def delete_outputs(self, image: FoundImage) -> None:
        """Delete videos, posters, manifests and verdicts, and all their versions; first the published copies."""
        for manifest in image.published:
            base = S3Uri(manifest.bucket, manifest.key.removesuffix(".json"))
            for ending in ENDINGS:
                await self._delete(base / ending)
        folder = self._ledger.settings.videos / f"{image.name}/"
        for version in image.versions:
            await self._delete(folder / f"{version[13:]}-", exact=False)

    async def delete_image(self, image: FoundImage) -> None:
        """Delete the image and its prompt file."""
        for uri in (sidecar(image.uri), image.uri) if image.uri else ():
            await self._delete(uri)

    async def _delete(self, uri: S3Uri, *, keep_latest: bool = False, exact: bool = True) -> None:
        gone, left = await delete_all(self._ledger.storage, uri, keep_latest=keep_latest, exact=exact, recursive=exact)
        self.result.deleted += gone
        self.result.left += left

    def live_runs(self) -> list[NotDeleted]:
        """Return the runs that were started before the images were marked, and are not over."""
        if not self.result.deleted + self.result.rewritten:
            return []
        return [NotDeleted(uri, STILL_WORKING) for uri, at in self._selection.live_runs.items() if at < self._since]


def _uri(thing: object, ledger: Ledger) -> S3Uri:
    if isinstance(thing, FoundImage):
        return thing.uri or ledger.settings.videos / f"{thing.name}/"
    return thing if isinstance(thing, S3Uri) else ledger.settings.jobs


def _is_record(uri: S3Uri) -> bool:
    return uri.key.endswith(".json")
