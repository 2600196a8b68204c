"""An image: how it is named (`ImageRef`), and whether the provider would take it (`check_image`).

Every rule on an image's bytes is here, each with its source, and each is checked before anything is paid. Where images
are found is in `i2v.inputs.sources`, how they are read in `i2v.s3.storage` and the fetcher.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from io import BytesIO
from typing import Literal, NoReturn, Self
from urllib.parse import urlsplit

from PIL.ExifTags import Base as ExifTag
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from pydantic import BaseModel, ConfigDict, Field, model_validator

from i2v.errors import Refused, UsageError
from i2v.media.file_type import describe_file_type
from i2v.s3_uri import S3Uri

MAX_IMAGE_BYTES = 20_000_000
"""docs/provider.md: at most 20 MB. Read as the smaller of MB and MiB, so that the provider takes what we take."""
MAX_PIXELS = 120_000_000
"""Ours: the largest cameras (108 megapixels) pass. Decoding takes up to 4 bytes a pixel, whatever a file weighs."""
SHORT_SIDE_OVER = 300
"""Pixels; docs/provider.md: the short side is strictly more."""
RATIO_WIDE, RATIO_NARROW = 5, 2
"""docs/provider.md: width to height strictly between 2:5 and 5:2."""

ImageFormat = Literal["JPEG", "PNG"]

_IEND_CRC = zlib.crc32(b"IEND").to_bytes(4)
_TURNED = frozenset({5, 6, 7, 8})
"""The EXIF orientations that swap width and height."""


def shown(url: str) -> str:
    """A URL without what may be secret in it: userinfo, query and fragment."""
    return re.sub(r"//[^/?#]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8 at all: JSON and broken command lines bring strings that cannot."""
    return not re.search(r"[\ud800-\udfff]", value)


class ImageRef(BaseModel):
    """An image as it was named, not yet read: an object in S3 or a URL."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    uri: S3Uri | None = None
    url: str | None = Field(default=None, repr=False)
    """Its query may be a signature, so it is never shown; `label` is."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.uri is None) == (self.url is None):
            raise ValueError("an image has either an S3 address or a URL")
        return self

    @classmethod
    def parse(cls, text: str) -> ImageRef:
        """Read `s3://bucket/key` or an https URL (also http: whether it may be fetched, the fetch decides).

        Raises:
            UsageError: the text has another form, or names a whole prefix.
        """
        if text.lower().startswith(("https://", "http://")):
            return cls(url=_checked_url(text))
        try:
            uri = S3Uri.parse(text)
            uri.key.encode()
        except ValueError:
            raise UsageError(f"{shown(text)!r} names no image", "An image is s3://bucket/key or https://…") from None
        if uri.is_prefix:
            raise UsageError(
                f"{uri} names all objects under it, not one image", "An image is s3://bucket/key or https://…"
            )
        return cls(uri=uri)

    @property
    def label(self) -> str:
        """The image's name for logs, reports and messages, without any secret."""
        return str(self.uri) if self.uri else shown(self.url or "")

    def __str__(self) -> str:
        return self.label


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        well_formed = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed or re.search(r"[\s\x00-\x1f\x7f\ud800-\udfff]", text):
        raise UsageError(f"{shown(text)!r} is no URL that can be fetched", "It looks like https://host/path/image.jpg")
    return text


class ImageFacts(BaseModel):
    """What was measured in an image that the provider would take. Sides are pixels as displayed, size is bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int
    format: ImageFormat
    width: int
    height: int

    @property
    def content_type(self) -> str:
        """The MIME type of the bytes, whatever the object's own says."""
        return f"image/{self.format.lower()}"


def check_size(size: int, label: str) -> None:
    """Judge the size alone (bytes), so that a caller who knows it need not read the image.

    Raises:
        Refused: `empty` or `too_large`.
    """
    if size == 0:
        raise Refused(f"{label} is empty: 0 bytes", "Upload the image again", "empty")
    if size > MAX_IMAGE_BYTES:
        raise Refused(
            f"{label} is too large: {size / 1e6:.1f} MB ({size:,} bytes), and the provider takes at most 20 MB",
            "Save it smaller",
            "too_large",
        )


