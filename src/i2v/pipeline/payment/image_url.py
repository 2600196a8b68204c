"""The URL from which the provider fetches an image: the object itself, or a copy of it beside the ledger."""

from i2v.errors import NotFound, NotTried
from i2v.ledger import keys
from i2v.ledger.job import JobImage
from i2v.media.images import MAX_IMAGE_BYTES
from i2v.pipeline.context import RunContext
from i2v.s3_uri import S3Uri

GONE = "Not submitted: the image was deleted after it was validated"
REPLACED = "Not submitted: the image was replaced after it was validated"
AGAIN = "Run again for the new image"


async def image_url(run: RunContext, image: JobImage, *, copied: bool) -> str:
    """Return a presigned URL that answers with the image's own content type.

    With `copied`, copy the image first: its key or stored headers would mislead an HTTP client. Raise `NotTried` if it
    is no longer the one that was validated.
    """
    at, version_id = (await _copy(run, image), None) if copied else (image.at, image.version_id)
    seconds, content_type = run.settings.image_url_seconds, image.facts.content_type
    return await run.storage.presign(at, seconds=seconds, version_id=version_id, content_type=content_type)


async def _copy(run: RunContext, image: JobImage) -> S3Uri:
    try:
        found = await run.storage.get(image.at, limit=MAX_IMAGE_BYTES, version_id=image.version_id)
    except NotFound:
        raise NotTried(GONE) from None
    if found.etag != image.etag:
        raise NotTried(REPLACED, AGAIN)
    at = keys.input_uri(run.settings, image.facts.sha256)
    await run.storage.put(at, found.body, content_type=image.facts.content_type)
    return at
