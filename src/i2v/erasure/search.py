"""Find what belongs to the selected images: `search` fills a `Selection`. It changes nothing.

It reads the whole ledger once, however many images are selected: nothing leads from an image to the jobs, runs and
pages that name it. Add a new object that belongs to an image here.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime

from i2v.erasure.documents import DOCUMENTS, Kind, erase_from_manifest
from i2v.erasure.selection import FoundImage, Selection, Sharer
from i2v.errors import AccessDenied, I2vError, NotFound
from i2v.inputs.image_keys import why_no_image
from i2v.inputs.sources import IMAGE_SUFFIXES
from i2v.ledger import keys
from i2v.ledger.ledger import Ledger
from i2v.pipeline.named_copies.names import image_digest
from i2v.s3.objects import S3Object
from i2v.s3.versions import NotDeleted, ObjectVersion, list_versions
from i2v.s3_uri import S3Uri

log = logging.getLogger(__name__)
READERS = 32
_OUTPUT = re.compile(r"(?P<e12>[0-9a-f]{12})-(?P<r12>[0-9a-f]{12})\.[a-z0-9.-]+")


async def search(ledger: Ledger, selection: Selection) -> None:
    """Find everything; then the selection takes no more images. Raise `StorageError` if a listing fails."""
    await _images(ledger, selection)
    await _records(ledger, selection)
    await _outputs(ledger, selection)
    await _published(ledger, selection)
    for kind in DOCUMENTS:
        await _documents(ledger, selection, kind)
    await _unpaid_inputs(ledger, selection)
    tables = keys.tables_uri(ledger.settings)
    selection.tables = tables if [one async for one in ledger.storage.list(tables)] else None
    selection.close()


async def _images(ledger: Ledger, selection: Selection) -> None:
    """Find the versions of the images themselves, so that none is made again."""
    places = [image.uri for image in selection.images.values() if image.uri]
    for place in [*places, *([selection.prefix] if selection.prefix else [])]:
        async for one in _versions(ledger, place):
            if selection.prefix and not _may_be_image(one.uri, selection):
                continue
            if (image := selection.find(str(one.uri))) and one.etag:
                image.versions.add(keys.version_of(image.name, one.etag))


def _may_be_image(uri: S3Uri, selection: Selection) -> bool:
    return uri.key.lower().endswith(IMAGE_SUFFIXES) and why_no_image(uri, selection.settings) is None


async def _versions(ledger: Ledger, prefix: S3Uri) -> AsyncIterator[ObjectVersion]:
    """Yield all versions, or without the right to list them the newest."""
    try:
        async for one in list_versions(ledger.storage, prefix):
            yield one
    except AccessDenied:
        async for entry in ledger.storage.list(prefix):
            yield ObjectVersion(entry.uri, "", True, entry.etag)


async def _records(ledger: Ledger, selection: Selection) -> None:
    def unreadable(key: str, error: I2vError) -> None:
        uri = keys.job_uri(ledger.settings, key)
        selection.unreadable.append(NotDeleted(uri, f"it cannot be read, and may name an image: {error.message}"))

    async for record in ledger.records(on_error=unreadable):
        copy = keys.input_uri(ledger.settings, record.image.facts.sha256)
        if record.is_open:
            selection.inputs_in_use.add(copy)
        if image := selection.find(record.image.label):
            selection.records[record.key] = record
            image.jobs.add(record.key)
            image.versions.add(keys.version_of(image.name, record.image.etag))
            image.inputs.add(copy)


async def _outputs(ledger: Ledger, selection: Selection) -> None:
    """Find videos, posters, manifests and verdicts, and other images' copies of the same videos."""
    videos, requests = ledger.settings.videos, {record.request.digest12 for record in selection.records.values()}
    etags = {version[13:] for image in selection.images.values() for version in image.versions}
    copies: list[S3Uri] = []
    async for one in _versions(ledger, videos):
        folder, _, file = one.uri.key.removeprefix(videos.key).rpartition("/")
        if not (match := _OUTPUT.fullmatch(file)):
            continue
        if image := selection.find_folder(folder):
            image.outputs += [one.uri] if one.is_latest else []
            image.versions.add(f"{keys.digest12(image.name)}-{match['e12']}")
        elif file.endswith(".json") and one.is_latest and (match["r12"] in requests or match["e12"] in etags):
            copies.append(one.uri)  # equal images may have different etags, for example if they are encrypted
    own = [uri for image in selection.images.values() for uri in image.outputs if uri.key.endswith(".json")]
    await _read_all(ledger, selection, own, lambda found: _read_own(selection, found))
    await _read_all(ledger, selection, copies, lambda found: _read_copy(selection, found))


def _read_own(selection: Selection, found: S3Object) -> None:
    """Take job and copy of the image from its manifest or verdict: the job may have been claimed for another since."""
    content = json.loads(found.body)
    image = selection.find_folder(found.uri.key.removeprefix(selection.settings.videos.key).rpartition("/")[0])
    if image is None:
        return
    if isinstance(job := content.get("job"), str):
        image.jobs.add(job)
    if image.uri is None and re.fullmatch(r"[0-9a-f]{64}", etag := str(content.get("etag", ""))):
        image.inputs.add(keys.input_uri(selection.settings, etag))


