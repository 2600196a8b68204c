"""An image: its reference (`ImageRef`), and whether the provider accepts it (`check_image`).

Every rule about an image's bytes is here, with its source; all are checked before anything is paid. Keep out finding
images (`i2v.inputs.sources`) and reading them (`i2v.s3.storage`, the fetcher).
"""

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
from i2v.urls import redact_url

MAX_IMAGE_BYTES = 20_000_000
"""docs/provider.md: at most 20 MB. MB is the smaller reading of MB and MiB, so the provider accepts what we accept."""
MAX_PIXELS = 120_000_000
"""Our own limit, above the largest cameras (108 megapixels). Decoding takes up to 4 bytes per pixel."""
SHORT_SIDE_OVER = 300
"""In pixels; docs/provider.md: the short side must be strictly longer."""
RATIO_WIDE, RATIO_NARROW = 5, 2
"""docs/provider.md: width to height strictly between 2:5 and 5:2."""

ImageFormat = Literal["JPEG", "PNG"]

_ACCEPTED = "Use s3://bucket/key or https://…"
_IEND_CRC = zlib.crc32(b"IEND").to_bytes(4)
_ROTATED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""


def is_text(value: str) -> bool:
    """Return whether the string can be encoded as UTF-8. Strings from JSON or the command line can have surrogates."""
    return not re.search(r"[\ud800-\udfff]", value)


class ImageRef(BaseModel):
    """A reference to an image: an object in S3 or a URL."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    uri: S3Uri | None = None
    url: str | None = Field(default=None, repr=False)
    """Its query can be a signature: show `label` instead."""

    @model_validator(mode="after")
    def _require_exactly_one(self) -> Self:
        if (self.uri is None) == (self.url is None):
            raise ValueError("an image has either an S3 URI or a URL")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `s3://bucket/key` or a web URL; raise `UsageError` for anything else and for a prefix.

        Plain http is accepted here; the fetcher decides whether to fetch it.
        """
        if text.lower().startswith(("https://", "http://")):
            return cls(url=_checked_url(text))
        try:
            uri = S3Uri.parse(text)
            uri.key.encode()
        except ValueError:
            raise UsageError(f"{redact_url(text)!r} is not an image URI", _ACCEPTED) from None
        if uri.is_prefix:
            raise UsageError(f"{uri} is a prefix, not one image", _ACCEPTED)
        return cls(uri=uri)

    @property
    def label(self) -> str:
        """The image's name for logs, reports and messages; it contains no secrets."""
        return str(self.uri) if self.uri else redact_url(self.url or "")

    def __str__(self) -> str:
        return self.label


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        well_formed = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed or re.search(r"[\s\x00-\x1f\x7f\ud800-\udfff]", text):
        raise UsageError(f"{redact_url(text)!r} is not a valid URL", "Use https://host/path/image.jpg")
    return text


class ImageFacts(BaseModel):
    """The measurements of an image that the provider accepts: sides in pixels as displayed, size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int
    format: ImageFormat
    width: int
    height: int

    @property
    def content_type(self) -> str:
        """The MIME type of the bytes; the object's own Content-Type is ignored."""
        return f"image/{self.format.lower()}"


def check_size(size: int, label: str) -> None:
    """Check a size in bytes, before the image is read. Raise `Refused`: `empty` or `too_large`."""
    if size == 0:
        raise Refused(f"{label} is empty (0 bytes)", "Upload the image again", "empty")
    if size > MAX_IMAGE_BYTES:
        message = f"{label} is too large: {size / 1e6:.1f} MB ({size:,} bytes); the provider accepts at most 20 MB"
        raise Refused(message, "Save a smaller version", "too_large")


