"""Step 1, free: resolve what an image is and what is requested for it, and validate its bytes.

Only an image that passes here may be paid for.
"""

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from i2v.errors import ImageChanged, Refused
from i2v.inputs.prompts import RequestOptions, default_options, options_of_object, row_options
from i2v.inputs.sources import InputItem
from i2v.ledger import keys
from i2v.logs import log_context
from i2v.media.images import MAX_IMAGE_BYTES, ImageFacts, ImageRef, check_size
from i2v.pipeline.context import RunContext
from i2v.s3.objects import S3Object
from i2v.s3_uri import S3Uri
from i2v.telemetry.spans import Attributes, traced

log = logging.getLogger(__name__)
URL_READ_BYTES = 3 * MAX_IMAGE_BYTES
"""How much is read from an image's URL at most: more than the limit, so that a refusal names the size."""
GENERIC_TYPES = {"application/octet-stream", "binary/octet-stream"}
RULES = 3
"""Increment this when a validation rule changes, so that cached results of earlier rules are not used."""


class ResolvedImage(BaseModel):
    """An image version and what is requested for it. Its bytes are not read yet; a URL has no etag before that."""

    model_config = ConfigDict(frozen=True)

    ref: ImageRef
    name: str
    options: RequestOptions
    etag: str | None = None
    version_id: str | None = None
    is_listed: bool = False
    """Whether it is known from a listing only; `refresh_metadata` adds the version and the metadata."""


class ObjectMetadata(BaseModel):
    """What reading an object returned besides its bytes."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    """The run that read it: a cached result of another run may be out of date."""
    metadata: dict[str, str]
    version_id: str | None


class ValidationResult(BaseModel):
    """The facts of a valid image, or why it is refused. A plain value, which Prefect may cache."""

    model_config = ConfigDict(frozen=True)

    etag: str
    at: S3Uri
    """Where the provider fetches the image: the object itself, or our copy of a URL's bytes."""
    facts: ImageFacts | None = None
    refusal: str | None = None
    rule: str = ""
    read: ObjectMetadata | None = None
    read_at: datetime | None = None
    """When the bytes were read, by this host's clock."""
    needs_copy: bool = False
    """Whether the provider must fetch a copy: the key or the stored headers would mislead an HTTP client."""


async def resolve_image(run: RunContext, item: InputItem, default: RequestOptions) -> ResolvedImage:
    """Look up an image and the options of its request: batch file, metadata, sidecar, then the default.

    A listed image that has a prompt already needs no HEAD request: validation reads its metadata.

    Raises:
        NotFound: the image does not exist.
        Refused: its sidecar is not a valid prompt.
        UsageError: the default prompt names an unknown field.
    """
    ref, name = item.ref, keys.image_name(item.ref, run.settings)
    options = row_options(item.options, default, ref, run.settings).over(default_options(default, ref, run.settings))
    if ref.uri is None:
        return ResolvedImage(ref=ref, name=name, options=options)
    if item.etag and options.prompt:
        return ResolvedImage(ref=ref, name=name, options=options, etag=item.etag, is_listed=True)
    found = await run.storage.head(ref.uri)
    options = await _options(run, item, default, found.metadata)
    return ResolvedImage(ref=ref, name=name, options=options, etag=found.etag, version_id=found.version_id)


async def refresh_metadata(
    run: RunContext, item: InputItem, image: ResolvedImage, validation: ValidationResult, default: RequestOptions
) -> ResolvedImage:
    """Add to a listed image its version and the options in its metadata; return any other image unchanged.

    Raise `ImageChanged` if the object is no longer the one that was validated.
    """
    if not image.is_listed or item.ref.uri is None:
        return image
    read = validation.read
    if read is None or read.run_id != run.run_id:
        found = await run.storage.head(item.ref.uri)
        if found.etag != image.etag:
            raise _changed(image)
        read = ObjectMetadata(run_id=run.run_id, metadata=dict(found.metadata), version_id=found.version_id)
    options = await _options(run, item, default, read.metadata)
    return image.model_copy(update={"options": options, "version_id": read.version_id, "is_listed": False})


