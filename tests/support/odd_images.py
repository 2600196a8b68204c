"""Make JPEGs and PNGs and change their segments and chunks. No foreign bytes."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from sandbox.synthetic_images import make_image

ROW = b"\0" + bytes(640 * 3)
"""One row of a PNG of 640 px."""


def save(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    """Encode an image, by default of 640 x 480 px."""
    out = io.BytesIO()
    (image or make_image(640, 480)).save(out, form, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    """Return a PNG's chunk; `crc` is a wrong checksum."""
    checksum = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def segment(marker: int, data: bytes) -> bytes:
    """Return a JPEG's segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def make_rows(rows: bytes, *, color: int = 2, extra: bytes = b"", height: int = 480) -> bytes:
    """Return a PNG of 640 px width with these unpacked rows and further chunks before them."""
    head = struct.pack(">IIBBBBB", 640, height, 8, color, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def scan_of(jpeg: bytes) -> int:
    """Return where the first scan begins."""
    return jpeg.index(b"\xff\xda")


def cut_scan(jpeg: bytes, share: float) -> bytes:
    """Return a JPEG with this share of its data, and the end marker."""
    at = scan_of(jpeg)
    return jpeg[: at + int((len(jpeg) - at) * share)] + b"\xff\xd9"


def without_data(jpeg: bytes) -> bytes:
    """Return a JPEG that ends behind the header of its first scan."""
    at = scan_of(jpeg)
    return jpeg[: at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])] + b"\xff\xd9"


def with_hole(jpeg: bytes, size: int = 2000, *, filled: bool) -> bytes:
    """Return a JPEG with bytes missing in the middle of its data, or replaced with zeros."""
    at = scan_of(jpeg)
    at += (len(jpeg) - at) // 2
    return jpeg[:at] + bytes(size if filled else 0) + jpeg[at + size :]


def with_height(jpeg: bytes, height: int) -> bytes:
    """Return a JPEG whose header has another height."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">H", height) + jpeg[at + 7 :]


def with_scans(width: int, height: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    whole = save("JPEG", Image.new("RGB", (width, height), (90, 120, 30)), progressive=True, quality=50)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"