def check_image(body: bytes, label: str) -> ImageFacts:
    """Check an image and measure it. It decodes the whole image: call it in a thread. `label` names it in messages.

    Raise `Refused`: `empty`, `too_large`, `not_jpeg_or_png`, `truncated`, `corrupt`, `bomb`, `short_side` or `ratio`.
    """
    check_size(len(body), label)
    image_format = _format(body, label)
    width, height = _measure(body, image_format, label)
    _check_sides(width, height, label)
    digest = hashlib.sha256(body).hexdigest()
    return ImageFacts(sha256=digest, size=len(body), format=image_format, width=width, height=height)


def _format(body: bytes, label: str) -> ImageFormat:
    file_type = describe_file_type(body)
    if file_type == "a JPEG":
        return "JPEG"
    if file_type == "a PNG":
        return "PNG"
    message = f"{label} is not a JPEG or PNG image: it contains {file_type}"
    raise Refused(message, "Save it as JPEG or PNG; the file name does not matter", "not_jpeg_or_png")


def _measure(body: bytes, image_format: ImageFormat, label: str) -> tuple[int, int]:
    """Decode the whole image and return its width and height as displayed."""
    try:
        # the plugin itself, because `Image.open` uses globals for its warnings and limits
        image = (JpegImageFile if image_format == "JPEG" else PngImageFile)(BytesIO(body))
        width, height = image.size
        _check_pixels(width, height, label)
        if image_format == "PNG":
            _check_png_chunks(body)
        else:
            image.draft("L", (1, 1))  # an eighth of each side: just as strict, with 1/64 of the memory
        image.load()
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - hostile bytes can make Pillow raise anything
        _refuse_damaged(body, image_format, label, error)
    return (height, width) if _orientation(image) in _ROTATED else (width, height)


def _check_png_chunks(body: bytes) -> None:
    """Check every checksum and the end of the file, which `load()` does not."""
    stream = BytesIO(body)
    PngImageFile(stream).verify()
    if stream.read(len(_IEND_CRC)) != _IEND_CRC:
        raise OSError("truncated PNG file")


def _orientation(image: ImageFile) -> object:
    try:
        return image.getexif().get(ExifTag.Orientation)
    except Exception:  # noqa: BLE001 - broken EXIF is not a reason to refuse an image
        return None


def _refuse_damaged(body: bytes, image_format: ImageFormat, label: str, error: Exception) -> NoReturn:
    if _ends_early(body, image_format):
        message = f"{label} is truncated: the {image_format} data ends early, after {len(body):,} bytes"
        raise Refused(message, "Upload the complete file again", "truncated") from error
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    message = f"{label} is corrupt: its {image_format} data cannot be decoded ({reason})"
    raise Refused(message, "Open it, save it again and upload the new file", "corrupt") from error


def _ends_early(body: bytes, image_format: ImageFormat) -> bool:
    if image_format == "PNG":
        return b"IEND" + _IEND_CRC not in body
    return body.rfind(b"\xff\xd9") < max(body.rfind(b"\xff\xda"), 1)


def _check_pixels(width: int, height: int, label: str) -> None:
    if width * height > MAX_PIXELS:
        measured = f"{width} x {height} px ({width * height / 1e6:.0f} million)"
        message = f"{label} has too many pixels: {measured}; the limit is {MAX_PIXELS // 1_000_000} million"
        raise Refused(message, "Scale it down; the video has at most 1920 x 1080 px", "bomb")


def _check_sides(width: int, height: int, label: str) -> None:
    short = min(width, height)
    if short <= SHORT_SIDE_OVER:
        limit = f"the short side must be more than {SHORT_SIDE_OVER} px"
        raise Refused(f"{label} is too small: {width} x {height} px; {limit}", "Use a larger original", "short_side")
    if max(width, height) * RATIO_NARROW >= short * RATIO_WIDE:
        measured = f"{width}:{height} ({width / height:.3f})"
        limit = "it must be above 2:5 (0.4) and below 5:2 (2.5)"
        raise Refused(f"{label} has an aspect ratio of {measured}; {limit}", "Crop it", "ratio")
