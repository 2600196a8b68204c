"""Local files of a command: judged with progress, and put where the flow takes them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from i2v import local_uploads
from i2v.storage import Storage

if TYPE_CHECKING:
    from i2v.cli.progress import Progress
    from i2v.local_files import LocalImage
    from i2v.local_uploads import Good
    from i2v.prompts import Asked
    from i2v.report import ItemReport
    from i2v.settings import Settings


async def bring_local(
    images: Sequence[LocalImage], default: Asked, settings: Settings, progress: Progress, *, put: bool
) -> tuple[list[Good], list[ItemReport]]:
    """Judge local files and put the good ones; those that are refused are told and not put.

    Raises:
        UsageError: a file cannot be read, or another image is there already.
        StorageError: S3 did not answer well.
    """
    if not images:
        return [], []
    progress.doing("reading local images", len(images))
    goods, refused = await local_uploads.judge(images, default, settings, progress.advance)
    if put and goods:
        progress.doing("uploading", len({good.image.uri for good in goods}))
        with Storage() as storage:
            await local_uploads.put(storage, goods, progress.advance)
    return goods, refused
