"""The images of a run: addresses, prefixes and batch files become `InputItem`s. Nothing is paid here.

No image is read here; whether one is good is `i2v.media.images`, and what its metadata asks `i2v.inputs.prompts`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from i2v.errors import NoImages, UsageError
from i2v.inputs.batch_files import MAX_MANIFEST_BYTES, SUFFIXES, BatchRow, Faults, read_rows
from i2v.inputs.prompts import SIDECAR_SUFFIX, RequestOptions, sidecar
from i2v.ledger.keys import RESERVED
from i2v.media.images import ImageRef, is_text, shown
from i2v.s3.listing import S3Entry
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from i2v.settings import Settings

__all__ = ["IMAGE_SUFFIXES", "BatchRow", "InputItem", "find_items", "why_no_image"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""What an object under a prefix is named to be an image; one that is named itself may have any name."""
ACCEPTED = (
    "Images are s3://bucket/key, s3://bucket/prefix/, https://… or a manifest (.csv, .jsonl). "
    "Flows read images from S3 or https; `i2v run FILE` puts local files there first"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

log = logging.getLogger(__name__)


class InputItem(BaseModel):
    """One image of a run, and what was asked for it where it was named."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ref: ImageRef
    asked: RequestOptions = RequestOptions()
    etag: str | None = None
    size: int | None = None
    """Bytes; etag and size are known where a listing told them."""
    may_have_sidecar: bool = True
    """False where a listing showed none."""

    @property
    def unlisted(self) -> InputItem:
        """The same without what a listing told, which no longer holds."""
        return InputItem(ref=self.ref, asked=self.asked)


async def find_items(
    images: str | BatchRow | Sequence[str | BatchRow], storage: Storage, settings: Settings
) -> list[InputItem]:
    """Find the images that were named, in the order in which they were, each once for what is asked of it.

    A relative image in a manifest in S3 is relative to the manifest's own place. An empty prefix among others that
    are not is only logged.

    Raises:
        UsageError: something named is no image, no prefix and no good manifest, or a place where no image may be.
        NoImages: nothing at all was found.
        StorageError: S3 could not list or read it.
    """
    named = [images] if isinstance(images, str | BatchRow) else list(images)
    if not named:
        raise UsageError("No images are named", ACCEPTED)
    found: dict[tuple[ImageRef, RequestOptions], InputItem] = {}
    empty: list[NoImages] = []
    for entry in named:
        try:
            _add(found, await _items_of(entry, storage, settings))
        except NoImages as error:
            empty.append(error)
    if not found:
        raise empty[0]
    for none in empty:
        log.warning("%s", none.message)
    return list(found.values())


def _add(found: dict[tuple[ImageRef, RequestOptions], InputItem], items: list[InputItem]) -> None:
    for item in items:
        key = (item.ref, item.asked)
        if item.etag or key not in found:
            found[key] = item


async def _items_of(entry: str | BatchRow, storage: Storage, settings: Settings) -> list[InputItem]:
    if isinstance(entry, BatchRow):
        return [_item(entry, None, settings)]
    text = entry.strip()
    if not _SCHEME.match(text):
        return await _local(text, settings)
    if not text.startswith("s3://"):
        return [InputItem(ref=ImageRef.parse(text))]
    uri = _s3(text)
    if uri.is_prefix:
        return await _under(uri, storage, settings)
    if uri.key.lower().endswith(SUFFIXES):
        return await _manifest(uri, storage, settings)
    _check_place(uri, settings)
    return [InputItem(ref=ImageRef(uri=uri))]


def _s3(text: str) -> S3Uri:
    try:
        return S3Uri.parse(text)
    except ValueError:
        raise UsageError(f"{shown(text)!r} is no S3 address", ACCEPTED) from None


async def _under(prefix: S3Uri, storage: Storage, settings: Settings) -> list[InputItem]:
    _check_place(prefix, settings)
    entries = [entry async for entry in storage.list(prefix)]
    named = [entry for entry in entries if entry.uri.key.lower().endswith(IMAGE_SUFFIXES)]
    texts = {entry.uri for entry in entries if entry.uri.key.endswith(SIDECAR_SUFFIX)}
    items = [_listed(entry, texts) for entry in named if why_no_image(entry.uri, settings) is None]
    if not items:
        raise NoImages(
            f"No image under {prefix}: of {len(entries):,} objects there none is one",
            "An image is named .jpg, .jpeg or .png; check the prefix, and put images there",
        )
    _warn_of_reserved(named, settings)
    return items


def _listed(entry: S3Entry, texts: set[S3Uri]) -> InputItem:
    beside = sidecar(entry.uri) in texts
    return InputItem(ref=ImageRef(uri=entry.uri), etag=entry.etag, size=entry.size, may_have_sidecar=beside)


def _warn_of_reserved(entries: list[S3Entry], settings: Settings) -> None:
    if wrong := [entry.uri for entry in entries if _is_reserved(entry.uri, settings)]:
        log.warning("%d objects such as %s are left out: no image's key may begin so", len(wrong), wrong[0])


def _is_reserved(uri: S3Uri, settings: Settings) -> bool:
    return settings.images.holds(uri) and uri.key.removeprefix(settings.images.key).startswith(RESERVED)


def why_no_image(uri: S3Uri, settings: Settings) -> str | None:
    """Why nothing at this place is ever an image, by its name alone; `None` where it may be one."""
    for name, place in (("I2V_VIDEOS_PREFIX", settings.videos), ("I2V_JOBS_PREFIX", settings.jobs)):
        if place.holds(uri):
            return f"it lies under {name}, {place}, where nothing is ever an image"
    if _is_reserved(uri, settings):
        return f"its name begins like our own for images from elsewhere ({', '.join(RESERVED)})"
    return None


def _check_place(uri: S3Uri, settings: Settings) -> None:
    if why := why_no_image(uri, settings):
        raise UsageError(f"{uri} cannot be animated: {why}", "Copy it to another key under the images prefix")


async def _manifest(uri: S3Uri, storage: Storage, settings: Settings) -> list[InputItem]:
    body = (await storage.get(uri, limit=MAX_MANIFEST_BYTES)).body
    base = S3Uri(uri.bucket, uri.key[: uri.key.rfind("/") + 1])
    return await asyncio.to_thread(_manifest_items, body, str(uri), base, settings)


async def _local(text: str, settings: Settings) -> list[InputItem]:
    if not text.lower().endswith(SUFFIXES):
        raise UsageError(f"{shown(text)!r} is no address in S3 and no https URL", ACCEPTED)
    try:
        body = await asyncio.to_thread(_read, Path(text))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        raise UsageError(f"Manifest {text} cannot be read: {why}", "Check its path") from None
    return await asyncio.to_thread(_manifest_items, body, text, None, settings)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _manifest_items(body: bytes, name: str, base: S3Uri | None, settings: Settings) -> list[InputItem]:
    if len(body) > MAX_MANIFEST_BYTES:
        raise UsageError(f"Manifest {name} is over {MAX_MANIFEST_BYTES // 1_000_000} MB", "Split it")
    faults = Faults(name)
    items = []
    for line, row in read_rows(body, faults):
        try:
            items.append(_item(row, base, settings))
        except UsageError as error:
            faults.add(line, f"column image: {error.message}")
    faults.check()
    return items


def _item(row: BatchRow, base: S3Uri | None, settings: Settings) -> InputItem:
    ref = ImageRef.parse(row.image) if _SCHEME.match(row.image) else ImageRef(uri=_relative(row.image, base))
    if ref.uri:
        _check_place(ref.uri, settings)
    return InputItem(ref=ref, asked=row.asked)


def _relative(name: str, base: S3Uri | None) -> S3Uri:
    if base is None:
        raise UsageError(f"{shown(name)!r} is no address in S3 and no https URL", ACCEPTED)
    if name.endswith("/") or {"", ".", ".."} & set(name.split("/")) or not is_text(name):
        raise UsageError(f"{shown(name)!r} names no object below {base}", ACCEPTED)
    return base / name
