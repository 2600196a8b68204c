"""The flow's parameter `images`: without signed URLs, and within the size that Prefect accepts.

Prefect stores and shows parameters, so signed URLs and long lists go into a batch file instead.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from i2v.inputs.batch_files import BatchRow
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from i2v.urls import is_signed

MAX_BYTES = 200_000
"""Prefect accepts 512 KB of parameters; a longer list of images goes into a batch file in the bucket."""


@contextmanager
def without_signed_urls(images: Sequence[str | BatchRow]) -> Iterator[list[str | BatchRow]]:
    """Yield the images; URLs with a query or a user, which may be secret, are moved to a temporary batch file."""
    signed = [BatchRow(image=image) if isinstance(image, str) else image for image in images if _may_be_signed(image)]
    if not signed:
        yield list(images)
        return
    with tempfile.NamedTemporaryFile(prefix="i2v-", suffix=".jsonl") as file:
        file.write(_as_jsonl(signed))
        file.flush()
        yield [*(image for image in images if not _may_be_signed(image)), file.name]


def _may_be_signed(image: str | BatchRow) -> bool:
    text = image if isinstance(image, str) else image.image
    return not text.startswith("s3://") and ("?" in text or is_signed(text))


async def within_limit(rows: Sequence[BatchRow], storage: Storage, settings: Settings) -> list[str | BatchRow]:
    """Return the rows, or the URI of a batch file with them (under the jobs prefix) if they are too large."""
    if len(_as_jsonl(rows)) <= MAX_BYTES:
        return list(rows)
    return [str(await _put_rows(rows, storage, settings))]


async def in_bucket(
    images: Sequence[str | BatchRow], storage: Storage, settings: Settings
) -> list[str | dict[str, Any]]:
    """Return the images as workers can read them.

    If a URL may be secret or the list is long, rows and URLs go into a batch file in the bucket.
    """
    rows = [BatchRow(image=image) if isinstance(image, str) else image for image in images]
    if not any(map(_may_be_signed, images)) and len(_as_jsonl(rows)) <= MAX_BYTES:
        return [one if isinstance(one, str) else one.model_dump(mode="json", exclude_none=True) for one in images]
    plain = [image for image in images if _is_s3(image)]
    moved = [row for row, image in zip(rows, images, strict=True) if not _is_s3(image)]
    return [*map(str, plain), str(await _put_rows(moved, storage, settings))]


def _is_s3(image: str | BatchRow) -> bool:
    """Return whether it is an object, a prefix or a batch file, which no row can name."""
    return isinstance(image, str) and image.startswith("s3://")


async def _put_rows(rows: Sequence[BatchRow], storage: Storage, settings: Settings) -> S3Uri:
    body = _as_jsonl(rows)
    uri = settings.jobs / f"inputs/{hashlib.sha256(body).hexdigest()}.jsonl"
    await storage.put(uri, body, content_type="application/x-ndjson")
    return uri


def _as_jsonl(rows: Sequence[BatchRow]) -> bytes:
    return "".join(f"{row.model_dump_json(exclude_none=True)}\n" for row in rows).encode()
