"""What a command does here before its flow: local files are put, and signed addresses are kept out of Prefect."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from i2v.cli.local import uploads
from i2v.inputs.batch_files import BatchRow
from i2v.s3.storage import Storage

if TYPE_CHECKING:
    from i2v.cli.local.files import LocalImage
    from i2v.cli.local.uploads import UploadCandidate
    from i2v.cli.progress import Progress
    from i2v.inputs.prompts import RequestOptions
    from i2v.reports.run_report import ItemReport
    from i2v.settings import Settings


async def bring_local(
    images: Sequence[LocalImage], default: RequestOptions, settings: Settings, progress: Progress, *, put: bool
) -> tuple[list[UploadCandidate], list[ItemReport]]:
    """Judge local files and put the good ones; those that are refused are told and not put.

    Raises:
        UsageError: a file cannot be read, or another image is there already.
        StorageError: S3 did not answer well.
    """
    if not images:
        return [], []
    progress.doing("reading local images", len(images))
    goods, refused = await uploads.judge(images, default, settings, progress.advance)
    if put and goods:
        progress.doing("uploading", len({good.image.uri for good in goods}))
        with Storage() as storage:
            await uploads.put(storage, goods, progress.advance)
    return goods, refused


@contextmanager
def hidden_queries(images: Sequence[str | BatchRow]) -> Iterator[list[str | BatchRow]]:
    """The same images; URLs with a query, which may be a signature, are named in a file: Prefect keeps parameters."""
    signed = [image for image in images if _has_query(image)]
    if not signed:
        yield list(images)
        return
    rows = [BatchRow(image=image) if isinstance(image, str) else image for image in signed]
    with tempfile.TemporaryDirectory(prefix="i2v-") as folder:
        manifest = Path(folder, "addresses.jsonl")
        manifest.write_text("".join(f"{row.model_dump_json(exclude_none=True)}\n" for row in rows), encoding="utf-8")
        yield [*(image for image in images if not _has_query(image)), str(manifest)]


def _has_query(image: str | BatchRow) -> bool:
    text = image if isinstance(image, str) else image.image
    return not text.startswith("s3://") and "?" in text
