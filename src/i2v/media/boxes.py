"""The outer structure of an mp4 or MOV: `walk_boxes` finds truncated boxes, oddities and marks of AI origin."""

import re
from dataclasses import dataclass, field
from typing import BinaryIO

from i2v.errors import BrokenVideo
from i2v.media.file_type import describe_file_type

MAX_BOXES = 10_000
"""A fragment for each frame of 10 s takes 500."""
_NEEDED = frozenset({b"ftyp", b"moov", b"mdat", b"moof", b"meta", b"mfra"})
"""Boxes that must be complete; what is cut from others is not needed to play the video."""
_NAME = re.compile(rb"[A-Za-z0-9 \xa9_-]{4}")
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_SOURCE_TYPE = re.compile(rb"digitalsourcetype/([A-Za-z]{3,60})", re.IGNORECASE)
_MARKED = frozenset({b"uuid", b"moov", b"meta"})
_READ_BYTES = 4 << 20
"""How much of a box is searched for marks."""


@dataclass
class Boxes:
    """What the boxes show: the file's size and brand, what is odd, and what marks it as made by AI."""

    size: int
    brand: bytes = b""
    flags: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)


def walk_boxes(file: BinaryIO) -> Boxes:
    """Walk the outer boxes, because FFmpeg does not reject a truncated last one. Raise `BrokenVideo`."""
    found = Boxes(file.seek(0, 2))
    position = 0
    for number in range(MAX_BOXES + 1):
        length, name, head = _box(file, position, found.size)
        if position >= found.size or not _is_box(length, name, found.size - position):
            break
        if number == MAX_BOXES:
            raise BrokenVideo(f"The video has more than {MAX_BOXES:,} boxes")
        if number == 0 and name != b"ftyp":
            found.flags.append(f"begins with a {name.decode('latin-1')} box")
        found.brand = found.brand or (head[8:12] if name == b"ftyp" else b"")
        if position + length > found.size:
            _note_cut(found, name, position + length - found.size)
        if name in _MARKED:
            _search_marks(file, position, length, found)
        position += length
    if position == 0:
        file.seek(0)
        kind = describe_file_type(file.read(1024))
        raise BrokenVideo(f"The file is not an mp4: its {found.size:,} bytes contain {kind}")
    if position < found.size:
        found.flags.append(f"{found.size - position:,} bytes follow the last box")
    return found


def _box(file: BinaryIO, position: int, size: int) -> tuple[int, bytes, bytes]:
    """Return a box's length, name and head. Length 0 means up to the end; 1 means that a 64-bit length follows."""
    file.seek(position)
    head = file.read(16)
    length, name, least = int.from_bytes(head[:4]), head[4:8], 8
    if length == 1:
        length, least = int.from_bytes(head[8:16]), 16
    return (max(length, least) if length else size - position), name, head


def _is_box(length: int, name: bytes, left: int) -> bool:
    """Return whether this can be a box: a cut one must have a name that is known to be last."""
    return _NAME.fullmatch(name) is not None and (length <= left or name in _NEEDED | {b"free", b"skip", b"uuid"})


def _note_cut(found: Boxes, name: bytes, missing: int) -> None:
    if name in _NEEDED:
        raise BrokenVideo(f"The video is truncated: its {name.decode()} box is {missing:,} bytes short")
    found.flags.append(f"its {name.decode()} box is {missing:,} bytes short")


def _search_marks(file: BinaryIO, position: int, length: int, found: Boxes) -> None:
    file.seek(position + 8)
    content = file.read(min(length, _READ_BYTES))
    marks = [f"iptc:{kind.decode()}" for kind in _SOURCE_TYPE.findall(content)]
    if content.startswith(_C2PA):
        marks.append("c2pa")
    found.marks += [mark for mark in dict.fromkeys(marks) if mark not in found.marks]
