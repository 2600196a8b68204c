"""One conditional write, until it is clear whether its condition holds: `put_if`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from i2v.errors import Conflict, NotFound, StorageError
from i2v.s3.etags import EtagForm
from i2v.s3.failures import refuses_etag_form
from i2v.s3_uri import S3Uri

if TYPE_CHECKING:
    from i2v.s3.storage import Storage

WAITS = (0.05, 0.2, 0.8, 0.0)
"""Seconds after a write that S3 refused although its condition holds, as it may during another write."""


async def put_if(storage: Storage, uri: S3Uri, send: Callable[..., str], etag: str | None) -> str:
    """Write over the version with this etag, or if there is no object; `send` takes the condition.

    Raise `Conflict` only if there is another object. If the condition holds, try again, and in other forms of the etag
    where none is proven; then raise `StorageError`, since the caller would find nothing new.
    """
    proven = storage.etag_form or EtagForm.QUOTED
    forms = (proven, proven, *(EtagForm if etag and storage.etag_form is None else (proven, proven)))
    refusal: StorageError | None = None
    for form, wait in zip(forms, WAITS, strict=False):
        try:
            return await storage.call(uri, send, **condition(etag, form))
        except StorageError as error:
            is_unclear = isinstance(error, Conflict) or (etag and not storage.etag_form and refuses_etag_form(error))
            if not is_unclear or not await _has_etag(storage, uri, etag):
                raise
            refusal = error
        await asyncio.sleep(wait)
    refused = refusal.message.partition(": ")[0] if refusal else ""
    message = f"S3 refuses to write {uri} although nothing changed there: {refused}"
    raise StorageError(message, "docs/s3.md lists servers whose conditional writes work") from refusal


def condition(etag: str | None, form: EtagForm) -> dict[str, str]:
    """Return the condition of a write as arguments of boto3."""
    return {"IfNoneMatch": "*"} if etag is None else {"IfMatch": form.of(etag)}


async def _has_etag(storage: Storage, uri: S3Uri, etag: str | None) -> bool:
    """Return whether the object has this etag; with `None`, whether there is none. Raise `NotFound` as S3 does."""
    try:
        return (await storage.head(uri)).etag == etag
    except NotFound:
        if etag is None:
            return True
        raise
    except StorageError:
        return False
