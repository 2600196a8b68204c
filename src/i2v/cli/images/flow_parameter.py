"""The flow's parameter `images`, without signed URLs and within the size that Prefect accepts.

Prefect stores and shows parameters, so what must not be there goes into a batch file.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from i2v.inputs.batch_files import BatchRow
from i2v.s3.storage import Storage
from i2v.settings import Settings

MAX_BYTES = 200_000
"""Prefect accepts 512 KB of parameters; uploaded images beyond this go into a batch file in the bucket."""


@contextmanager
def without_signed_urls(images: Sequence[str | BatchRow]) -> Iterator[list[str | BatchRow]]:
    """Yield the images, with URLs that have a query (it may be a signature) moved to a temporary batch file."""
    signed = [image for image in images if _has_query(image)]
    if not signed:
        yield list(images)
        return
    rows = [BatchRow(image=image) if isinstance(image, str) else image for image in signed]
    with tempfile.TemporaryDirectory(prefix="i2v-") as folder:
        file = Path(folder, "urls.jsonl")
        file.write_bytes(_as_jsonl(rows))
        yield [*(image for image in images if not _has_query(image)), str(file)]


def _has_query(image: str | BatchRow) -> bool:
    text = image if isinstance(image, str) else image.image
    return not text.startswith("s3://") and "?" in text


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
