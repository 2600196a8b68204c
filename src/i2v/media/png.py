"""A PNG's structure, and whether it is whole: `read_header`, then `check_whole`, which counts the bytes of its rows.

As in libpng, checksums of chunks that are not needed for the picture do not matter.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from i2v.media.damage import Damaged

_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE = 3
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced PNG: first column, first row, columns between, rows between."""
_LAST_FILTER = 4
_PIECE = 1 << 20
MAX_CHUNKS = 100_000
"""Far above any encoder: 20 MB in chunks of 200 bytes."""


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The header: sides in pixels as stored, and how the rows are laid out."""

    width: int
    height: int
    depth: int
    color: int
    interlaced: bool

    def rows(self) -> Iterator[tuple[int, int]]:
        """Yield the number of rows and the bytes of each, with its filter byte, of each pass."""
        bits = self.depth * _CHANNELS[self.color]
        for left, top, across, down in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - left) // across), -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                yield rows, 1 + (columns * bits + 7) // 8


def read_header(body: bytes) -> PngHeader:
    """Read the first chunk. Raise `Damaged` if it is not a valid header."""
    name, data = next(_chunks(body))
    if name != b"IHDR" or len(data) != 13:  # noqa: PLR2004 - its length
        raise Damaged("it does not begin with a header")
    width, height = int.from_bytes(data[:4]), int.from_bytes(data[4:8])
    depth, color, compression, filtering, interlace = data[8:]
    valid = depth in _DEPTHS.get(color, ()) and not compression and not filtering and interlace <= 1
    if not (valid and width and height):
        raise Damaged("its header is not valid")
    return PngHeader(width, height, depth, color, bool(interlace))


def check_whole(body: bytes, header: PngHeader) -> None:
    """Check the chunks and unpack all rows, in little memory. Raise `Damaged`."""
    seen: set[bytes] = set()
    rows = _RowCounter(header)
    for name, data in _chunks(body):
        if name in {b"IHDR", b"PLTE"} & seen:
            raise Damaged(f"it has two {name.decode()} chunks")
        if name == b"IDAT":
            if header.color == _PALETTE and b"PLTE" not in seen:
                raise Damaged("it has no palette")
            rows.add(data)
        elif name not in _CRITICAL and not name[0] & 32:
            raise Damaged(f"it has an unknown critical chunk {name.decode('ascii', 'replace')}")
        seen.add(name)
    if rows.missing:
        raise Damaged(f"{rows.missing:,} of its rows are missing")


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Yield name and data of each chunk up to `IEND`. Check the checksums of critical chunks."""
    view, position = memoryview(body), 8
    for _ in range(MAX_CHUNKS):
        length, name = int.from_bytes(view[position : position + 4]), bytes(view[position + 4 : position + 8])
        end = position + 12 + length
        if len(name) < 4 or end > len(body):  # noqa: PLR2004 - a chunk's name
            raise Damaged("it ends within a chunk")
        if not name.isalpha():
            raise Damaged("it has a chunk without a name")
        data = view[position + 8 : end - 4]
        if not name[0] & 32 and zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise Damaged(f"the checksum of its {name.decode()} chunk is wrong")
        yield name, data
        if name == b"IEND":
            return
        position = end
    raise Damaged(f"it has more than {MAX_CHUNKS:,} chunks")


class _RowCounter:
    """Unpacks the rows and counts them; what follows the last row is ignored."""

    def __init__(self, header: PngHeader) -> None:
        self._passes = [[rows, width] for rows, width in header.rows()]
        self._unpacker = zlib.decompressobj()
        self._skip = 0
        """Bytes up to the next row's filter byte."""

    @property
    def missing(self) -> int:
        """How many rows have not come, the last partial one among them."""
        return sum(rows for rows, _ in self._passes) + (self._skip > 0)

    def add(self, data: bytes | memoryview) -> None:
        """Unpack a chunk."""
        while data and self.missing:
            try:
                self._count(self._unpacker.decompress(data, _PIECE))
            except zlib.error:
                raise Damaged("its data cannot be unpacked") from None
            data = self._unpacker.unconsumed_tail

    def _count(self, piece: bytes) -> None:
        position = 0
        while True:
            step = min(self._skip, len(piece) - position)
            position, self._skip = position + step, self._skip - step
            if position == len(piece) or not self._passes:
                return
            rows, width = self._passes[0]
            filters = piece[position::width][:rows]
            if max(filters) > _LAST_FILTER:
                raise Damaged("a row has an unknown filter")
            self._skip = len(filters) * width
            self._passes[0][0] -= len(filters)
            if not self._passes[0][0]:
                del self._passes[0]
