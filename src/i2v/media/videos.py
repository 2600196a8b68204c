"""A delivered video: whether it is a whole mp4, its `VideoFacts` (`i2v.media.video_facts`), and its poster.

It is C code on foreign bytes (PyAV, which is FFmpeg): plain functions, for a thread and not for the event loop. What
is published where is in `i2v.pipeline.store`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream
from PIL import Image

from i2v.errors import BrokenVideo
from i2v.media.file_type import describe_file_type
from i2v.media.video_facts import SECONDS_TOLERANCE, VideoFacts

POSTER_LONG_SIDE_PX = 960
POSTER_QUANTIZER = 3
"""FFmpeg's scale of 1 to 31, less is better."""
TURNED_QUALITY = 90
"""Pillow's, of a poster that had to be turned."""

_BOXES = frozenset(b"ftyp styp moov mdat moof mfra sidx ssix free skip wide meta uuid pdin emsg prft".split())
"""The parts of an mp4. Another name after them is no part, and players pass over it."""
UNSPECIFIED = 2
_KNOWN_COLOURS = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""FFmpeg's numbers of the ways to write colours that it can turn into a JPEG's; a poster of others is a bit off."""
_CHECKED_BY = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""FFmpeg's filters that walk the units in each packet, and so find one that was overwritten, at no cost."""


def examine_video(path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
    """Read every packet of an mp4, decode its first frame, and measure it; that frame is its poster, a JPEG.

    Args:
        path: the file.
        sha256: of its bytes, which whoever brought it has hashed on the way.

    Raises:
        BrokenVideo: it is no mp4, has no video, is cut short, or its data is damaged.
        OSError: the file cannot be read at all.
    """
    with path.open("rb") as file:
        size = _check_boxes(file)
    frames, held_seconds = _read_packets(path)
    with _mp4(path) as container:
        stream = _picture(container)
        seconds = _seconds(container, stream)
        codec = stream.codec_context.codec.canonical_name
        frame = _first_frame(container, stream)
        width, height = stream.codec_context.width, stream.codec_context.height
    if held_seconds < seconds - SECONDS_TOLERANCE:
        raise BrokenVideo(f"The video promises {seconds:.2f} s and holds {held_seconds:.2f} s")
    if frame.rotation % 180:
        width, height = height, width
    facts = VideoFacts(
        width=width, height=height, seconds=round(seconds, 3), frames=frames, codec=codec, size=size, sha256=sha256
    )
    return facts, _poster(frame)


def _poster(frame: VideoFrame) -> bytes:
    scale = min(1.0, POSTER_LONG_SIDE_PX / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    jpeg = _jpeg(frame, width, height)
    if not frame.rotation:
        return jpeg
    buffer = BytesIO()
    Image.open(BytesIO(jpeg)).rotate(frame.rotation, expand=True).save(buffer, "JPEG", quality=TURNED_QUALITY)
    return buffer.getvalue()


def _jpeg(frame: VideoFrame, width: int, height: int) -> bytes:
    """By FFmpeg, which goes from a film's colours to a JPEG's without RGB between, in a third of the time."""
    encoder = VideoCodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base, encoder.thread_count = Fraction(1), 1
    encoder.qmin = encoder.qmax = POSTER_QUANTIZER
    encoder.options = {"huffman": "default"}
    to, scaling = Colorspace.ITU601, Interpolation.FAST_BILINEAR
    if frame.colorspace not in _KNOWN_COLOURS:
        frame.colorspace = UNSPECIFIED
    picture = frame.reformat(width, height, "yuvj420p", dst_colorspace=to, interpolation=scaling, threads=1)
    picture.pts = 0
    return b"".join(map(bytes, encoder.encode(picture)))


def _check_boxes(file: BinaryIO) -> int:
    """Walk the file's parts, since FFmpeg forgives a last one that is cut. Returns the file's size in bytes."""
    size = file.seek(0, 2)
    position = 0
    while position < size:
        length, name = _box(file, position, size)
        if name not in _BOXES:
            break
        if position + length > size:
            missing = position + length - size
            raise BrokenVideo(f"The video is cut short: its part {name.decode()} lacks {missing:,} bytes")
        position += length
    if position == 0:
        file.seek(0)
        raise BrokenVideo(f"The file is no mp4: {size:,} bytes, by which it is {describe_file_type(file.read(1024))}")
    return size


def _box(file: BinaryIO, position: int, size: int) -> tuple[int, bytes]:
    """A part's length and name; length 0 means up to the end, 1 that the length follows in 64 bits."""
    file.seek(position)
    header = file.read(16)
    length, name, least = int.from_bytes(header[:4]), header[4:8], 8
    if length == 1:
        length, least = int.from_bytes(header[8:16]), 16
    return (max(length, least) if length else size - position), name


@contextmanager
def _mp4(path: Path, **options: str) -> Iterator[InputContainer]:
    """Open as mp4 and nothing else, or a JPEG would pass as one frame."""
    options |= {"skip_frame": "all"}  # else FFmpeg decodes a frame or more to open it, which only guesses what is told
    try:
        with av.open(str(path.absolute()), format="mp4", options=options, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise BrokenVideo(f"The video cannot be read: {error.strerror}") from error


def _picture(container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise BrokenVideo("The file has no video in it")


def _read_packets(path: Path) -> tuple[int, float]:
    """Read all packets of all streams. Returns the video's frames and the seconds they span."""
    with _mp4(path, ignore_editlist="1") as container:  # an edit list may leave out frames that the header counts
        picture = _picture(container)
        counts: Counter[int] = Counter()
        start, end = None, 0
        checker = _checker(picture)
        for packet in container.demux(container.streams.video, container.streams.audio):
            if packet.dts is None:
                continue  # PyAV's sign that a stream has ended
            if packet.is_corrupt:
                raise BrokenVideo(f"The video is cut short: packet {counts[packet.stream_index]:,} is damaged")
            counts[packet.stream_index] += 1
            if packet.stream is picture:
                pts = packet.pts if packet.pts is not None else packet.dts
                start = pts if start is None else min(start, pts)
                end = max(end, pts + (packet.duration or 0))
                if checker:
                    checker.filter(packet)
        _check_counts(container, counts)
        return counts[picture.index], float((end - (start or 0)) * (picture.time_base or 0))


def _checker(stream: VideoStream) -> BitStreamFilterContext | None:
    name = _CHECKED_BY.get(stream.codec_context.codec.canonical_name)
    return BitStreamFilterContext(name, stream) if name else None


def _check_counts(container: InputContainer, counts: Counter[int]) -> None:
    """As many packets as the header promises; one in fragments promises none."""
    for stream in (*container.streams.video, *container.streams.audio):
        if counts[stream.index] < stream.frames:
            promised, found = stream.frames, counts[stream.index]
            raise BrokenVideo(f"The video is cut short: {found:,} of {promised:,} {stream.type} packets are there")


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / av.time_base
    if seconds <= 0:
        raise BrokenVideo("The video lasts 0 s")
    return seconds


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    stream.codec_context.thread_count = 1  # others would begin the frames after it
    for frame in container.decode(stream):
        if isinstance(frame, VideoFrame):
            return frame
    raise BrokenVideo("The video has no frame that can be decoded")
