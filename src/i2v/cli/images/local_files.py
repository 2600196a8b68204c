"""Find the local images that are named on a command line, and the key that each will have in the bucket.

`i2v.cli.local.uploads` validates and uploads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from i2v.errors import NoImages, UsageError
from i2v.inputs.batch_files import SUFFIXES, BatchFile, BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import IMAGE_SUFFIXES
from i2v.ledger import keys
from i2v.media.images import ImageRef
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

KEY_MAX_BYTES = 1024
"""S3's limit."""
HINT = "Use a local .jpg or .png, a folder, a batch file, s3://bucket/key, s3://bucket/prefix/ or https://…"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class LocalImage:
    """A file, its future location in the bucket, and the options in its batch file row."""

    path: Path
    uri: S3Uri
    options: RequestOptions


@dataclass(frozen=True, slots=True)
class NamedImages:
    """The images on a command line: those that a run can read, and those that must be uploaded first."""

    remote: tuple[str | BatchRow, ...]
    local: tuple[LocalImage, ...]


def find(names: Sequence[str], settings: Settings) -> NamedImages:
    """Sort names into remote and local images. The key of a file is its path inside the named folder, or its name.

    Raises:
        UsageError: a path does not exist, or two files would have the same key.
        NoImages: nothing was found.
    """
    remote: list[str | BatchRow] = []
    local: list[LocalImage] = []
    for name in names:
        for entry in [name] if _SCHEME.match(name) else _local_entries(name, settings):
            (local if isinstance(entry, LocalImage) else remote).append(entry)  # type: ignore[arg-type]
    if not remote and not local:
        raise NoImages(f"No images found in {', '.join(names)}", f"An image is named {', '.join(IMAGE_SUFFIXES)}")
    _check_collisions(local)
    return NamedImages(tuple(remote), tuple(dict.fromkeys(local)))


def _local_entries(name: str, settings: Settings) -> Iterator[LocalImage | BatchRow]:
    path = Path(name)
    try:
        if path.is_dir():
            yield from _in_folder(path, settings)
        elif not path.exists():
            raise UsageError(f"No such file or folder: {name!r}", HINT)
        elif path.suffix.lower() in SUFFIXES:
            yield from BatchFile.read(path).resolve_rows(lambda row: _of_row(row, path.parent, settings))
        else:
            yield LocalImage(path, _uri(path.name, path, settings), RequestOptions())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "invalid path"
        raise UsageError(f"Cannot read {name!r}: {why}", "Check its path and permissions") from None


def _in_folder(folder: Path, settings: Settings) -> Iterator[LocalImage]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                yield LocalImage(path, _uri(path.relative_to(folder).as_posix(), path, settings), RequestOptions())


def _of_row(row: BatchRow, folder: Path, settings: Settings) -> LocalImage | BatchRow:
    if _SCHEME.match(row.image):
        ImageRef.parse(row.image)
        return row
    path = folder / row.image
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    inside = os.path.relpath(path, folder)
    key = path.name if inside.startswith("..") else Path(inside).as_posix()
    return LocalImage(path, _uri(key, path, settings), row.options)


def _uri(key: str, path: Path, settings: Settings) -> S3Uri:
    if key.startswith(keys.RESERVED):
        raise UsageError(f"{path} would have the key {key!r}, and this prefix is reserved", "Rename the folder")
    try:
        size = len((settings.images / key).key.encode())
    except UnicodeEncodeError:
        raise UsageError(f"The name of {str(path)!a} is not UTF-8", "Rename it") from None
    if size > KEY_MAX_BYTES:
        raise UsageError(f"The key of {path} would have {size} bytes; S3 allows {KEY_MAX_BYTES}", "Shorten its path")
    return settings.images / key


def _check_collisions(local: Sequence[LocalImage]) -> None:
    first: dict[S3Uri, LocalImage] = {}
    for image in local:
        other = first.setdefault(image.uri, image)
        if other.path != image.path and other.path.resolve() != image.path.resolve():
            raise UsageError(
                f"{other.path} and {image.path} would both be uploaded to {image.uri}",
                "Rename one, or name their parent folder, which makes their folders part of the keys",
            )
