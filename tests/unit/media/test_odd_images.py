"""Pictures that are half missing are refused; whole ones are not called corrupt for a side matter."""

from __future__ import annotations

import random
import struct
import time
import zlib

import pytest
from PIL import Image

from i2v.errors import Refused
from i2v.media.image_check import check_image
from i2v.media.png import PngHeader
from sandbox.synthetic_images import make_image
from tests.support.odd_images import (
    ROW,
    chunk,
    cut_scan,
    make_rows,
    save,
    scan_of,
    segment,
    with_height,
    with_hole,
    with_scans,
    without_data,
)

NOISE = Image.frombytes("RGB", (640, 480), random.Random(3).randbytes(640 * 480 * 3))  # noqa: S311 - a picture
PHOTO = Image.blend(make_image(640, 480), NOISE, 0.15)
JPEGS = {
    "baseline": save("JPEG", PHOTO),
    "smooth": save("JPEG", quality=85),
    "progressive": save("JPEG", PHOTO, progressive=True),
    "with restart markers": save("JPEG", PHOTO, restart_marker_blocks=10),
    "gray": save("JPEG", PHOTO.convert("L"), progressive=True),
    "CMYK": save("JPEG", PHOTO.convert("CMYK")),
    "4:4:4": save("JPEG", PHOTO, subsampling=0),
}
PNG = save("PNG", PHOTO)
BASELINE = JPEGS["smooth"]
DAMAGE = {
    "half of the data": lambda jpeg: cut_scan(jpeg, 0.5),
    "a hundredth missing": lambda jpeg: cut_scan(jpeg, 0.99),
    "no data": without_data,
    "a hole": lambda jpeg: with_hole(jpeg, filled=False),
    "a hole of zeros": lambda jpeg: with_hole(jpeg, filled=True),
    "twice the height": lambda jpeg: with_height(jpeg, 960),
}


def rule(body: bytes) -> str:
    """Return the rule that refuses an image, or `accepted`."""
    try:
        check_image(body, "x.jpg")
    except Refused as refusal:
        return refusal.rule
    return "accepted"


@pytest.mark.parametrize("body", [*JPEGS.values(), PNG], ids=[*JPEGS, "PNG"])
def test_a_whole_picture_is_accepted(body: bytes) -> None:
    """The same pictures without the damage are accepted."""
    assert rule(body) == "accepted"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("jpeg", JPEGS.values(), ids=JPEGS.keys())
