"""Make small mp4s and change their boxes, as encoders, editors and interrupted transfers do. No foreign bytes."""

from __future__ import annotations

import struct
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from sandbox.synthetic_images import make_image

MVHD, MDHD = (b"moov", b"mvhd"), (b"moov", b"trak", b"mdia", b"mdhd")
TKHD, EDTS = (b"moov", b"trak", b"tkhd"), (b"moov", b"trak", b"edts")
STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
FPS = 24


def make_film(  # noqa: PLR0913 - one keyword for each oddity
    frames: int = FPS,
    *,
    movflags: str = "",
    form: str = "mp4",
    codec: str = "libx264",
    sound: str = "",
    pixel_ratio: tuple[int, int] | None = None,
    small_first: bool = False,
    scene: Image.Image | None = None,
    moves: bool = True,
) -> bytes:
    """Return a film of 320 x 180 px at 24 frames a second; `sound` is the codec of one second of silence."""
    picture = (scene or make_image(320, 180)).resize((320, 180))
    options = {"movflags": movflags} if movflags else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"film.{form}")
        with av.open(str(path), "w", format=form, options=options) as container:
            small = _add_video(container, codec, 32, 18) if small_first else None
            film = _add_video(container, codec, 320, 180)
            if pixel_ratio:
                film.codec_context.sample_aspect_ratio = Fraction(*pixel_ratio)
            voice = container.add_stream(sound, rate=8000, layout="mono") if sound else None
            for number in range(frames):
                shown = picture.rotate(number) if moves else picture
                frame = av.VideoFrame.from_image(shown.convert("RGB"))  # type: ignore[no-untyped-call]
                if small:
                    container.mux(small.encode(frame.reformat(32, 18)))
                container.mux(film.encode(frame))
            for stream in filter(None, (small, film)):
                container.mux(stream.encode())
            if voice:
                _add_silence(container, cast("AudioStream", voice))
        return path.read_bytes()


def _add_video(container: OutputContainer, codec: str, width: int, height: int) -> VideoStream:
    options = {"preset": "ultrafast", "bf": "0"} if codec == "libx264" else {}
    stream = cast("VideoStream", container.add_stream(codec, rate=FPS, options=options))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    return stream


def _add_silence(container: OutputContainer, voice: AudioStream) -> None:
    silence = av.AudioFrame(format="s16", layout="mono", samples=8000)
    silence.sample_rate, silence.pts = 8000, 0
    for plane in silence.planes:
        plane.update(bytes(plane.buffer_size))
    container.mux(voice.encode(silence))
    container.mux(voice.encode())


def box(name: bytes, body: bytes, length: int | None = None) -> bytes:
    """Return a box; `length` is what it says instead of its length."""
    return struct.pack(">I", len(body) + 8 if length is None else length) + name + body


def find(data: bytes, *path: bytes) -> tuple[int, int]:
    """Return where a box begins, and its length."""
    found, at, end = 0, 0, len(data)
    length = end
    for name in path:
        while data[at + 4 : at + 8] != name:
            at += struct.unpack(">I", data[at : at + 4])[0]
            if at + 8 > end:
                raise LookupError(name)
        length = struct.unpack(">I", data[at : at + 4])[0]
        found, at, end = at, at + 8, at + length
    return found, length


def put32(data: bytes, at: int, value: int) -> bytes:
    """Return the data with another number of 32 bits."""
    return data[:at] + struct.pack(">I", value) + data[at + 4 :]


def with_media_duration(data: bytes, value: int) -> bytes:
    """Return the film with another duration in the first track's media header."""
    return put32(data, find(data, *MDHD)[0] + 24, value)


def with_last_sample(data: bytes, change: int | None) -> bytes:
    """Return the film whose table says that its last frame is this many bytes longer; `None`: that it has none."""
    at = find(data, *STBL, b"stsz")[0]
    at += 20 + 4 * (struct.unpack(">I", data[at + 16 : at + 20])[0] - 1)
    size = struct.unpack(">I", data[at : at + 4])[0]
    return put32(data, at, 0 if change is None else size + change)


def with_stray_end(data: bytes, stray: bytes) -> bytes:
    """Return the film with bytes that belong to no unit at the end of its last frame; its index must be last."""
    at, length = find(data, b"mdat")
    grown = put32(data, at, length + len(stray))
    return with_last_sample(grown[: at + length] + stray + grown[at + length :], len(stray))


def with_edit_list(data: bytes, *entries: tuple[int, int, int, int]) -> bytes:
    """Return the film with another edit list (duration, media time, rate, 0); its index must be last."""
    at, length = find(data, *EDTS)
    new = box(
        b"edts", box(b"elst", struct.pack(">II", 0, len(entries)) + b"".join(struct.pack(">IiHH", *e) for e in entries))
    )
    out = data[:at] + new + data[at + length :]
    for path in ((b"moov",), (b"moov", b"trak")):
        place, size = find(data, *path)
        out = put32(out, place, size + len(new) - length)
    return out


def with_matrix(data: bytes, *nine: int) -> bytes:
    """Return the film with another display matrix."""
    at = find(data, *TKHD)[0] + 48
    return data[:at] + struct.pack(">9i", *nine) + data[at + 36 :]


def with_first_box(data: bytes, first: bytes) -> bytes:
    """Return the film with a box before all others; its one table of offsets is corrected."""
    at = data.index(b"stco") + 4
    for number in range(struct.unpack(">I", data[at + 4 : at + 8])[0]):
        place = at + 8 + 4 * number
        data = put32(data, place, struct.unpack(">I", data[place : place + 4])[0] + len(first))
    return first + data


def with_forged_table(data: bytes, count: int) -> bytes:
    """Return the film whose table of frame sizes claims this many frames of one size."""
    at = find(data, *STBL, b"stsz")[0]
    return put32(put32(data, at + 12, 1), at + 16, count)


def with_forged_index(data: bytes, count: int) -> bytes:
    """Return the film whose tables agree on so many frames of one byte, each of which takes FFmpeg 24 bytes."""
    data = with_forged_table(data, count)
    stts, stsc = find(data, *STBL, b"stts")[0], find(data, *STBL, b"stsc")[0]
    return put32(put32(data, stts + 16, count), stsc + 20, count)
