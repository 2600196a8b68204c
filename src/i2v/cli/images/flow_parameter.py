"""The flow's parameter `images`: without signed URLs, and within the size that Prefect accepts.

Prefect stores and shows parameters, so signed URLs and long lists go into a batch file instead.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from i2v.inputs.batch_files import BatchRow
from i2v.s3.storage import Storage
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
    body = _as_jsonl(rows)
    if len(body) <= MAX_BYTES:
        return list(rows)
    uri = settings.jobs / f"inputs/{hashlib.sha256(body).hexdigest()}.jsonl"
    await storage.put(uri, body, content_type="application/x-ndjson")
    return [str(uri)]


def _as_jsonl(rows: Sequence[BatchRow]) -> bytes:
    return "".join(f"{row.model_dump_json(exclude_none=True)}\n" for row in rows).encode()
