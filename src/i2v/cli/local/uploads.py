"""Local images on their way into the bucket: judged, then put under the images prefix, where the flow takes them up.

An object that is there already is never overwritten. How files are found is in `i2v.cli.local.files`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from i2v.cli.local.files import LocalImage
from i2v.errors import Conflict, I2vError, NotFound, Refused, UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import (
    SIDECAR_MAX_BYTES,
    SIDECAR_SUFFIX,
    RequestOptions,
    build_request,
    default_template,
    render_prompt,
    request_metadata,
    sidecar,
    sidecar_text,
)
from i2v.ledger import keys
from i2v.ledger.job import JobImage
from i2v.media.images import MAX_IMAGE_BYTES, ImageFacts, ImageRef, check_image, check_size
from i2v.pipeline import outcomes
from i2v.pipeline.run import Run
from i2v.pipeline.submit import Order
from i2v.pricing import price_usd
from i2v.reports.run_report import ItemReport, Outcome
from i2v.request import Request
from i2v.s3.storage import Storage
from i2v.settings import Settings

AT_ONCE = 8
"""Files that are read and decoded, or put, at once: each may take 20 MB and its pixels."""
Tell = Callable[[], None]


@dataclass(frozen=True, slots=True)
class UploadCandidate:
    """A local image that the provider would take."""

    image: LocalImage
    facts: ImageFacts
    request: Request
    md5: str
    """What most servers give as the etag of an object that was put whole."""

    @property
    def row(self) -> BatchRow:
        """How a run takes it up once it is put: with all that is asked, so that no metadata there says otherwise."""
        return BatchRow(image=str(self.image.uri), **self.request.model_dump())

    def order(self, settings: Settings) -> Order:
        """What it would be in a run, for a job that is only foreseen."""
        uri = self.image.uri
        name = keys.image_name(ImageRef(uri=uri), settings)
        image = JobImage(label=str(uri), name=name, at=uri, etag=self.facts.sha256, facts=self.facts)
        price = price_usd(self.request.mode, self.request.duration, settings.prices_usd)
        return Order(image=image, request=self.request, price_usd=price)


async def judge(
    images: Sequence[LocalImage], default: RequestOptions, settings: Settings, tell: Tell
) -> tuple[list[UploadCandidate], list[ItemReport]]:
    """Read and judge files as a run would; those that would be refused need not be put.

    Args:
        images: the files.
        default: what is asked where neither a manifest nor a text file beside the image says it.
        settings: the environment.
        tell: called after each.

    Returns:
        The good ones, and a line of the report for each that is refused.

    Raises:
        UsageError: a file cannot be read.
    """
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(image: LocalImage) -> UploadCandidate | ItemReport:
        async with turn:
            judged = await asyncio.to_thread(_judge, image, default, settings)
        tell()
        return judged

    judged = await asyncio.gather(*(one(image) for image in images))
    return [each for each in judged if isinstance(each, UploadCandidate)], [
        e for e in judged if isinstance(e, ItemReport)
    ]


def _judge(image: LocalImage, default: RequestOptions, settings: Settings) -> UploadCandidate | ItemReport:
    try:
        check_size(image.path.stat().st_size, str(image.path))
        body = image.path.read_bytes()
        facts = check_image(body, str(image.path))
        request = build_request(_asked(image, default, settings), ImageRef(uri=image.uri))
        return UploadCandidate(image, facts, request, hashlib.md5(body, usedforsecurity=False).hexdigest())
    except Refused as refusal:
        return ItemReport(image=str(image.uri), outcome=Outcome.REFUSED, reason=str(refusal), valid=False)
    except OSError as error:
        raise UsageError(f"{image.path} cannot be read: {error.strerror}", "Check the file and its rights") from None


def _asked(image: LocalImage, default: RequestOptions, settings: Settings) -> RequestOptions:
    """The manifest's row, else the text file beside the image, else what was typed, else the settings' prompt."""
    ref = ImageRef(uri=image.uri)
    template = default.prompt or default_template(ref, settings)
    prompt = render_prompt(template, ref, settings.images) if template else None
    beside = image.path.with_name(image.path.name + SIDECAR_SUFFIX)
    if beside.is_file():
        with beside.open("rb") as file:
            prompt = sidecar_text(file.read(SIDECAR_MAX_BYTES + 1), beside) or prompt
    return image.asked.over(default.model_copy(update={"prompt": prompt}))


async def preview(run: Run, good: UploadCandidate) -> ItemReport:
    """What a run would make of a local image, were it put."""
    order = good.order(run.settings)
    try:
        return await outcomes.preview(run, order)
    except I2vError as error:
        return outcomes.of_error(run, str(good.image.uri), error, order)


async def put(storage: Storage, goods: Sequence[UploadCandidate], tell: Tell) -> None:
    """Put files where they are not yet. All places are looked at first, so that a conflict leaves nothing half done.

    Args:
        storage: S3.
        goods: what to put; of several requests for one file the first becomes its metadata.
        tell: called after each file.

    Raises:
        UsageError: another image is there already; it is not touched.
        StorageError: S3 did not answer well.
    """
    firsts = list({good.image.uri: good for good in reversed(goods)}.values())[::-1]
    turn = asyncio.Semaphore(AT_ONCE)

    async def look(good: UploadCandidate) -> bool:
        async with turn:
            return await _is_there(storage, good)

    async def bring(good: UploadCandidate, *, there: bool) -> None:
        async with turn:
            if not there:
                await _put_one(storage, good)
            tell()

    found = await asyncio.gather(*(look(good) for good in firsts))
    await asyncio.gather(*(bring(good, there=there) for good, there in zip(firsts, found, strict=True)))


async def _is_there(storage: Storage, good: UploadCandidate) -> bool:
    uri = good.image.uri
    try:
        there = await storage.head(uri)
    except NotFound:
        return False
    if there.etag == good.md5 or (there.size == good.facts.size and await _is_equal(storage, good)):
        return True
    raise UsageError(
        f"{uri} holds another image than {good.image.path}, and is not overwritten",
        "Rename your file, or put it into a folder of its own and name the folder above it",
    )


async def _is_equal(storage: Storage, good: UploadCandidate) -> bool:
    body = (await storage.get(good.image.uri, limit=MAX_IMAGE_BYTES)).body
    return hashlib.sha256(body).hexdigest() == good.facts.sha256


async def _put_one(storage: Storage, good: UploadCandidate) -> None:
    body = await asyncio.to_thread(good.image.path.read_bytes)
    if hashlib.sha256(body).hexdigest() != good.facts.sha256:
        raise UsageError(f"{good.image.path} changed while it was read", "Run again: nothing was paid")
    metadata = request_metadata(good.request)
    if metadata is None:
        await _put_sidecar(storage, good)
    try:
        await storage.put(good.image.uri, body, content_type=good.facts.content_type, metadata=metadata, create=True)
    except Conflict:
        await _is_there(storage, good)


async def _put_sidecar(storage: Storage, good: UploadCandidate) -> None:
    """A prompt that is too long for the metadata, before its image, so that a door never sees the image without."""
    place, text = sidecar(good.image.uri), good.request.prompt.encode()
    try:
        await storage.put(place, text, content_type="text/plain; charset=utf-8", create=True)
    except Conflict:
        if (await storage.get(place)).body != text:
            raise UsageError(
                f"{place} holds another prompt than the one for {good.image.path}, and is not overwritten",
                "Remove or correct it, or shorten the prompt to some 1,500 characters",
            ) from None


async def keep_rows(storage: Storage, settings: Settings, rows: Sequence[BatchRow]) -> str:
    """Put rows as a manifest beside the ledger, for a run that names more than Prefect takes as a parameter.

    Raises:
        StorageError: S3 did not answer well.
    """
    lines = [row.model_dump_json(exclude_none=True) for row in rows]
    body = "\n".join(lines).encode()
    place = settings.jobs / f"inputs/{hashlib.sha256(body).hexdigest()}.jsonl"
    await storage.put(place, body, content_type="application/x-ndjson")
    return str(place)
