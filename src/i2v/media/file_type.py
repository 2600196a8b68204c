"""The type of a file, from its first bytes, as words for a message: `describe_file_type`."""

import re
from codecs import getincrementaldecoder

_SIGNATURES = (
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP"),
    (b"\x1f\x8b", "gzip data"),
    (b"8BPS", "a Photoshop file"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
)
_BRANDS = {"avif": "an AVIF", "avis": "an AVIF", "heic": "a HEIC", "heix": "a HEIC", "mif1": "a HEIC"}
"""Image brands of the ISO base media format; other brands are videos."""


def describe_file_type(body: bytes) -> str:
    """Return the type with its article, such as `a PNG`, `an HTML page`, `text`, `no data`."""
    for signature, name in _SIGNATURES:
        if body.startswith(signature):
            return name
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "a WebP"
    if body[4:8] == b"ftyp":
        return _BRANDS.get(body[8:12].decode("ascii", "replace"), "a video")
    return _describe_text(body[:1024])


def _describe_text(head: bytes) -> str:
    if not head:
        return "no data"
    try:
        # incremental, because the head may end within a character
        text = getincrementaldecoder("utf-8-sig")().decode(head).lstrip().lower()
    except UnicodeDecodeError:
        return _unknown(head)
    if "<svg" in text:
        return "an SVG"
    if text.startswith(("<!doctype html", "<html")):
        return "an HTML page"
    return _unknown(head) if re.search(r"[\x00-\x08\x0e-\x1f]", text) else "text"


def _unknown(head: bytes) -> str:
    return f"unknown data ({head[:8].hex(' ')} …)"