async def _options(
    run: RunContext, item: InputItem, default: RequestOptions, metadata: Mapping[str, str]
) -> RequestOptions:
    ref, has_sidecar = item.ref, item.may_have_sidecar
    row = row_options(item.options, default, ref, run.settings)
    options = await options_of_object(row, ref, metadata, run.storage, may_have_sidecar=has_sidecar)
    return options.over(default_options(default, ref, run.settings))


def _describe(result: ValidationResult) -> Attributes:
    return {"i2v.valid": bool(result.facts), "i2v.rule": result.rule}


@traced("validate", _describe)
async def validate_image(run: RunContext, image: ResolvedImage) -> ValidationResult:
    """Read an image whole and validate it. A URL's bytes are copied beside the ledger for the provider.

    Raises:
        FetchError: the URL could not be fetched, or must not be.
        DecoderStopped: decoding took too much time or memory.
        ImageChanged: the object is not the one that was resolved.
        StorageError: S3 failed.
    """
    uri = image.ref.uri
    known = run.validated_ahead.pop((uri, image.etag), None) if uri and image.etag else None
    if known:
        result = _as_read_by(run, known)
    else:
        async with run.limits.reading:
            result = await (_validate_url(run, image) if uri is None else _validate_object(run, image, uri))
    log.info("%s: %s", image.name, result.refusal or "valid", extra=log_context(image.ref.label))
    return result


def _as_read_by(run: RunContext, result: ValidationResult) -> ValidationResult:
    read = result.read and result.read.model_copy(update={"run_id": run.run_id})
    return result.model_copy(update={"read": read})


async def _validate_object(run: RunContext, image: ResolvedImage, uri: S3Uri) -> ValidationResult:
    found = await run.storage.get(uri, limit=MAX_IMAGE_BYTES, version_id=image.version_id)
    if found.etag != image.etag:
        raise _changed(image)
    result = await _check(run, found.body, image.ref.label, found.etag, uri, found.size)
    result = result.model_copy(update={"needs_copy": _misleads_clients(found)})
    read = ObjectMetadata(run_id=run.run_id, metadata=dict(found.metadata), version_id=found.version_id)
    return result.model_copy(update={"read": read}) if image.is_listed else result


def _misleads_clients(found: S3Object) -> bool:
    """Return whether an HTTP client that fetches the object may get another key, or not see an image.

    Clients resolve the segments `.` and `..` of a path, and servers merge slashes. The bytes were read as they are
    stored, so no encoding that is stored with them is true.
    """
    kind = found.content_type.partition(";")[0].strip().lower()
    is_unlike_image = bool(kind) and not kind.startswith("image/") and kind not in GENERIC_TYPES
    is_encoded = found.content_encoding.lower() not in {"", "identity"}
    return is_unlike_image or is_encoded or not {"", ".", ".."}.isdisjoint(found.uri.key.split("/"))


async def _validate_url(run: RunContext, image: ResolvedImage) -> ValidationResult:
    fetched = await run.fetcher.fetch_bytes(image.ref.url or "", limit=URL_READ_BYTES)
    digest = hashlib.sha256(fetched.body).hexdigest()
    at = keys.input_uri(run.settings, digest)
    result = await _check(run, fetched.body, image.ref.label, digest, at, len(fetched.body))
    if result.facts and not run.dry_run:
        await run.storage.put(at, fetched.body, content_type=result.facts.content_type)
    return result


async def _check(run: RunContext, body: bytes, label: str, etag: str, at: S3Uri, size: int) -> ValidationResult:
    try:
        check_size(size, label)
        facts = await run.decoder.check_image(body, label)
    except Refused as refusal:
        return ValidationResult(etag=etag, at=at, refusal=str(refusal), rule=refusal.rule)
    return ValidationResult(etag=etag, at=at, facts=facts, read_at=datetime.now(UTC))


def _changed(image: ResolvedImage) -> ImageChanged:
    return ImageChanged(f"{image.ref.label} changed while it was read", "Run again: nothing was paid")
