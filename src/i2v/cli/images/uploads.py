"""Validate local images and upload them under the images prefix, where a run finds them.

An existing object is never overwritten. `i2v.cli.images.local_files` finds the files.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from i2v.cli.images.local_files import LocalImage
from i2v.cli.output.progress import Progress
from i2v.errors import Conflict, DecoderStopped, NotFound, Refused, UsageError
from i2v.inputs import prompts
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import PromptSource, RequestOptions
from i2v.ledger import keys
from i2v.ledger.job import JobImage
from i2v.media.decoder import DECODER
from i2v.media.images import MAX_IMAGE_BYTES, ImageFacts, ImageRef, check_size
from i2v.pipeline.video_order import Order
from i2v.pricing import price_usd
from i2v.reports.run_report import ItemReport, Outcome
from i2v.request import Request
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

AT_ONCE = 8
"""Files that are decoded or uploaded concurrently: each may take 20 MB, plus its pixels."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class UploadCandidate:
    """A valid local image."""

    image: LocalImage
    facts: ImageFacts
    request: Request
    prompt_source: PromptSource
    overridden: tuple[str, ...]
    """The names of the run's options that the image's own replace."""
    md5: str
    """The etag of the uploaded object on most servers."""

    @property
    def row(self) -> BatchRow:
        """Return the image as a run's input, with all options set, so that no other place can change them."""
        same = {"prompt_source": self.prompt_source, "extra": self.image.options.extra}
        return BatchRow(image=str(self.image.uri), **self.request.model_dump(), **same)

    def order(self, settings: Settings) -> Order:
        """Return the order that a run would make from the uploaded image, for a preview."""
        uri = self.image.uri
        name = keys.image_name(ImageRef(uri=uri), settings)
        image = JobImage(label=str(uri), name=name, at=uri, etag=self.facts.sha256, facts=self.facts)
        price = price_usd(self.request.mode, self.request.duration, settings.prices_usd)
        return Order(
            image=image,
            request=self.request,
            price_usd=price,
            prompt_source=self.prompt_source,
            overridden=self.overridden,
            extra=dict(self.image.options.extra),
        )


async def validate(
    images: Sequence[LocalImage], default: RequestOptions, settings: Settings, progress: Progress
) -> tuple[list[UploadCandidate], list[ItemReport]]:
    """Read and validate files as a run would. Return the valid ones, and a report item for each refused one.

    Raise `UsageError` if a file cannot be read.
    """

    async def one(image: LocalImage) -> UploadCandidate | ItemReport:
        return await _validate(image, default, settings)

    results = await _for_each(one, images, progress, "reading local images")
    valid = [result for result in results if isinstance(result, UploadCandidate)]
    return valid, [result for result in results if isinstance(result, ItemReport)]


async def _validate(image: LocalImage, default: RequestOptions, settings: Settings) -> UploadCandidate | ItemReport:
    try:
        check_size(image.path.stat().st_size, str(image.path))
        body = await asyncio.to_thread(image.path.read_bytes)
        facts = await DECODER.check_image(body, str(image.path))
        options, ref = _options(image, default, settings), ImageRef(uri=image.uri)
        request = prompts.build_request(options, ref)
        source = options.prompt_source or PromptSource.COLUMN
        overridden = prompts.overridden_options(request, default, ref, settings)
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        return UploadCandidate(image, facts, request, source, overridden, md5)
    except (Refused, DecoderStopped) as error:
        outcome = Outcome.REFUSED if isinstance(error, Refused) else Outcome.FAILED
        extra = dict(image.options.extra)
        return ItemReport(image=str(image.uri), outcome=outcome, reason=str(error), valid=False, extra=extra)
    except OSError as error:
        raise UsageError(f"Cannot read {image.path}: {error.strerror}", "Check its path and permissions") from None


def _options(image: LocalImage, default: RequestOptions, settings: Settings) -> RequestOptions:
    """Return the options of a file, in the order that `i2v.inputs.prompts` describes; files have no metadata."""
    ref = ImageRef(uri=image.uri)
    options = prompts.row_options(image.options, default, ref, settings)
    file = image.path.with_name(image.path.name + prompts.SIDECAR_SUFFIX)
    if options.prompt is None and file.is_file():
        with file.open("rb") as opened:
            prompt = prompts.sidecar_text(opened.read(prompts.SIDECAR_MAX_BYTES + 1), file)
        options = options.over(RequestOptions(prompt=prompt, prompt_source=prompts.PromptSource.SIDECAR))
    return options.over(prompts.default_options(default, ref, settings))


async def upload(storage: Storage, candidates: Sequence[UploadCandidate], progress: Progress) -> None:
    """Upload the files that are not there yet. If a file has several requests, the first becomes its metadata.

    Raise `UsageError` if another image has the key; all such conflicts are found before the first upload.
    """
    first: dict[S3Uri, UploadCandidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.image.uri, candidate)
    files = list(first.values())
    found = await _for_each(partial(_is_uploaded, storage), files, progress, "checking the bucket")
    missing = [file for file, is_uploaded in zip(files, found, strict=True) if not is_uploaded]
    await _for_each(partial(_put, storage), missing, progress, "uploading")


async def _for_each(work: Callable[[T], Awaitable[R]], things: Sequence[T], progress: Progress, stage: str) -> list[R]:
    """Return the result of each, a few at once, and show the progress as a stage."""
    if things:
        progress.doing(stage, len(things))
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(thing: T) -> R:
        async with limit:
            result = await work(thing)
        progress.advance()
        return result

    return await asyncio.gather(*map(one, things))


async def _is_uploaded(storage: Storage, candidate: UploadCandidate) -> bool:
    uri = candidate.image.uri
    try:
        found = await storage.head(uri)
    except NotFound:
        return False
    if found.etag == candidate.md5:
        return True
    if found.size == candidate.facts.size:
        body = (await storage.get(uri, limit=MAX_IMAGE_BYTES)).body
        if hashlib.sha256(body).hexdigest() == candidate.facts.sha256:
            return True
    raise UsageError(
        f"{uri} exists with other content than {candidate.image.path}, and is not overwritten",
        "Rename your file, or put it into a new folder and name the parent of that folder",
    )


async def _put(storage: Storage, candidate: UploadCandidate) -> None:
    uri, facts = candidate.image.uri, candidate.facts
    body = await asyncio.to_thread(candidate.image.path.read_bytes)
    if hashlib.sha256(body).hexdigest() != facts.sha256:
        raise UsageError(f"{candidate.image.path} changed while it was read", "Run it again; nothing was charged")
    columns = candidate.image.options.extra
    metadata = prompts.request_metadata(candidate.request, columns) or prompts.request_metadata(candidate.request)
    if metadata is None:
        await _put_sidecar(storage, candidate)
    try:
        await storage.put(uri, body, content_type=facts.content_type, metadata=metadata, create=True)
    except Conflict:
        await _is_uploaded(storage, candidate)


async def _put_sidecar(storage: Storage, candidate: UploadCandidate) -> None:
    """Upload a prompt that is too long for metadata, before its image, so that no run reads the image without it."""
    uri, text = prompts.sidecar(candidate.image.uri), candidate.request.prompt.encode()
    try:
        await storage.put(uri, text, content_type="text/plain; charset=utf-8", create=True)
    except Conflict:
        if (await storage.get(uri)).body != text:
            raise UsageError(
                f"{uri} exists with another prompt than that of {candidate.image.path}, and is not overwritten",
                "Delete or correct it, or shorten the prompt to about 1,500 characters",
            ) from None
