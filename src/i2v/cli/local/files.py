"""Local files that are named on a command line: `find` tells what they are and which keys they will have.

Judging and putting them is `i2v.cli.local.uploads`. Flows know no local files but manifests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from i2v.errors import NoImages, UsageError
from i2v.inputs.batch_files import MAX_MANIFEST_BYTES, SUFFIXES, BatchRow, Faults, read_rows
from i2v.inputs.prompts import RequestOptions
from i2v.inputs.sources import IMAGE_SUFFIXES
from i2v.ledger import keys
from i2v.media.images import ImageRef
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

KEY_MAX_BYTES = 1024
"""S3's limit."""
HINT = "Name a local .jpg or .png, a folder of them, a manifest, s3://bucket/key, s3://bucket/prefix/ or https://…"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class LocalImage:
    """One file, where it is to be put, and what is asked for it where it was named."""

    path: Path
    uri: S3Uri
    asked: RequestOptions


@dataclass(frozen=True, slots=True)
class Named:
    """What was named on a command line, sorted: what a run can take as it is, and what must be put first."""

    remote: tuple[str | BatchRow, ...]
    local: tuple[LocalImage, ...]


def find(named: Sequence[str], settings: Settings) -> Named:
    """Sort what was named. Of a folder, its images with their paths in it; of a file, its name; both become keys.

    Raises:
        UsageError: something is not there, or two files would have one key.
        NoImages: a folder has no image, and nothing else was named.
    """
    remote: list[str | BatchRow] = []
    local: list[LocalImage] = []
    for text in named:
        if _SCHEME.match(text):
            remote.append(text)
            continue
        for found in _entries(text, settings):
            (local if isinstance(found, LocalImage) else remote).append(found)  # type: ignore[arg-type]
    if not remote and not local:
        raise NoImages(f"No image in {', '.join(named)}", f"An image is named {', '.join(IMAGE_SUFFIXES)}")
    _check_collisions(local)
    return Named(tuple(remote), tuple(dict.fromkeys(local)))


def _entries(text: str, settings: Settings) -> Iterator[LocalImage | BatchRow]:
    path = Path(text)
    try:
        if path.is_dir():
            yield from _in_folder(path, settings)
        elif not path.exists():
            raise UsageError(f"There is no file or folder {text!r}", HINT)
        elif path.suffix.lower() in SUFFIXES:
            yield from _in_manifest(path, settings)
        else:
            yield LocalImage(path, _place(path.name, path, settings), RequestOptions())
    except (OSError, ValueError) as error:
        raise UsageError(f"{text!r} cannot be read: {getattr(error, 'strerror', None) or 'it is no path'}") from None


def _in_folder(folder: Path, settings: Settings) -> Iterator[LocalImage]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                yield LocalImage(path, _place(path.relative_to(folder).as_posix(), path, settings), RequestOptions())


def _in_manifest(path: Path, settings: Settings) -> Iterator[LocalImage | BatchRow]:
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise UsageError(f"Manifest {path} is over {MAX_MANIFEST_BYTES // 1_000_000} MB", "Split it")
    faults = Faults(str(path))
    entries: list[LocalImage | BatchRow] = []
    for line, row in read_rows(path.read_bytes(), faults):
        try:
            entries.append(_of_row(row, path.parent, settings))
        except UsageError as error:
            faults.add(line, f"column image: {error.message}")
    faults.check()
    yield from entries


def _of_row(row: BatchRow, folder: Path, settings: Settings) -> LocalImage | BatchRow:
    if _SCHEME.match(row.image):
        ImageRef.parse(row.image)
        return row
    path = folder / row.image
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    inside = os.path.relpath(path, folder)
    key = path.name if inside.startswith("..") else Path(inside).as_posix()
    return LocalImage(path, _place(key, path, settings), row.asked)


def _place(key: str, path: Path, settings: Settings) -> S3Uri:
    """Where a file is put."""
    if key.startswith(keys.RESERVED):
        raise UsageError(f"{path} would become {key!r}, and no image's key may begin so", "Rename the folder")
    try:
        size = len((settings.images / key).key.encode())
    except UnicodeEncodeError:
        raise UsageError(f"The name of {str(path)!a} is no UTF-8", "Rename it") from None
    if size > KEY_MAX_BYTES:
        raise UsageError(f"{path} would have a key of {size} bytes, and S3 takes {KEY_MAX_BYTES}", "Shorten its path")
    return settings.images / key


def _check_collisions(local: Sequence[LocalImage]) -> None:
    first: dict[S3Uri, LocalImage] = {}
    for image in local:
        other = first.setdefault(image.uri, image)
        if other.path != image.path and other.path.resolve() != image.path.resolve():
            raise UsageError(
                f"{other.path} and {image.path} would both become {image.uri}",
                "Rename one, or name a folder above both, so that their folders become part of their keys",
            )
