"""Find the images of a run: turn URIs, prefixes and batch files into `InputItem`s.

No image is read here. `i2v.media.images` validates them, and `i2v.inputs.prompts` finds their prompts.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict

from i2v.advised_commands import command
from i2v.errors import BadRow, NoImages, UsageError
from i2v.inputs.batch_files import MAX_BATCH_FILE_BYTES, SUFFIXES, BatchFile, BatchRow
from i2v.inputs.image_keys import check_allowed, is_reserved, why_no_image
from i2v.inputs.prompts import SIDECAR_SUFFIX, RequestOptions, sidecar
from i2v.media.images import ImageRef, is_text
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings
from i2v.urls import is_signed, redact_url

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
"""The suffixes that make an object under a prefix an image. An object that is named explicitly may have any name."""
log = logging.getLogger(__name__)
T = TypeVar("T")


class InputItem(BaseModel):
    """One image of a run, and the options in its batch file row."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ref: ImageRef
    options: RequestOptions = RequestOptions()
    etag: str | None = None
    size: int | None = None
    """Bytes. Only a listing sets etag and size."""
    by_name: bool = False
    """Whether a person named this image, and not a prefix, a batch file or the door. Then it is made even if erased."""
    may_have_sidecar: bool = True
    """False if a listing shows that there is none."""

    @property
    def unlisted(self) -> Self:
        """Return the item without the facts of its listing, which may be out of date."""
        return self.model_copy(update={"etag": None, "size": None, "may_have_sidecar": True})


class FoundItems(list[InputItem]):
    """The images that were found, how many other files the prefixes hold, by ending, and the rows that were skipped."""

    def __init__(
        self,
        items: Iterable[InputItem] = (),
        others: Mapping[str, int] | None = None,
        bad_rows: Sequence[BadRow] = (),
    ) -> None:
        super().__init__(items)
        self.others: Counter[str] = Counter(others)
        self.bad_rows = tuple(bad_rows)


def accepted_images() -> str:
    """Return what may name an image, as a hint."""
    return (
        "Images are s3://bucket/key, s3://bucket/prefix/, https://… or a batch file (.csv, .jsonl). "
        f"Flows read from S3 or https only; `{command('run', 'FILE')}` uploads local files first"
    )


def is_uri(text: str) -> bool:
    """Return whether a text begins with a scheme, such as `s3://`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def refuse_signed_urls(images: str | BatchRow | Sequence[str | BatchRow]) -> None:
    """Raise `UsageError` if an image's URL is signed: Prefect stores and shows the parameters of a run."""
    for entry in [images] if isinstance(images, str | BatchRow) else images:
        text = entry.image if isinstance(entry, BatchRow) else entry
        if not text.startswith("s3://") and is_signed(text):
            raise UsageError(
                f"{redact_url(text)} is signed, and Prefect would show its signature to everyone who sees this run",
                "Put the image under the images prefix, or list its URL in a batch file (.csv, .jsonl)",
            )


async def find_items(
    images: str | BatchRow | Sequence[str | BatchRow],
    storage: Storage,
    settings: Settings,
    *,
    skip_bad_rows: bool = False,
    by_name: bool = True,
) -> FoundItems:
    """Find the named images, in order, without duplicates; `by_name` is false if no person has named them.

    Raise `UsageError` for an invalid name, `BadRows` for a batch file with bad rows unless they are skipped, and
    `NoImages` if nothing is found; otherwise an empty prefix is logged.
    """
    entries = [images] if isinstance(images, str | BatchRow) else list(images)
    if not entries:
        raise UsageError("No images are given", accepted_images())
    found: dict[tuple[ImageRef, RequestOptions], InputItem] = {}
    empty: list[NoImages] = []
    others = Counter[str]()
    bad_rows: list[BadRow] = []
    for entry in entries:
        try:
            items = await _items_of(entry, storage, settings, skip_bad_rows=skip_bad_rows)
        except NoImages as error:
            empty.append(error)
            continue
        others, bad_rows = others + items.others, [*bad_rows, *items.bad_rows]
        for item in items:
            key = (item.ref, item.options)
            named = (by_name and item.by_name) or (key in found and found[key].by_name)
            chosen = item if item.etag or key not in found else found[key]
            found[key] = chosen.model_copy(update={"by_name": named}) if chosen.by_name != named else chosen
    if not found:
        raise empty[0]
    for none in empty:
        log.warning("%s", none.message)
    return FoundItems(found.values(), others, bad_rows)


async def _items_of(entry: str | BatchRow, storage: Storage, settings: Settings, *, skip_bad_rows: bool) -> FoundItems:
    if prefix := prefix_of(entry):
        return await _under_prefix(prefix, storage, settings)
    items, bad_rows = await named_items(entry, storage, settings, lambda item: item, skip_bad_rows=skip_bad_rows)
    return FoundItems(items, bad_rows=bad_rows)