def _read_copy(selection: Selection, found: S3Object) -> None:
    content, copied = json.loads(found.body), dict[str, FoundImage]()
    record = selection.records.get(content.get("job", ""))
    if record and (image := selection.find(record.image.label)) and "video" in content:
        selection.sharers.setdefault(record.key, []).append(Sharer(found.uri, content))
        image.shared_with.add(str((content.get("image") or {}).get("label")))
    elif erase_from_manifest(found.body, selection, copied) and copied:
        selection.manifests.append(found.uri)


async def _published(ledger: Ledger, selection: Selection) -> None:
    """Find what is published under names of `I2V_PUBLISH_AS`: each manifest there names its image."""
    if ledger.settings.published is None:
        return

    def read(found: S3Object) -> None:
        manifest, copied = json.loads(found.body), dict[str, FoundImage]()
        if image := selection.find((manifest.get("image") or {}).get("label")):
            image.published.append(found.uri)
        elif erase_from_manifest(found.body, selection, copied) and copied:
            selection.manifests.append(found.uri)

    place = ledger.settings.published
    try:
        listed = [one.uri async for one in ledger.storage.list(place)]
    except I2vError as error:  # it may be another bucket
        selection.unreadable.append(NotDeleted(place, f"published copies cannot be listed: {error}"))
        return
    manifests = [uri for uri in listed if uri.key.endswith(".json")]
    await _read_all(ledger, selection, manifests, read)
    whole = {_without_ending(uri) for uri in manifests}
    await _half_published(ledger, selection, [uri for uri in listed if _without_ending(uri) not in whole])


async def _half_published(ledger: Ledger, selection: Selection, files: Sequence[S3Uri]) -> None:
    """Find copies without a manifest, left by a run that died: their metadata names the image."""
    images = {image_digest(image.label): image for image in selection.images.values()}
    for start in range(0, len(files), READERS):
        some = files[start : start + READERS]
        for uri, digest in zip(some, await asyncio.gather(*(_image_of(ledger, uri) for uri in some)), strict=True):
            manifest = S3Uri(uri.bucket, _without_ending(uri) + ".json")
            if (image := images.get(digest)) and manifest not in image.published:
                image.published.append(manifest)


async def _image_of(ledger: Ledger, uri: S3Uri) -> str:
    try:
        return (await ledger.storage.head(uri)).metadata.get("image", "")
    except (NotFound, AccessDenied):  # another program's file
        return ""


def _without_ending(uri: S3Uri) -> str:
    return uri.key.rpartition(".")[0]


async def _documents(ledger: Ledger, selection: Selection, kind: Kind) -> None:
    prefix = ledger.settings.jobs / kind.prefix
    uris = [entry.uri async for entry in ledger.storage.list(prefix) if entry.uri.key.endswith(kind.ending)]

    def read(found: S3Object) -> None:
        images: dict[str, FoundImage] = {}
        kind.eraser(found.body, selection, images)
        for image in images.values():
            image.documents += 1
        if images:
            selection.documents.append(found.uri)
        if kind.ending == ".json" and kind.prefix == "runs/":
            _note_live_run(ledger, selection, found)

    await _read_all(ledger, selection, uris, read)


async def _unpaid_inputs(ledger: Ledger, selection: Selection) -> None:
    """Find the copies of images that no job has paid for: with the image's request, the hash gives the job's key."""
    wanted = [
        (job, request, image)
        for image in selection.images.values()
        for job, request in image.requests.items()
        if job not in selection.records
    ]
    if not wanted:
        return
    async for entry in ledger.storage.list(ledger.settings.jobs / "inputs/"):
        sha256 = entry.uri.key.rpartition("/")[2]
        for job, request, image in wanted:
            if request.job_key(sha256) == job:
                image.inputs.add(entry.uri)


def _note_live_run(ledger: Ledger, selection: Selection, found: S3Object) -> None:
    run = json.loads(found.body)
    if run.get("ended_at") is None and found.age_seconds <= ledger.settings.run_gone_seconds:
        selection.live_runs[found.uri] = datetime.fromisoformat(run["started_at"])


async def _read_all(
    ledger: Ledger, selection: Selection, uris: Sequence[S3Uri], use: Callable[[S3Object], None]
) -> None:
    """Read many objects; one that has gone is skipped, and one that cannot be read stops no other."""

    async def read(uri: S3Uri) -> S3Object | I2vError:
        try:
            return await ledger.storage.get(uri)
        except I2vError as error:
            return error

    for start in range(0, len(uris), READERS):
        some = uris[start : start + READERS]
        reads: list[Awaitable[S3Object | I2vError]] = [read(uri) for uri in some]
        for uri, found in zip(some, await asyncio.gather(*reads), strict=True):
            try:
                if isinstance(found, S3Object):
                    use(found)
                elif not isinstance(found, NotFound):
                    raise found
            except (I2vError, ValueError, LookupError, TypeError, AttributeError) as error:
                log.debug("%s cannot be read: %r", uri, error)
                why = error.message if isinstance(error, I2vError) else "it is not a document of i2v"
                documents = ledger.settings.jobs.holds(uri)
                selection.unreadable += [NotDeleted(uri, f"it cannot be read: {why}")] if documents else []
