"""Whether the provider accepts an image: `check_image`.

Every rule about an image's bytes is here, with its source; all are checked before anything is paid. The whole image is
decoded: call it through `i2v.media.decoder`.
"""

import hashlib
import zlib
from io import BytesIO
from typing import NoReturn

from av.video.frame import VideoFrame
from PIL.ExifTags import Base as ExifTag
from PIL.Image import Resampling
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from i2v.errors import Refused
from i2v.media import jpeg, png
from i2v.media.damage import Damaged
from i2v.media.file_type import describe_file_type
from i2v.media.fingerprint import SIDE, fingerprint, thumbnail
from i2v.media.images import ImageFacts, ImageFormat, check_size

MAX_PIXELS = 120_000_000
"""Our own limit, above the largest cameras (108 megapixels). Decoding takes up to 4 bytes per pixel."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels times scans of a progressive JPEG, which cost 2 s of CPU per billion. Encoders write about 10 scans."""
SHORT_SIDE_OVER = 300
"""In pixels; docs/provider.md: the short side must be strictly longer."""
RATIO_WIDE, RATIO_NARROW = 5, 2
"""docs/provider.md: width to height strictly between 2:5 and 5:2."""
_IEND_CRC = zlib.crc32(b"IEND").to_bytes(4)
_ROTATED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""


def check_image(body: bytes, label: str) -> ImageFacts:
    """Check an image and measure it. `label` names the image in messages.

    Raise `Refused`: `empty`, `too_large`, `not_jpeg_or_png`, `truncated`, `corrupt`, `unreadable`, `bomb`,
    `short_side` or `ratio`.
    """
    check_size(len(body), label)
    image_format = _format(body, label)
    try:
        width, height, fingerprint = (_read_jpeg if image_format == "JPEG" else _read_png)(body, label)
    except Damaged as damage:
        _refuse_damaged(body, image_format, label, damage)
    _check_sides(width, height, label)
    return ImageFacts(
        sha256=hashlib.sha256(body).hexdigest(),
        size=len(body),
        format=image_format,
        width=width,
        height=height,
        fingerprint=fingerprint,
    )


def _format(body: bytes, label: str) -> ImageFormat:
    file_type = describe_file_type(body)
    if file_type == "a JPEG":
        return "JPEG"
    if file_type == "a PNG":
        return "PNG"
    message = f"{label} is not a JPEG or PNG image: it contains {file_type}"
    raise Refused(message, "Save it as JPEG or PNG; the file name does not matter", "not_jpeg_or_png")


def _read_jpeg(body: bytes, label: str) -> tuple[int, int, str]:
    """Read a whole JPEG; return its sides as displayed, and its fingerprint."""
    layout = jpeg.read_layout(body)
    _check_pixels(layout.width, layout.height, label, layout.scans)
    frame = None if layout.is_arithmetic else jpeg.decode(body)
    image = _open(JpegImageFile, body, label)
    if frame is None:  # Pillow supports what FFmpeg does not
        image.draft("L", (1, 1))
        _load(image, label)
        frame = VideoFrame.from_image(image.convert("RGB"))  # type: ignore[no-untyped-call]
    return _as_displayed(image, layout.width, layout.height, thumbnail(frame))


def _read_png(body: bytes, label: str) -> tuple[int, int, str]:
    """Read a whole PNG; return its sides as displayed, and its fingerprint."""
    header = png.read_header(body)
    _check_pixels(header.width, header.height, label)
    png.check_whole(body, header)
    image = _open(PngImageFile, body, label)
    _load(image, label)
    sampled = image.resize((SIDE * 8, SIDE * 8), Resampling.NEAREST)
    pixels = sampled.convert("RGB").resize((SIDE, SIDE), Resampling.BOX).convert("L")
    return _as_displayed(image, header.width, header.height, pixels.tobytes())


def _open(plugin: type[JpegImageFile | PngImageFile], body: bytes, label: str) -> JpegImageFile | PngImageFile:
    """Open an image by its plugin, because `Image.open` uses globals for its warnings and limits."""
    try:
        return plugin(BytesIO(body))
    except Exception as error:  # noqa: BLE001 - odd bytes can make Pillow raise anything
        _refuse_unreadable(label, error)


def _load(image: JpegImageFile | PngImageFile, label: str) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - odd bytes can make Pillow raise anything
        _refuse_unreadable(label, error)


def _refuse_unreadable(label: str, error: Exception) -> NoReturn:
    """Refuse an image that is whole: the provider's decoder may be the same as ours, and fail after it is paid."""
    message = f"{label} is complete, but the widespread decoder Pillow cannot read it ({_words(error)})"
    raise Refused(message, "Open it, save it again and upload the new file", "unreadable") from error


def _words(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _as_displayed(image: ImageFile, width: int, height: int, pixels: bytes) -> tuple[int, int, str]:
    return (*((height, width) if _orientation(image) in _ROTATED else (width, height)), fingerprint(pixels))


def _orientation(image: ImageFile) -> object:
    try:
        return image.getexif().get(ExifTag.Orientation)
    except Exception:  # noqa: BLE001 - broken EXIF is not a reason to refuse an image
        return None


def _refuse_damaged(body: bytes, image_format: ImageFormat, label: str, error: Exception) -> NoReturn:
    if _ends_early(body, image_format):
        message = f"{label} is truncated: the {image_format} data ends early, after {len(body):,} bytes"
        raise Refused(message, "Upload the complete file again", "truncated") from error
    message = f"{label} is corrupt: its {image_format} data cannot be decoded ({_words(error)})"
    raise Refused(message, "Open it, save it again and upload the new file", "corrupt") from error


def _ends_early(body: bytes, image_format: ImageFormat) -> bool:
    if image_format == "PNG":
        return b"IEND" + _IEND_CRC not in body
    return body.rfind(b"\xff\xd9") < max(body.rfind(b"\xff\xda"), 1)


def _check_pixels(width: int, height: int, label: str, scans: int = 1) -> None:
    if width * height > MAX_PIXELS:
        measured = f"{width} x {height} px ({width * height / 1e6:.0f} million)"
        message = f"{label} has too many pixels: {measured}; the limit is {MAX_PIXELS // 1_000_000} million"
        raise Refused(message, "Scale it down; the video has at most 1920 x 1080 px", "bomb")
    if width * height * scans > MAX_SCANNED_PIXELS:
        message = f"{label} takes too long to decode: {width} x {height} px in {scans:,} scans"
        raise Refused(message, "Open it, save it again and upload the new file", "bomb")


def _check_sides(width: int, height: int, label: str) -> None:
    short = min(width, height)
    if short <= SHORT_SIDE_OVER:
        limit = f"the short side must be more than {SHORT_SIDE_OVER} px"
        raise Refused(f"{label} is too small: {width} x {height} px; {limit}", "Use a larger original", "short_side")
    if max(width, height) * RATIO_NARROW >= short * RATIO_WIDE:
        measured = f"{width}:{height} ({width / height:.3f})"
        limit = "it must be above 2:5 (0.4) and below 5:2 (2.5)"
        raise Refused(f"{label} has an aspect ratio of {measured}; {limit}", "Crop it", "ratio")