def prefix_of(entry: str | BatchRow) -> S3Uri | None:
    """Return the prefix that an entry names, or `None` if it names something else."""
    try:
        uri = S3Uri.parse(entry.strip()) if isinstance(entry, str) else None
    except ValueError:
        return None
    return uri if uri and uri.is_prefix else None


async def named_items(
    entry: str | BatchRow,
    storage: Storage,
    settings: Settings,
    convert: Callable[[InputItem], T],
    *,
    skip_bad_rows: bool = False,
) -> tuple[list[T], Sequence[BadRow]]:
    """Return the image that an entry names, or those of its batch file, each converted, and the rows that were skipped.

    Raise as `find_items` does.
    """
    if isinstance(entry, BatchRow):
        return [convert(_item(entry, None, settings).model_copy(update={"by_name": True}))], ()
    text = entry.strip()
    if not is_uri(text):
        if not text.lower().endswith(SUFFIXES):
            raise UsageError(f"{redact_url(text)!r} is not an S3 URI or https URL", accepted_images())
        file = await asyncio.to_thread(BatchFile.read, Path(text))
        return await _in_batch_file(file, None, settings, convert, skip_bad_rows=skip_bad_rows)
    if not text.startswith("s3://"):
        return [convert(InputItem(ref=ImageRef.parse(text), by_name=True))], ()
    try:
        uri = S3Uri.parse(text)
    except ValueError:
        raise UsageError(f"{redact_url(text)!r} is not an S3 URI", accepted_images()) from None
    if uri.key.lower().endswith(SUFFIXES):
        file = BatchFile(str(uri), (await storage.get(uri, limit=MAX_BATCH_FILE_BYTES)).body)
        folder = S3Uri(uri.bucket, uri.key[: uri.key.rfind("/") + 1])
        return await _in_batch_file(file, folder, settings, convert, skip_bad_rows=skip_bad_rows)
    check_allowed(uri, settings)
    return [convert(InputItem(ref=ImageRef(uri=uri), by_name=True))], ()


async def _under_prefix(prefix: S3Uri, storage: Storage, settings: Settings) -> FoundItems:
    check_allowed(prefix, settings)
    entries = [entry async for entry in storage.list(prefix)]
    named = [entry for entry in entries if entry.uri.key.lower().endswith(IMAGE_SUFFIXES)]
    texts = {entry.uri for entry in entries if entry.uri.key.endswith(SIDECAR_SUFFIX)}
    items = [
        InputItem(
            ref=ImageRef(uri=entry.uri),
            etag=entry.etag,
            size=entry.size,
            may_have_sidecar=sidecar(entry.uri) in texts,
        )
        for entry in named
        if why_no_image(entry.uri, settings) is None
    ]
    if not items:
        raise nothing_under(prefix, len(entries))
    if reserved := [entry.uri for entry in named if is_reserved(entry.uri, settings)]:
        log.warning("skipped %d objects such as %s: this name is reserved", len(reserved), reserved[0])
    return FoundItems(items, _others(entries, {entry.uri for entry in named}))


def nothing_under(prefix: S3Uri, objects: int) -> NoImages:
    """Return the error of a prefix with this many objects, none of which is an image."""
    return NoImages(
        f"No images found under {prefix} ({objects:,} objects)",
        f"An image is named {', '.join(IMAGE_SUFFIXES)}; check the prefix, or upload images there",
    )


def _others(entries: Sequence[S3Entry], images: set[S3Uri]) -> Counter[str]:
    """Count what is neither an image nor its prompt, by ending."""
    known = images | {sidecar(uri) for uri in images}
    others = (entry.uri for entry in entries if entry.uri not in known and not entry.uri.is_prefix)
    return Counter(map(ending, others))


def ending(uri: S3Uri) -> str:
    """Return the ending by which other files are counted."""
    return PurePosixPath(uri.key).suffix.lower()[:12] or "without ending"


async def _in_batch_file(
    file: BatchFile,
    base: S3Uri | None,
    settings: Settings,
    convert: Callable[[InputItem], T],
    *,
    skip_bad_rows: bool,
) -> tuple[list[T], Sequence[BadRow]]:
    def resolve(row: BatchRow) -> T:
        return convert(_item(row, base, settings))

    return await asyncio.to_thread(file.resolve_rows, resolve, skip_bad_rows=skip_bad_rows), file.bad_rows


def _item(row: BatchRow, base: S3Uri | None, settings: Settings) -> InputItem:
    ref = ImageRef.parse(row.image) if is_uri(row.image) else ImageRef(uri=_relative(row.image, base))
    if ref.uri:
        check_allowed(ref.uri, settings)
    return InputItem(ref=ref, options=row.options)


def _relative(name: str, base: S3Uri | None) -> S3Uri:
    if base is None:
        raise UsageError(f"{redact_url(name)!r} is not an S3 URI or https URL", accepted_images())
    if name.endswith("/") or {"", ".", ".."} & set(name.split("/")) or not is_text(name):
        raise UsageError(f"{redact_url(name)!r} is not a valid key below {base}", accepted_images())
    return base / name