def test_a_jpeg_with_missing_data_is_refused(jpeg: bytes, damage) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Pillow shows gray where data is missing, without a word; nothing is paid for such a picture."""
    assert rule(damage(jpeg)) in {"truncated", "corrupt"}


BAD_PNGS = {
    "half of its rows": make_rows(ROW * 240),
    "all but one row": make_rows(ROW * 479),
    "half a row": make_rows((ROW * 480)[:-1]),
    "no rows": make_rows(b""),
    "no palette": make_rows((b"\0" + bytes(640)) * 480, color=3),
    "two headers": PNG[:33] + PNG[8:],
    "an unknown critical chunk": PNG[:33] + chunk(b"ABCD", b"x") + PNG[33:],
    "Apple's own format": PNG[:8] + chunk(b"CgBI", b"\x50\0\x20\x06") + PNG[8:],
    "an unknown filter": make_rows((b"\x09" + ROW[1:]) * 480),
    "data that cannot be unpacked": PNG[:33] + chunk(b"IDAT", b"no zlib stream") + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("body", BAD_PNGS.values(), ids=BAD_PNGS.keys())
def test_a_png_that_libpng_cannot_read_is_refused(body: bytes) -> None:
    """Rows are counted, and the chunks that a picture needs are required."""
    assert rule(body) in {"truncated", "corrupt"}


def test_rows_are_counted_in_every_layout() -> None:
    """Interlaced pictures and those of 1 to 16 bits per sample are whole, and refused without their last byte."""
    assert rule(make_rows(ROW * 480)) == "accepted"
    assert rule(make_rows(ROW * 480 + b"more")) == "accepted"
    palette = chunk(b"PLTE", bytes(768))
    assert rule(make_rows((b"\0" + bytes(640)) * 480, color=3, extra=palette)) == "accepted"


def _app(marker: int, data: bytes) -> bytes:
    return BASELINE[:2] + segment(marker, data) + BASELINE[2:]


def _ancillary(what: bytes) -> bytes:
    return PNG[:33] + what + PNG[33:]


SIDE_MATTERS = {
    "JFIF without its version": BASELINE[:2] + segment(0xE0, b"JFIF\0") + BASELINE[20:],
    "an empty color profile": _app(0xE2, b"ICC_PROFILE\0"),
    "TEM and RST0 before the tables": BASELINE[:2] + b"\xff\x01\xff\xd0" + BASELINE[2:],
    "a short Adobe marker": _app(0xEE, b"Adobe"),
    "bytes before the end": BASELINE[:-2] + bytes(4) + BASELINE[-2:],
    "long text": _ancillary(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a1b2 " * 300_000))),
    "acTL of two bytes": _ancillary(chunk(b"acTL", b"\0\0")),
    "wrong checksum of tIME": PNG[:-12] + chunk(b"tIME", b"\x07\xe9\1\1\1\1\1", crc=1) + PNG[-12:],
    "wrong checksum of tEXt": _ancillary(chunk(b"tEXt", b"Comment\0hi", crc=1)),
    "wrong checksum of eXIf": _ancillary(chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0", crc=1)),
    "gAMA without a value": _ancillary(chunk(b"gAMA", b"")),
}


@pytest.mark.parametrize("body", SIDE_MATTERS.values(), ids=SIDE_MATTERS.keys())
def test_a_side_matter_does_not_make_a_picture_corrupt(body: bytes) -> None:
    """A whole picture is accepted, or, where Pillow fails, refused in words that are true."""
    assert rule(body) in {"accepted", "unreadable"}


def test_the_words_are_true_where_only_pillow_fails() -> None:
    """The message says that the picture is complete."""
    with pytest.raises(Refused, match="is complete, but the widespread decoder Pillow cannot read it"):
        check_image(SIDE_MATTERS["JFIF without its version"], "x.jpg")


def test_a_jpeg_that_ffmpeg_does_not_know_is_read_by_pillow() -> None:
    """Rare samplings of color are not supported by FFmpeg; such a picture is accepted and has its full sides."""
    at = BASELINE.index(b"\xff\xc0") + 11
    sampled = bytearray(BASELINE)
    sampled[at], sampled[at + 3] = 0x21, 0x12
    facts = check_image(bytes(sampled), "x.jpg")
    assert (facts.width, facts.height, len(facts.fingerprint)) == (640, 480, 64)


def test_interlaced_rows_are_counted() -> None:
    """Each pass of an interlaced PNG is counted, with any size and depth."""
    for width, depth, color in ((401, 8, 2), (403, 1, 0), (405, 16, 6), (407, 4, 0)):
        header = PngHeader(width, 333, depth, color, interlaced=True)
        rows = b"".join(bytes(length) * count for count, length in header.rows())
        head = struct.pack(">IIBBBBB", width, 333, depth, color, 0, 0, 1)
        for data, expected in ((rows, "accepted"), (rows[:-1], "corrupt")):
            body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
            assert rule(b"\x89PNG\r\n\x1a\n" + body) == expected


def test_countless_scans_are_refused_before_they_are_decoded() -> None:
    """A progressive JPEG of 0.7 MB that would take half a minute is refused by its count of scans."""
    body = with_scans(8000, 6000, 400)
    begun = time.process_time()
    assert rule(body) == "bomb"
    assert time.process_time() - begun < 1
    assert scan_of(body) > 0