def check_image(body: bytes, label: str) -> ImageFacts:
    """Judge an image by its bytes. It decodes the whole image, so run it in a thread; `label` names it in messages.

    Raises:
        Refused: `empty`, `too_large`, `not_jpeg_or_png`, `truncated`, `corrupt`, `bomb`, `short_side` or `ratio`.
    """
    check_size(len(body), label)
    image_format = _format(body, label)
    width, height = _measure(body, image_format, label)
    _check_sides(width, height, label)
    digest = hashlib.sha256(body).hexdigest()
    return ImageFacts(sha256=digest, size=len(body), format=image_format, width=width, height=height)


def _format(body: bytes, label: str) -> ImageFormat:
    found = describe_file_type(body)
    if found == "a JPEG":
        return "JPEG"
    if found == "a PNG":
        return "PNG"
    raise Refused(
        f"{label} is no JPEG or PNG: by its bytes it is {found}",
        "Save it as JPEG or PNG; its name does not matter",
        "not_jpeg_or_png",
    )


def _measure(body: bytes, image_format: ImageFormat, label: str) -> tuple[int, int]:
    """Width and height as displayed, of an image that was decoded whole."""
    try:
        image = _open(body, image_format)
        width, height = image.size
        _check_pixels(width, height, label)
        if image_format == "PNG":
            _check_png_chunks(body)
        else:
            image.draft("L", (1, 1))  # an eighth of each side: as strict on the data, at 1/64 of the memory
        image.load()
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises whatever foreign bytes lead it to
        _refuse_damaged(body, image_format, label, error)
    return (height, width) if _orientation(image) in _TURNED else (width, height)


def _open(body: bytes, image_format: ImageFormat) -> ImageFile:
    """Read the header. The plugin itself, since `Image.open` warns and limits by globals that threads share."""
    return JpegImageFile(BytesIO(body)) if image_format == "JPEG" else PngImageFile(BytesIO(body))


def _check_png_chunks(body: bytes) -> None:
    """Every checksum, and the end: `load()` looks at neither."""
    stream = BytesIO(body)
    PngImageFile(stream).verify()
    if stream.read(len(_IEND_CRC)) != _IEND_CRC:
        raise OSError("truncated PNG file")


def _orientation(image: ImageFile) -> object:
    try:
        return image.getexif().get(ExifTag.Orientation)
    except Exception:  # noqa: BLE001 - broken EXIF is no reason to refuse a good picture
        return None


def _refuse_damaged(body: bytes, image_format: ImageFormat, label: str, error: Exception) -> NoReturn:
    if _ends_early(body, image_format):
        message = f"{label} is cut short: after {len(body):,} bytes the {image_format} has not ended"
        raise Refused(message, "Upload the whole file again", "truncated") from error
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    raise Refused(
        f"{label} is corrupt: its {image_format} data cannot be decoded ({reason})",
        "Open it, save it again and upload that",
        "corrupt",
    ) from error


def _ends_early(body: bytes, image_format: ImageFormat) -> bool:
    if image_format == "PNG":
        return b"IEND" + _IEND_CRC not in body
    return body.rfind(b"\xff\xd9") < max(body.rfind(b"\xff\xda"), 1)


def _check_pixels(width: int, height: int, label: str) -> None:
    if width * height > MAX_PIXELS:
        raise Refused(
            f"{label} has too many pixels: {width} x {height} px are {width * height / 1e6:.0f} million, "
            f"and the limit is {MAX_PIXELS // 1_000_000} million",
            "Scale it down; the video has at most 1920 x 1080",
            "bomb",
        )


def _check_sides(width: int, height: int, label: str) -> None:
    short = min(width, height)
    if short <= SHORT_SIDE_OVER:
        raise Refused(
            f"{label} is too small: {width} x {height} px, and the short side must be more than {SHORT_SIDE_OVER} px",
            "Use a larger original",
            "short_side",
        )
    if max(width, height) * RATIO_NARROW >= short * RATIO_WIDE:
        raise Refused(
            f"{label} has a ratio of {width}:{height} ({width / height:.3f}), and it must lie strictly between "
            f"2:5 (0.4) and 5:2 (2.5)",
            "Crop it",
            "ratio",
        )
