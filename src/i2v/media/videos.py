"""A delivered video: `examine_video` checks that it is complete, measures it and makes its poster.

It runs C code (FFmpeg, through PyAV) on untrusted bytes: call it through `i2v.media.decoder`. Keep publishing out
(`i2v.pipeline.store`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from i2v.errors import BrokenVideo
from i2v.media import frames
from i2v.media.boxes import Boxes, walk_boxes
from i2v.media.matroska import check_segment
from i2v.media.poster import empty_poster, make_poster
from i2v.media.video_facts import SECONDS_TOLERANCE, VideoFacts

PLAYABLE = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"})
"""The codecs that browsers and editors play; others are flagged."""
_PACKET_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
"""FFmpeg's filters that parse the units in each packet and so detect overwritten data, at almost no cost."""
_EBML = b"\x1aE\xdf\xa3"
_QUICKTIME = b"qt  "
_SAMPLES = 6
_NAMES = {"webm": "WebM", "mkv": "Matroska", "mov": "QuickTime"}


def examine_video(path: Path, sha256: str, fingerprint: str = "") -> tuple[VideoFacts, bytes]:
    """Read every packet of a video, measure it, and return its facts and its poster, a JPEG of the first frame.

    `sha256` is the file's hash, `fingerprint` that of its image. Raise `BrokenVideo` if it is not a video, or is
    truncated or damaged. What is merely odd is a flag.
    """
    try:
        return _Examination(path).examine(sha256, fingerprint)
    except av.error.MemoryError:
        raise MemoryError from None
    except (BrokenVideo, MemoryError):
        raise
    except av.FFmpegError as error:
        raise BrokenVideo(f"The video cannot be read: {error.strerror}") from error
    except Exception as error:  # hostile bytes can make PyAV raise anything
        raise BrokenVideo(f"The video cannot be read: {type(error).__name__}") from error


