"""Find the local images that a command line names, and choose their keys in the bucket.

`i2v.cli.images.uploads` validates and uploads them.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from i2v.errors import BadRow, NoImages, UsageError
from i2v.inputs.batch_files import SUFFIXES, BatchFile, BatchRow
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import IMAGE_SUFFIXES, is_uri
from i2v.ledger import keys
from i2v.media.images import ImageRef
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

KEY_MAX_BYTES = 1024
"""S3's limit."""
HINT = "Use a local .jpg or .png, a folder, a batch file, s3://bucket/key, s3://bucket/prefix/ or https://…"


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
    bad_rows: tuple[BadRow, ...] = ()
    """The rows of local batch files that were skipped."""


def find_named_images(names: Sequence[str], settings: Settings, *, skip_bad_rows: bool = False) -> NamedImages:
    """Sort names into remote and local images. The key of a file is its path inside the named folder, or its name.

    Raise `NoImages` if nothing is found, `UsageError` for a missing path or if two files would have the same key, and
    `BadRows` for a batch file with bad rows unless they are skipped.
    """
    bad_rows: list[BadRow] | None = [] if skip_bad_rows else None
    found: list[str | LocalImage | BatchRow] = []
    for name in names:
        found += [name] if is_uri(name) else _local_entries(name, settings, bad_rows)
    if not found:
        raise NoImages(f"No images found in {', '.join(names)}", f"An image is named {', '.join(IMAGE_SUFFIXES)}")
    local = [entry for entry in found if isinstance(entry, LocalImage)]
    _check_collisions(local)
    remote = tuple(entry for entry in found if not isinstance(entry, LocalImage))
    return NamedImages(remote, tuple(dict.fromkeys(local)), tuple(bad_rows or ()))


def _local_entries(name: str, settings: Settings, bad_rows: list[BadRow] | None) -> Iterator[LocalImage | BatchRow]:
    path = Path(name)
    try:
        if path.is_dir():
            yield from _in_folder(path, settings)
        elif not path.exists():
            raise UsageError(f"No such file or folder: {name!r}", HINT)
        elif path.suffix.lower() in SUFFIXES:
            yield from _in_batch_file(path, settings, bad_rows)
        else:
            yield _local_image(path, path.name, RequestOptions(), settings)
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
                yield _local_image(path, path.relative_to(folder).as_posix(), RequestOptions(), settings)


def _in_batch_file(path: Path, settings: Settings, bad_rows: list[BadRow] | None) -> list[LocalImage | BatchRow]:
    """Return the rows; bad ones are added to `bad_rows`, or raised if that is `None`."""
    file, skip = BatchFile.read(path), bad_rows is not None
    found = file.resolve_rows(lambda row: _of_row(row, path.parent, settings), skip_bad_rows=skip)
    if bad_rows is not None:
        bad_rows += file.bad_rows
    return found


def _of_row(row: BatchRow, folder: Path, settings: Settings) -> LocalImage | BatchRow:
    if is_uri(row.image):
        ImageRef.parse(row.image)
        return row
    path = folder / row.image
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    inside = os.path.relpath(path, folder)
    key = path.name if inside.startswith("..") else Path(inside).as_posix()
    return _local_image(path, key, row.options, settings)


def _local_image(path: Path, key: str, options: RequestOptions, settings: Settings) -> LocalImage:
    """Return the image with its key below the images prefix, or raise `UsageError` if that key is not possible."""
    if key.startswith(keys.RESERVED):
        raise UsageError(f"{path} would have the key {key!r}, and this prefix is reserved", "Rename the folder")
    try:
        uri = settings.images / key
        size = len(uri.key.encode())
    except UnicodeEncodeError:
        raise UsageError(f"The name of {str(path)!a} is not UTF-8", "Rename it") from None
    if size > KEY_MAX_BYTES:
        raise UsageError(f"The key of {path} would have {size} bytes; S3 allows {KEY_MAX_BYTES}", "Shorten its path")
    return LocalImage(path, uri, options)


def _check_collisions(local: Sequence[LocalImage]) -> None:
    first: dict[S3Uri, LocalImage] = {}
    for image in local:
        other = first.setdefault(image.uri, image)
        if other.path != image.path and other.path.resolve() != image.path.resolve():
            raise UsageError(
                f"{other.path} and {image.path} would both be uploaded to {image.uri}",
                "Rename one, or name their parent folder, which makes their folders part of the keys",
            )
