"""A delivered video: `examine_video` checks that it is a complete mp4, measures it and makes its poster.

It runs C code (FFmpeg, through PyAV) on untrusted bytes: call it in a thread, not in the event loop. Keep publishing
out (`i2v.pipeline.store`).
"""

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
"""FFmpeg's scale from 1 to 31; lower is better."""
ROTATED_QUALITY = 90
"""Pillow's scale, for a poster that had to be rotated."""

_BOXES = frozenset(b"ftyp styp moov mdat moof mfra sidx ssix free skip wide meta uuid pdin emsg prft".split())
"""The boxes of an mp4. Players ignore what follows the last known box."""
_UNSPECIFIED = 2
_KNOWN_COLORSPACES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""FFmpeg's numbers of the color spaces it can convert for a JPEG; posters from others are slightly off."""
_PACKET_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""FFmpeg's filters that parse the units in each packet and so detect overwritten data, at almost no cost."""


def examine_video(path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
    """Read every packet of an mp4, measure it, and return its facts and its poster, a JPEG of the first frame.

    `sha256` is the file's hash. Raise `BrokenVideo` if it is not an mp4, has no video, or is truncated or damaged.
    """
    with path.open("rb") as file:
        size = _check_boxes(file)
    frames, packet_seconds = _read_packets(path)
    with _mp4(path) as container:
        stream = _video_stream(container)
        seconds = _seconds(container, stream)
        codec = stream.codec_context.codec.canonical_name
        frame = _first_frame(container, stream)
        width, height = stream.codec_context.width, stream.codec_context.height
    if packet_seconds < seconds - SECONDS_TOLERANCE:
        raise BrokenVideo(f"The video is truncated: it declares {seconds:.2f} s and contains {packet_seconds:.2f} s")
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
    Image.open(BytesIO(jpeg)).rotate(frame.rotation, expand=True).save(buffer, "JPEG", quality=ROTATED_QUALITY)
    return buffer.getvalue()


def _jpeg(frame: VideoFrame, width: int, height: int) -> bytes:
    """Encode with FFmpeg: it converts the colors without RGB in between, in a third of Pillow's time."""
    encoder = VideoCodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base, encoder.thread_count = Fraction(1), 1
    encoder.qmin = encoder.qmax = POSTER_QUANTIZER
    encoder.options = {"huffman": "default"}
    if frame.colorspace not in _KNOWN_COLORSPACES:
        frame.colorspace = _UNSPECIFIED
    colors, scaling = Colorspace.ITU601, Interpolation.FAST_BILINEAR
    picture = frame.reformat(width, height, "yuvj420p", dst_colorspace=colors, interpolation=scaling, threads=1)
    picture.pts = 0
    return b"".join(map(bytes, encoder.encode(picture)))


def _check_boxes(file: BinaryIO) -> int:
    """Walk the boxes and return the file's size in bytes. FFmpeg does not reject a truncated last box."""
    size = file.seek(0, 2)
    position = 0
    while position < size:
        length, name = _box(file, position, size)
        if name not in _BOXES:
            break
        if position + length > size:
            missing = position + length - size
            raise BrokenVideo(f"The video is truncated: its {name.decode()} box is {missing:,} bytes short")
        position += length
    if position == 0:
        file.seek(0)
        raise BrokenVideo(f"The file is not an mp4: its {size:,} bytes contain {describe_file_type(file.read(1024))}")
    return size


def _box(file: BinaryIO, position: int, size: int) -> tuple[int, bytes]:
    """Return a box's length and name. Length 0 means up to the end; 1 means that a 64-bit length follows."""
    file.seek(position)
    header = file.read(16)
    length, name, least = int.from_bytes(header[:4]), header[4:8], 8
    if length == 1:
        length, least = int.from_bytes(header[8:16]), 16
    return (max(length, least) if length else size - position), name


@contextmanager
def _mp4(path: Path, **options: str) -> Iterator[InputContainer]:
    """Open the file as mp4 only; otherwise a JPEG passes as a video of one frame."""
    options |= {"skip_frame": "all"}  # or opening decodes frames to guess what the header says
    try:
        with av.open(str(path.absolute()), format="mp4", options=options, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise BrokenVideo(f"The video cannot be read: {error.strerror}") from error


def _video_stream(container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise BrokenVideo("The file contains no video stream")


def _read_packets(path: Path) -> tuple[int, float]:
    """Read all packets of all streams; return the video's frame count and the seconds it spans."""
    with _mp4(path, ignore_editlist="1") as container:  # an edit list can hide frames that the header counts
        video = _video_stream(container)
        counts: Counter[int] = Counter()
        start, end = None, 0
        packet_filter = _packet_filter(video)
        for packet in container.demux(container.streams.video, container.streams.audio):
            if packet.dts is None:
                continue  # PyAV marks the end of a stream with it
            if packet.is_corrupt:
                raise BrokenVideo(f"The video is truncated: packet {counts[packet.stream_index]:,} is damaged")
            counts[packet.stream_index] += 1
            if packet.stream is video:
                pts = packet.pts if packet.pts is not None else packet.dts
                start = pts if start is None else min(start, pts)
                end = max(end, pts + (packet.duration or 0))
                if packet_filter:
                    packet_filter.filter(packet)
        _check_counts(container, counts)
        return counts[video.index], float((end - (start or 0)) * (video.time_base or 0))


def _packet_filter(stream: VideoStream) -> BitStreamFilterContext | None:
    name = _PACKET_FILTERS.get(stream.codec_context.codec.canonical_name)
    return BitStreamFilterContext(name, stream) if name else None


def _check_counts(container: InputContainer, counts: Counter[int]) -> None:
    """Compare the packets with the counts in the header. A fragmented mp4 declares no counts."""
    for stream in (*container.streams.video, *container.streams.audio):
        if counts[stream.index] < stream.frames:
            found = f"{counts[stream.index]:,} of {stream.frames:,} {stream.type} packets"
            raise BrokenVideo(f"The video is truncated: it contains {found}")


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    seconds = (container.duration or 0) / av.time_base
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    if seconds <= 0:
        raise BrokenVideo("The video has a length of 0 s")
    return seconds


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    stream.codec_context.thread_count = 1  # more threads start on later frames
    for frame in container.decode(stream):
        if isinstance(frame, VideoFrame):
            return frame
    raise BrokenVideo("The video has no decodable frame")
