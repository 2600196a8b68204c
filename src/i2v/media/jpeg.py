"""A JPEG's structure, and whether it is whole: `read_layout` walks its segments, `decode` reads all of its pixels.

FFmpeg's strict mode finds missing data, of which Pillow gives no sign: libjpeg only counts its warnings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from i2v.media.damage import Damaged

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
"""FFmpeg does not know arithmetic coding; libjpeg does."""
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_EOI, _SOS = 0xD9, 0xDA
_EIGHTH = "3"


@dataclass(frozen=True, slots=True)
class JpegLayout:
    """What the headers say: sides in pixels as stored, and the number of scans."""

    width: int
    height: int
    scans: int
    is_arithmetic: bool


def read_layout(body: bytes) -> JpegLayout:
    """Read the headers of a JPEG without decoding it. Raise `Damaged` if it has no complete frame."""
    frame, scans, scanned = b"", 0, set[int]()
    kind = 0
    for marker, segment in _segments(body):
        if marker in _FRAMES:
            if frame:
                raise Damaged("it has two frame headers")
            frame, kind = segment, marker
        elif marker == _SOS:
            scans += 1
            scanned.update(segment[1 : 1 + 2 * segment[0] : 2] if segment else b"")
    if len(frame) < 6 or not scans:  # noqa: PLR2004 - up to the number of components
        raise Damaged("it has no image data")
    components = set(frame[6 : 6 + 3 * frame[5] : 3])
    if components - scanned:
        raise Damaged(f"{len(components - scanned)} of its {len(components)} color components have no data")
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    return JpegLayout(width, height, scans, kind in _ARITHMETIC)


def _segments(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each marker with its segment, up to the end of the image."""
    position = 2
    while found := _MARKER.search(body, position):
        marker, position = found[1][0], found.end()
        if marker == _EOI:
            return
        if marker in _WITHOUT_LENGTH:
            continue
        end = position + max(2, int.from_bytes(body[position : position + 2]))
        yield marker, body[position + 2 : end]
        position = end
    raise Damaged("it has no end marker")


def decode(body: bytes) -> VideoFrame | None:
    """Decode the whole JPEG at an eighth of each side. Raise `Damaged` if data is missing.

    Return `None` if FFmpeg does not support this kind of JPEG.
    """
    for options in ({"lowres": _EIGHTH}, {}):
        decoder = VideoCodecContext.create("mjpeg", "r")
        decoder.thread_count, decoder.thread_type = 1, ThreadType.NONE
        decoder.options = {"err_detect": "explode", **options}
        try:
            frames = [*decoder.decode(av.Packet(body)), *decoder.decode(None)]
        except av.error.PatchWelcomeError:
            continue  # some samplings are decoded at full size only
        except av.error.InvalidDataError:
            raise Damaged("image data is missing or damaged") from None
        if not frames:
            raise Damaged("it has no image data")
        return frames[0]
    return None
