"""Reading and conditionally writing the ledger's JSON documents. Keep out what is in them."""

import asyncio
import json
import logging
import random
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from i2v.errors import LedgerError, NotFound
from i2v.ledger.job import FORMAT
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)


class Document(NamedTuple, Generic[M]):
    """A document, and its version and age by S3's clock when it was read."""

    content: M
    etag: str
    age_seconds: float


async def read_document(storage: Storage, model: type[M], uri: S3Uri) -> Document[M] | None:
    """Return a document, or `None` if there is none. Raise as `parse_document` does."""
    try:
        found = await storage.get(uri)
    except NotFound:
        return None
    return Document(parse_document(model, found.body, uri), found.etag, found.age_seconds)


async def read_if_valid(storage: Storage, model: type[M], uri: S3Uri, *, limit: int | None = None) -> M | None:
    """Return a document, or `None` if it is missing, has more than `limit` bytes or cannot be parsed."""
    try:
        return model.model_validate_json((await storage.get(uri, limit=limit)).body)
    except NotFound:
        return None
    except ValidationError:
        log.warning("skipping %s: it cannot be read", uri)
        return None


async def write_document(storage: Storage, document: BaseModel, uri: S3Uri, etag: str | None) -> str:
    """Replace the version with this etag, or create the document if `etag` is `None`; return the new etag.

    Raise `Conflict` if another write came first. After another `StorageError` the document may or may not be written.
    """
    body = document.model_dump_json(indent=1).encode()
    return await storage.put(uri, body, content_type="application/json", create=etag is None, if_match=etag)


def parse_document(model: type[M], body: bytes, uri: S3Uri) -> M:
    """Parse a document. Raise `LedgerError` if it is invalid or a newer i2v wrote it."""
    try:
        data = json.loads(body)
        if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
            raise LedgerError(f"{uri} has format {data['format']}, this i2v reads up to {FORMAT}", "Upgrade i2v")
        return model.model_validate(data)
    except (ValueError, RecursionError) as error:
        message = f"{uri} cannot be read: {type(error).__name__}"
        raise LedgerError(message, "Restore an earlier version; never delete it") from None


async def wait_briefly() -> None:
    """Wait before the next try after a conflict."""
    await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - jitter, not a secret