def salvage(path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
    """Return the facts and a poster of a video that cannot be verified: its first frame if there is one, else gray."""
    try:
        return _Examination(path, is_strict=False).salvage(sha256)
    except Exception:  # noqa: BLE001 - hostile bytes can make PyAV raise anything
        return unknown_video(path, sha256)


def unknown_video(path: Path, sha256: str) -> tuple[VideoFacts, bytes]:
    """Return the facts and a gray poster of a file of which nothing can be decoded."""
    size = path.stat().st_size
    facts = VideoFacts(width=0, height=0, seconds=0, frames=0, codec="unknown", size=size, sha256=sha256)
    return facts, empty_poster()


@dataclass
class _Packets:
    """What the film's packets show."""

    sizes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    is_doubtful: bool = False
    """Whether a packet holds bytes that are not a unit of its codec."""
    flags: list[str] = field(default_factory=list)


class _Examination:
    """The examination of one file."""

    def __init__(self, path: Path, *, is_strict: bool = True) -> None:
        self._path = path
        with path.open("rb") as file:
            head = file.read(64)
            is_matroska = head.startswith(_EBML)
            self._boxes = Boxes(path.stat().st_size)
            if is_strict and is_matroska:
                check_segment(head, self._boxes.size)
            elif is_strict:
                self._boxes = walk_boxes(file)
        self._demuxer = "matroska" if is_matroska else "mp4"
        self._container = "mov" if self._boxes.brand == _QUICKTIME else "mp4"
        if is_matroska:
            self._container = "webm" if b"webm" in head else "mkv"

    def examine(self, sha256: str, fingerprint: str) -> tuple[VideoFacts, bytes]:
        """Read all packets and the first frame."""
        flags = [*self._boxes.flags]
        if self._container in _NAMES:
            flags.append(f"a {_NAMES[self._container]} file instead of an mp4")
        with self._open() as container:
            packets = _read_packets(container, _film(container))
        flags += packets.flags
        with self._open() as container:
            stream = _film(container)
            flags += _check_length(container, stream, packets, is_fragmented=self._demuxer == "mp4")
            frame = _first_frame(container, stream)
            facts, poster = self._describe(stream, frame, packets, sha256)
        if packets.is_doubtful:
            flags.append(self._decode_all(len(packets.sizes)))
        if facts.codec not in PLAYABLE:
            flags.append(f"its codec {facts.codec} is not played everywhere")
        flags += self._picture_flags(frame, fingerprint, packets)
        return facts.model_copy(update={"flags": tuple(flags)}), poster

    def salvage(self, sha256: str) -> tuple[VideoFacts, bytes]:
        """Read the first frame alone."""
        with self._open() as container:
            stream = _film(container)
            frame = _first_frame(container, stream)
            return self._describe(stream, frame, _Packets(), sha256)

    def _describe(
        self, stream: VideoStream, frame: VideoFrame, packets: _Packets, sha256: str
    ) -> tuple[VideoFacts, bytes]:
        """Return the facts, with sides as displayed, and the poster."""
        ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
        width, height = max(1, round(stream.codec_context.width * ratio)), stream.codec_context.height
        rotation = frame.rotation if frame.rotation in {90, 180, -90, -180, 270} else 0  # of zeros: not a number
        poster = make_poster(frame, width, height, rotation)
        facts = VideoFacts(
            width=height if rotation % 180 else width,
            height=width if rotation % 180 else height,
            seconds=round(packets.seconds, 3),
            frames=len(packets.sizes),
            codec=stream.codec_context.codec.canonical_name,
            container=self._container,
            size=self._boxes.size,
            sha256=sha256,
            ai_marks=tuple(self._boxes.marks),
        )
        return facts, poster

    @contextmanager
    def _open(self) -> Iterator[InputContainer]:
        """Open the file as what it is; otherwise a JPEG passes as a video of one frame."""
        options = {"ignore_editlist": "1"}  # an edit list can hide frames that the header counts
        options |= {"skip_frame": "all"}  # or opening decodes frames to guess what the header says
        path = str(self._path.absolute())
        with av.open(path, format=self._demuxer, options=options, metadata_errors="replace") as container:
            yield container

    def _decode_all(self, expected: int) -> str:
        """Return a flag for stray bytes if all frames can be decoded, but for one. Raise `BrokenVideo` otherwise."""
        with self._open() as container:
            whole = sum(1 for frame in _all_frames(container, _film(container)) if not frame.is_corrupt)
        if whole < expected - 1:
            raise BrokenVideo(f"The video is damaged: {whole:,} of {expected:,} frames can be decoded")
        return "stray bytes between its frames"

    def _picture_flags(self, frame: VideoFrame, fingerprint: str, packets: _Packets) -> list[str]:
        """Decode further frames only if the first one is black, or if the packets are as small as those of a still."""
        first = frames.small_copy(frame)
        samples = frames.Samples(first)
        may_be_still = frames.may_be_still(packets.sizes, frame.width * frame.height)
        if may_be_still or samples.is_black:
            self._sample(samples, len(packets.sizes))
        flags = [frames.FROZEN] if may_be_still and samples.is_still else []
        if samples.is_black:
            return [*flags, frames.BLACK]
        return [*flags, frames.NOT_THE_IMAGE] if frames.is_other_picture(first, fingerprint) else flags

    def _sample(self, samples: frames.Samples, count: int) -> None:
        with self._open() as container:
            for number, frame in enumerate(_all_frames(container, _film(container)), 1):
                if number % max(1, count // _SAMPLES) == 0:
                    samples.add(frame)


def _film(container: InputContainer) -> VideoStream:
    """Return the largest video track; of equal ones the default."""
    found = container.streams.video
    streams = [one for one in found if one.codec_context and not one.disposition & Disposition.attached_pic]
    if not streams:
        raise BrokenVideo("The file contains no video stream")

    def rank(stream: VideoStream) -> tuple[int, bool]:
        return stream.codec_context.width * stream.codec_context.height, bool(stream.disposition & Disposition.default)

    return max(streams, key=rank)


def _read_packets(container: InputContainer, film: VideoStream) -> _Packets:
    """Read all packets of video and sound; count and measure the film's."""
    found = _Packets()
    start, end = None, 0
    packet_filter = _packet_filter(film)
    for packet in container.demux(container.streams.video, container.streams.audio):
        if packet.dts is None:
            continue  # PyAV marks the end of a stream with it
        if packet.stream is not film:
            if packet.is_corrupt and not found.flags:
                found.flags.append(f"a packet of its {packet.stream.type} is damaged")
            continue
        if packet.is_corrupt:
            raise BrokenVideo(f"The video is truncated: packet {len(found.sizes):,} is damaged")
        found.sizes.append(packet.size)
        pts = packet.pts if packet.pts is not None else packet.dts
        start = pts if start is None else min(start, pts)
        end = max(end, pts + (packet.duration or 0))
        if packet_filter and not found.is_doubtful:
            try:
                packet_filter.filter(packet)
            except av.error.InvalidDataError:
                found.is_doubtful = True
    found.seconds = float((end - (start or 0)) * (film.time_base or 0))
    return found


def _packet_filter(stream: VideoStream) -> BitStreamFilterContext | None:
    name = _PACKET_FILTERS.get(stream.codec_context.codec.canonical_name)
    return BitStreamFilterContext(name, stream) if name else None


def _check_length(
    container: InputContainer, stream: VideoStream, packets: _Packets, *, is_fragmented: bool
) -> list[str]:
    """Compare the packets with the header, which is often slightly wrong. Raise `BrokenVideo` if much is missing."""
    count, declared = len(packets.sizes), (container.duration or 0) / av.time_base
    if count < stream.frames:  # 0 if the header declares no count
        found = f"{count:,} of {stream.frames:,} video packets"
        if count < stream.frames - 1:
            raise BrokenVideo(f"The video is truncated: it contains {found}")
        return [f"contains {found}"]
    if not count or packets.seconds <= 0:
        raise BrokenVideo("The video has a length of 0 s")
    if stream.frames or packets.seconds >= declared - SECONDS_TOLERANCE:
        return []
    lengths = f"declares {declared:.2f} s and contains {packets.seconds:.2f} s"
    if not is_fragmented or packets.seconds < declared / 2:
        raise BrokenVideo(f"The video is truncated: it {lengths}")
    return [lengths]


def _all_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode all frames; skip what cannot be decoded."""
    for packet in container.demux(stream):
        try:
            yield from (frame for frame in packet.decode() if isinstance(frame, VideoFrame))
        except av.error.InvalidDataError:
            continue


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    stream.codec_context.thread_count = 1  # more threads start on later frames
    for frame in container.decode(stream):
        if isinstance(frame, VideoFrame):
            return frame
    raise BrokenVideo("The video has no decodable frame")
