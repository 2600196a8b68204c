"""The step that costs nothing: `resolve_image` at an image, `validate_image` it whole, and make an `Order` of it.

Only what comes through here may be paid for.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from i2v.errors import ImageChanged, Refused, UsageError
from i2v.inputs.prompts import (
    RequestOptions,
    build_request,
    default_options,
    options_of_object,
)
from i2v.inputs.sources import InputItem
from i2v.ledger import keys
from i2v.ledger.job import JobImage
from i2v.logs import log_context
from i2v.media.images import MAX_IMAGE_BYTES, ImageFacts, ImageRef, check_image, check_size
from i2v.pipeline.run import Run
from i2v.pipeline.submit import Order
from i2v.pricing import price_usd
from i2v.request import Request
from i2v.s3.objects import S3Object
from i2v.s3_uri import S3Uri

log = logging.getLogger(__name__)
URL_READ_BYTES = 3 * MAX_IMAGE_BYTES
"""An image of a URL is read so far, so that one that is too large is refused with its size."""
RULES = 1
"""Rises when a rule of validation changes, so that no result of earlier rules is taken from a cache."""


class ResolvedImage(BaseModel):
    """An image version, and what is asked for it; not yet read. Of a URL only reading tells the etag.

    Of a listed one `refresh_metadata` tells version and metadata, and with them all that is asked.
    """

    model_config = ConfigDict(frozen=True)

    ref: ImageRef
    name: str
    asked: RequestOptions
    etag: str | None = None
    version_id: str | None = None
    is_listed: bool = False
    """Whether only a listing was asked so far."""


class ValidationResult(BaseModel):
    """What validation found: facts, or why the image is refused. A plain value, so that it may be cached."""

    model_config = ConfigDict(frozen=True)

    etag: str
    at: S3Uri
    facts: ImageFacts | None = None
    refusal: str | None = None
    rule: str = ""


async def resolve_image(run: Run, item: InputItem, default: RequestOptions) -> ResolvedImage:
    """Ask S3 what an image is and gather what is asked for it: manifest, metadata, sidecar, then a default.

    One that was listed, and has a prompt in any case, is not asked for: reading it whole tells as much.

    Raises:
        NotFound: there is no such image.
        Refused: its sidecar cannot be read as a prompt.
        UsageError: the run's prompt names an unknown field.
        StorageError: S3 did not answer well.
    """
    ref, name = item.ref, keys.image_name(item.ref, run.settings)
    asked = item.options.over(default_options(default, ref, run.settings))
    if ref.uri is None:
        return ResolvedImage(ref=ref, name=name, asked=asked)
    if item.etag and asked.prompt:
        return ResolvedImage(ref=ref, name=name, asked=asked, etag=item.etag, is_listed=True)
    return await _seen(run, item, default, await run.storage.head(ref.uri))


async def refresh_metadata(run: Run, item: InputItem, seen: ResolvedImage, default: RequestOptions) -> ResolvedImage:
    """Of a listed image that was checked, what only asking for it tells. What `resolve_image` asked for stays as it is.

    Raises:
        ImageChanged: it is no longer what was checked.
        NotFound, Refused, StorageError: as `resolve_image`.
    """
    if not seen.is_listed or item.ref.uri is None:
        return seen
    found = run.read.pop(item.ref.uri, None)  # there is none where a cache knew the verdict
    found = found or await run.storage.head(item.ref.uri)
    if found.etag != seen.etag:
        raise _changed(seen)
    return await _seen(run, item, default, found)


async def _seen(run: Run, item: InputItem, default: RequestOptions, found: S3Object) -> ResolvedImage:
    ref, has_sidecar = item.ref, item.may_have_sidecar
    asked = await options_of_object(item.options, ref, found.metadata, run.storage, may_have_sidecar=has_sidecar)
    return ResolvedImage(
        ref=ref,
        name=keys.image_name(ref, run.settings),
        asked=asked.over(default_options(default, ref, run.settings)),
        etag=found.etag,
        version_id=found.version_id,
    )


async def validate_image(run: Run, seen: ResolvedImage) -> ValidationResult:
    """Read an image whole and judge it. A URL's bytes are put beside the ledger, where the provider fetches them.

    Raises:
        FetchError: the URL could not be fetched, or may not be.
        ImageChanged: it is another one than was looked at.
        StorageError: S3 did not answer well.
    """
    async with run.reading:
        uri = seen.ref.uri
        checked = await (_check_url(run, seen) if uri is None else _check_object(run, seen, uri))
    log.info("%s: %s", seen.name, checked.refusal or "valid", extra=log_context(seen.ref.label))
    return checked


async def _check_object(run: Run, seen: ResolvedImage, uri: S3Uri) -> ValidationResult:
    found = await run.storage.get(uri, limit=MAX_IMAGE_BYTES, version_id=seen.version_id)
    if found.etag != seen.etag:
        raise _changed(seen)
    if seen.is_listed:
        run.read[uri] = replace(found, body=b"")
    return await _judge(found.body, seen.ref.label, found.etag, uri, found.size)


def _changed(seen: ResolvedImage) -> ImageChanged:
    return ImageChanged(f"{seen.ref.label} changed while it was read", "Run again: nothing was paid")


async def _check_url(run: Run, seen: ResolvedImage) -> ValidationResult:
    fetched = await run.fetcher.fetch_bytes(seen.ref.url or "", limit=URL_READ_BYTES)
    digest = hashlib.sha256(fetched.body).hexdigest()
    at = keys.input_uri(run.settings, digest)
    checked = await _judge(fetched.body, seen.ref.label, digest, at, len(fetched.body))
    if checked.facts and not run.dry_run:
        await run.storage.put(at, fetched.body, content_type=checked.facts.content_type)
    return checked


async def _judge(body: bytes, label: str, etag: str, at: S3Uri, size: int) -> ValidationResult:
    try:
        check_size(size, label)
        facts = await asyncio.to_thread(check_image, body, label)
    except Refused as refusal:
        return ValidationResult(etag=etag, at=at, refusal=str(refusal), rule=refusal.rule)
    return ValidationResult(etag=etag, at=at, facts=facts)


def make_request(seen: ResolvedImage) -> Request:
    """What is asked of the provider for this image.

    Raises:
        Refused: the prompt is missing or too long.
    """
    try:
        return build_request(seen.asked, seen.ref)
    except UsageError as error:
        raise Refused(error.message, error.hint, "request") from None


def make_order(run: Run, seen: ResolvedImage, checked: ValidationResult, request: Request) -> Order:
    """Price a valid image's request."""
    assert checked.facts is not None  # noqa: S101 - for the type checker: refused images do not come here
    image = JobImage(
        label=seen.ref.label,
        name=seen.name,
        at=checked.at,
        etag=checked.etag,
        version_id=seen.version_id,
        facts=checked.facts,
    )
    price = price_usd(request.mode, request.duration, run.settings.prices_usd)
    return Order(image=image, request=request, price_usd=price, label=run.record.label)
