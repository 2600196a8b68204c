"""The proof that a server honors conditional writes, on which the ledger relies: `prove_conditional_writes`."""

import asyncio
import random

from i2v.errors import Conflict, StorageError
from i2v.s3.etags import WRONG_ETAG, EtagForm
from i2v.s3.failures import NEEDS_CONDITIONS, refuses_etag_form
from i2v.s3.objects import S3Object
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri

_TRIES = 10
"""How often an object is tried that others change meanwhile."""


async def prove_conditional_writes(storage: Storage, uri: S3Uri) -> None:
    """Write an object over itself to find out which conditions the server honors, and keep the form of ETags.

    A form is good if the server accepts the object's own ETag in it and rejects a wrong one. Raise `StorageError` if
    there is none.
    """
    found = await storage.get(uri)
    if await _refusal(storage, found, None, EtagForm.QUOTED) is None:
        raise StorageError("The S3 server ignores conditional writes (IfNoneMatch)", NEEDS_CONDITIONS)
    ignores, refusal = False, None
    for form in EtagForm:
        if await _refusal(storage, found, WRONG_ETAG, form) is None:
            ignores = True
        elif (refusal := await _own_etag_refusal(storage, uri, form)) is None:
            storage.etag_form = form
            return
    if ignores:
        raise StorageError("The S3 server ignores conditional writes (IfMatch)", NEEDS_CONDITIONS)
    message = f"The S3 server refuses an object's own ETag in If-Match: {refusal.message if refusal else ''}"
    raise StorageError(message.removesuffix(": another writer was first"), NEEDS_CONDITIONS)


async def _own_etag_refusal(storage: Storage, uri: S3Uri, form: EtagForm) -> StorageError | None:
    """Return why the server rejects the object's own ETag; `None` if it accepts it.

    One refusal is not enough: other runs write the object too, and boto3 repeats a write whose answer was lost.
    """
    refusal: StorageError | None = None
    etag = ""
    for _ in range(_TRIES):
        found = await storage.get(uri)
        is_again, etag = found.etag == etag, found.etag
        refusal = await _refusal(storage, found, etag, form)
        if refusal is None or is_again:
            break
        await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - jitter, not a secret
    return refusal


async def _refusal(storage: Storage, found: S3Object, etag: str | None, form: EtagForm) -> StorageError | None:
    """Write an object over itself on a condition; return why the server rejects it."""
    try:
        await storage.put(
            found.uri,
            found.body,
            content_type=found.content_type,
            metadata=found.metadata,
            create=etag is None,
            if_match=etag,
            etag_form=form,
        )
    except StorageError as error:
        if isinstance(error, Conflict) or (etag and refuses_etag_form(error)):
            return error
        raise
    return None
