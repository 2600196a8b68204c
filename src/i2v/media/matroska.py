"""The outer structure of a WebM or Matroska file: `check_segment` finds a truncated one, which FFmpeg does not."""

from i2v.errors import BrokenVideo

_SEGMENT = b"\x18\x53\x80\x67"


def check_segment(head: bytes, size: int) -> None:
    """Compare the length of the segment with the size of the file. Raise `BrokenVideo` if bytes are missing."""
    length, begin = _number(head, 4)
    position = begin + length
    if head[position : position + 4] != _SEGMENT:
        return
    length, begin = _number(head, position + 4)
    is_unknown = length == (1 << 7 * (begin - position - 4)) - 1
    if not is_unknown and begin + length > size:
        raise BrokenVideo(f"The video is truncated: its segment is {begin + length - size:,} bytes short")


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Return an EBML number of 1 to 8 bytes, and the position behind it."""
    width = 9 - data[position].bit_length() if position < len(data) else 1
    number = int.from_bytes(data[position : position + width])
    return number & ((1 << 7 * width) - 1), position + width
