"""A corpus of hostile files, made with a fixed seed: forged tables, bombs, endless boxes, and fuzzed bytes."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal, NamedTuple

from sandbox.synthetic_images import make_image
from tests.support.odd_images import chunk, cut_scan, make_rows, save, segment, with_height, with_hole, with_scans
from tests.support.odd_videos import STBL, box, find, make_film, put32, with_forged_index, with_forged_table

SEED = 20261127


class HostileFile(NamedTuple):
    """A file, how it was made, and whether it is taken as an image or a video."""

    number: int
    how: str
    kind: Literal["image", "video"]
    body: bytes


def hostile_files(count: int, only: str = "") -> Iterator[HostileFile]:
    """Yield this many files, each way of making them in turn, or those made in one way; always the same."""
    ways = [*_IMAGES.items(), *_VIDEOS.items()]
    for number in range(count):
        name, make = ways[number % len(ways)]
        if only not in {"", name}:
            continue
        rng = random.Random(f"{SEED} {number}")  # noqa: S311 - repeatable chance
        yield HostileFile(number, name, "image" if name in _IMAGES else "video", make(rng))


@cache
def _jpegs() -> tuple[bytes, ...]:
    photo = make_image(640, 480)
    return save("JPEG", photo), save("JPEG", photo, progressive=True), save("JPEG", photo, restart_marker_rows=1)


@cache
def _pngs() -> tuple[bytes, ...]:
    return save("PNG", make_image(400, 320)), save("PNG", make_image(400, 320).convert("P"))


@cache
def _films() -> tuple[bytes, ...]:
    return (
        make_film(),
        make_film(movflags="faststart"),
        make_film(movflags="frag_keyframe+empty_moov"),
        make_film(form="webm", codec="libvpx-vp9", frames=12),
        make_film(codec="mpeg4"),
    )


def _fuzzed(body: bytes, rng: random.Random, *, head: int | None = None) -> bytes:
    """Change, cut out, repeat or insert a few bytes."""
    out = bytearray(body)
    for _ in range(rng.choice((1, 2, 5, 20, 100))):
        at = rng.randrange(min(len(out), head or len(out)))
        what = rng.randrange(5)
        if what == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            out[at : at + 4] = struct.pack(">I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32))))
        elif what == 2:
            del out[at : at + rng.randrange(1, 64)]
        elif what == 3:
            out[at:at] = out[at : at + rng.randrange(1, 64)]
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 16))
    return bytes(out)


def _forged_sides(rng: random.Random) -> bytes:
    jpeg = rng.choice(_jpegs())
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", rng.getrandbits(16), rng.getrandbits(16)) + jpeg[at + 9 :]


def _flat_png(rng: random.Random) -> bytes:
    side = rng.choice((1000, 4000, 10_000, 30_000))
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _text_bomb(rng: random.Random) -> bytes:
    png = rng.choice(_pngs())
    bomb = zlib.compress(bytes(rng.choice((1_000_000, 30_000_000))), 9)
    name, before = rng.choice(((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")))
    return png[:33] + chunk(name, before + bomb) + png[33:]


def _endless_boxes(rng: random.Random) -> bytes:
    name = rng.choice((b"free", b"uuid", b"abcd", b"moof", b"skip"))
    return box(name, b"") * rng.choice((5_000, 20_000, 300_000)) + rng.choice(_films()[:2])


def _nested_boxes(rng: random.Random) -> bytes:
    body = b""
    for _ in range(rng.choice((10, 300, 3000))):
        body = box(rng.choice((b"moov", b"trak", b"udta", b"meta", b"mdia")), body)
    return box(b"ftyp", b"isom\0\0\0\0isom") + body


def _many_inside(rng: random.Random) -> bytes:
    inside = box(rng.choice((b"trak", b"udta", b"free", b"edts")), b"") * rng.choice((1000, 100_000))
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", inside) + box(b"mdat", b"x")


def _forged_entry_count(rng: random.Random) -> bytes:
    film = _films()[rng.randrange(2)]
    name = rng.choice((b"stts", b"stsc", b"stco", b"stss"))
    return put32(film, find(film, *STBL, name)[0] + 12, rng.choice((1 << 20, 1 << 26, 0x7FFFFFFF, 0xFFFFFFFF)))


def _forged_durations(rng: random.Random) -> bytes:
    """Give each frame a huge duration, and many of them."""
    film = _films()[rng.randrange(2)]
    at = find(film, *STBL, b"stts")[0]
    return put32(put32(film, at + 16, rng.choice((24, 1 << 22, 0xFFFFFFF))), at + 20, rng.getrandbits(31))


_IMAGES: dict[str, Callable[[random.Random], bytes]] = {
    "jpeg, fuzzed": lambda rng: _fuzzed(rng.choice(_jpegs()), rng),
    "jpeg, fuzzed header": lambda rng: _fuzzed(rng.choice(_jpegs()), rng, head=700),
    "jpeg, cut": lambda rng: cut_scan(rng.choice(_jpegs()), rng.random()),
    "jpeg, a hole": lambda rng: with_hole(rng.choice(_jpegs()), rng.randrange(1, 4000), filled=rng.random() < 0.5),
    "jpeg, forged sides": _forged_sides,
    "jpeg, forged height": lambda rng: with_height(rng.choice(_jpegs()), rng.randrange(1, 65_000)),
    "jpeg, many scans": lambda rng: with_scans(rng.choice((400, 2000)), 400, rng.choice((50, 400, 2000))),
    "jpeg, many segments": lambda rng: _jpegs()[0][:2] + segment(rng.randrange(0xE0, 0xF0), b"x") * 50_000,
    "png, fuzzed": lambda rng: _fuzzed(rng.choice(_pngs()), rng),
    "png, flat": _flat_png,
    "png, text bomb": _text_bomb,
    "png, rows": lambda rng: make_rows(rng.randbytes(1) * rng.choice((10, 1921 * 480, 20_000_000)), height=480),
    "png, many chunks": lambda rng: _pngs()[0][:33] + chunk(b"teST", b"") * rng.choice((1000, 200_000)),
    "random": lambda rng: rng.choice((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) + rng.randbytes(5000),
}
_VIDEOS: dict[str, Callable[[random.Random], bytes]] = {
    "mp4, fuzzed": lambda rng: _fuzzed(rng.choice(_films()), rng),
    "mp4, fuzzed index": lambda rng: _fuzzed(_films()[1], rng, head=2500),
    "mp4, fuzzed fragments": lambda rng: _fuzzed(_films()[2], rng, head=2500),
    "webm, fuzzed": lambda rng: _fuzzed(_films()[3], rng, head=rng.choice((500, 20_000))),
    "mp4, cut": lambda rng: (film := rng.choice(_films()))[: rng.randrange(len(film))],
    "mp4, zeros": lambda rng: (
        (film := rng.choice(_films()))[: (at := rng.randrange(len(film)))] + bytes(len(film) - at)
    ),
    "mp4, forged sizes": lambda rng: with_forged_table(_films()[rng.randrange(2)], 1 << rng.randrange(4, 31)),
    "mp4, forged index": lambda rng: with_forged_index(_films()[rng.randrange(2)], 1 << rng.randrange(10, 31)),
    "mp4, forged entries": _forged_entry_count,
    "mp4, forged durations": _forged_durations,
    "mp4, endless boxes": _endless_boxes,
    "mp4, nested boxes": _nested_boxes,
    "mp4, many boxes inside": _many_inside,
}
