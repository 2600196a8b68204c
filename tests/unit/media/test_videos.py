from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import cast

import av
import pytest
from av.video.stream import VideoStream
from PIL import Image

from i2v.errors import BrokenVideo
from i2v.media.video_facts import VideoFacts, deviations
from i2v.media.videos import examine_video
from i2v.request import Mode, Request
from sandbox.synthetic_images import make_image, make_jpeg

FPS = 24
MakeVideo = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Make a real mp4 of one second, 320 x 180 px."""

    def make(
        name: str = "video.mp4",
        *,
        size: tuple[int, int] = (320, 180),
        frames: int = FPS,
        movflags: str = "",
        codec: str = "libx264",
        rotation: int = 0,
        sound: bool = False,
        title: str = "",
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", format="mp4", options={"movflags": movflags} if movflags else {}) as container:
            container.metadata["title"] = title
            picture = cast("VideoStream", container.add_stream(codec, rate=FPS))
            picture.width, picture.height = size
            picture.pix_fmt = "yuv420p"
            if rotation:
                picture.set_display_rotation(rotation)
            if sound:
                _add_sound(container)
            container.start_encoding()
            scene = make_image(*size)
            for number in range(frames):
                frame = av.VideoFrame.from_image(scene.rotate(number))  # type: ignore[no-untyped-call]
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        return path

    return make


def _add_sound(container: av.container.OutputContainer) -> None:
    audio = container.add_stream("aac", rate=44100)
    container.start_encoding()
    for number in range(43):
        silence = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        silence.sample_rate, silence.pts = 44100, number * 1024
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(audio.encode(silence))
    container.mux(audio.encode())


def examine(path: Path) -> tuple[VideoFacts, bytes]:
    """Examine a file; its hash does not matter here."""
    return examine_video(path, "0" * 64)


def _facts(width: int, height: int, seconds: float) -> VideoFacts:
    return VideoFacts(width=width, height=height, seconds=seconds, frames=1, codec="h264", size=1, sha256="0" * 64)


STANDARD = Request(prompt="walk")
PRO = Request(prompt="walk", mode=Mode.PRO)


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("sound", [False, True])
def test_a_complete_video_is_measured(make_video: MakeVideo, movflags: str, sound: bool) -> None:
    """Sides, length, frames and codec are those that were encoded, in every file layout."""
    facts, _ = examine(make_video(movflags=movflags, sound=sound))

    assert (facts.width, facts.height, facts.frames, facts.codec) == (320, 180, FPS, "h264")
    assert pytest.approx(1.0, abs=0.1) == facts.seconds


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95, 0.999])
def test_a_video_truncated_anywhere_is_broken(make_video: MakeVideo, movflags: str, share: float) -> None:
    """A truncated file is detected wherever it ends, with its index at the start or at the end."""
    path = make_video(movflags=movflags)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(BrokenVideo):
        examine(path)


def test_a_video_without_its_last_byte_is_broken(make_video: MakeVideo) -> None:
    """One missing byte makes a video broken."""
    path = make_video()
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(BrokenVideo, match="1 bytes short"):
        examine(path)


def test_a_video_truncated_in_an_open_ended_box_is_broken(make_video: MakeVideo) -> None:
    """Missing packets are detected if the truncated box declares to reach to the end of the file."""
    path = make_video(movflags="faststart")
    whole = path.read_bytes()
    place = whole.index(b"mdat") - 4
    path.write_bytes((whole[:place] + bytes(4) + whole[place + 4 :])[: int(len(whole) * 0.7)])

    with pytest.raises(BrokenVideo, match="truncated"):
        examine(path)


def test_a_video_truncated_between_two_packets_is_broken(make_video: MakeVideo) -> None:
    """Fewer packets than the header counts are detected, even if each is undamaged."""
    path = make_video(movflags="faststart")
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux() if packet.pos is not None]
    whole = path.read_bytes()
    place = whole.index(b"mdat") - 4
    path.write_bytes((whole[:place] + bytes(4) + whole[place + 4 :])[: sorted(ends)[9]])

    with pytest.raises(BrokenVideo, match="contains 10 of 24 video packets"):
        examine(path)


@pytest.mark.parametrize("at", [0.5, 0.8])
def test_a_video_overwritten_with_zeros_is_broken(make_video: MakeVideo, at: float) -> None:
    """A hole of zeros, as an interrupted download leaves, is detected although every length is right."""
    path = make_video(movflags="faststart")
    whole = path.read_bytes()
    place = int(len(whole) * at)
    path.write_bytes(whole[:place] + bytes(len(whole) - place))

    with pytest.raises(BrokenVideo):
        examine(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes contain no data"),
        (b"<!DOCTYPE html><html>expired</html>", "an HTML page"),
        (b'{"code": 404}', "text"),
        (make_jpeg(), "a JPEG"),
        (bytes(5000), "unknown data"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(12), "cannot be read"),
    ],
    ids=["empty", "html", "json", "jpeg", "zeros", "only a header"],
)
def test_another_file_type_is_broken(tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is not an mp4 is broken, and the message names its type."""
    path = tmp_path / "video.mp4"
    path.write_bytes(content)

    with pytest.raises(BrokenVideo, match=message):
        examine(path)


def test_audio_alone_is_broken(tmp_path: Path) -> None:
    """An mp4 without a video stream is broken."""
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        _add_sound(container)

    with pytest.raises(BrokenVideo, match="no video stream"):
        examine(path)


def test_a_video_without_frames_is_broken(make_video: MakeVideo) -> None:
    """A video without frames is broken."""
    with pytest.raises(BrokenVideo):
        examine(make_video(frames=0))


def _declare_a_minute(path: Path) -> None:
    forged = bytearray(path.read_bytes())
    for name, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        place = forged.index(name) + offset
        timescale = int.from_bytes(forged[place - 4 : place]) or 1000
        forged[place : place + 4] = (60 * timescale).to_bytes(4)
    path.write_bytes(forged)


def test_a_forged_length_is_ignored(make_video: MakeVideo) -> None:
    """Headers that declare a minute do not change the measured length."""
    path = make_video()
    _declare_a_minute(path)

    assert examine(path)[0].seconds == pytest.approx(1.0, abs=0.1)


def test_a_fragmented_video_without_some_fragments_is_broken(make_video: MakeVideo) -> None:
    """The packets of a fragmented video must fill the length that the header declares."""
    path = make_video(movflags="frag_keyframe+empty_moov")
    _declare_a_minute(path)

    with pytest.raises(BrokenVideo, match=r"declares 60\.00 s and contains 1\.00 s"):
        examine(path)


def test_bytes_after_the_end_are_ignored(make_video: MakeVideo) -> None:
    """Data after the last box is ignored, as in players."""
    path = make_video()
    path.write_bytes(path.read_bytes() + b"garbage" * 100)

    assert examine(path)[0].frames == FPS


def test_a_rotated_video_is_measured_as_displayed(make_video: MakeVideo) -> None:
    """A rotation of 90 degrees swaps width and height, and the poster is upright."""
    path = make_video(rotation=90)
    facts, jpeg = examine(path)
    poster = Image.open(io.BytesIO(jpeg))

    assert (facts.width, facts.height) == (180, 320)
    assert poster.size == (180, 320)


def test_a_title_in_another_encoding_is_ignored(make_video: MakeVideo) -> None:
    """Metadata that is not UTF-8 is not an error."""
    path = make_video(title="TITELTITEL")
    path.write_bytes(path.read_bytes().replace(b"TITELTITEL", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\xfe"))

    assert examine(path)[0].frames == FPS


def test_another_codec_is_accepted(make_video: MakeVideo) -> None:
    """The facts name the codec; every codec is accepted."""
    assert examine(make_video(codec="mpeg4"))[0].codec == "mpeg4"


def test_a_poster_is_a_jpeg_of_bounded_size(make_video: MakeVideo) -> None:
    """The poster has a long side of at most 960 px and the video's aspect ratio."""
    poster = Image.open(io.BytesIO(examine(make_video(size=(1600, 400), frames=2))[1]))

    assert (poster.format, poster.size) == ("JPEG", (960, 240))


RED = (200, 30, 60)


def _red(path: Path, colorspace: int, matrix: str = "itu601") -> Path:
    """Make a red video that declares this color space, by FFmpeg's number."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 64
        stream.codec_context.colorspace = colorspace
        frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), RED))  # type: ignore[no-untyped-call]
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("matrix", "colorspace"), [("itu709", 1), ("itu601", 6)])
def test_a_poster_has_the_colors_of_the_video(matrix: str, colorspace: int, tmp_path: Path) -> None:
    """A poster keeps the color, although HD video and JPEG use different color spaces."""
    poster = Image.open(io.BytesIO(examine(_red(tmp_path / "red.mp4", colorspace, matrix))[1])).convert("RGB")

    pixel = poster.getpixel((32, 32))
    assert isinstance(pixel, tuple)
    assert all(abs(actual - expected) < 8 for actual, expected in zip(pixel, RED, strict=True)), pixel


@pytest.mark.parametrize("colorspace", [8, 10, 14])
def test_a_video_in_a_rare_color_space_has_a_poster(colorspace: int, tmp_path: Path) -> None:
    """A color space that FFmpeg cannot convert is not a reason to reject a paid video."""
    assert Image.open(io.BytesIO(examine(_red(tmp_path / "red.mp4", colorspace))[1])).size == (64, 64)


def test_nothing_is_printed_about_a_broken_video(make_video: MakeVideo, capfd: pytest.CaptureFixture[str]) -> None:
    """FFmpeg prints nothing to the terminal."""
    path = make_video(movflags="faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    with pytest.raises(BrokenVideo):
        examine(path)

    assert capfd.readouterr() == ("", "")


def test_no_message_contains_the_path(tmp_path: Path) -> None:
    """A message does not contain the path of the temporary file."""
    path = tmp_path / "video.mp4"
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(12))
    with pytest.raises(BrokenVideo) as caught:
        examine(path)

    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "height", "seconds", "request_"),
    [(1344, 768, 6.0, STANDARD), (768, 1344, 5.5, STANDARD), (1000, 753, 6.5, STANDARD), (1920, 1080, 6.04, PRO)],
)
def test_a_video_as_requested_has_no_deviations(width: int, height: int, seconds: float, request_: Request) -> None:
    """2% of the short side and half a second are tolerated, with any aspect ratio."""
    assert deviations(_facts(width, height, seconds), request_) == ()


@pytest.mark.parametrize(
    ("width", "height", "seconds", "request_", "expected"),
    [
        (1280, 720, 6.0, STANDARD, ("short side 720 px instead of 768 px",)),
        (1000, 752, 6.0, STANDARD, ("short side 752 px instead of 768 px",)),
        (1344, 768, 6.0, PRO, ("short side 768 px instead of 1080 px",)),
        (1344, 768, 5.49, STANDARD, ("5.49 s long instead of 6 s",)),
        (640, 360, 10.0, STANDARD, ("short side 360 px instead of 768 px", "10.00 s long instead of 6 s")),
    ],
)
def test_deviations_name_the_measured_and_the_requested_value(
    width: int, height: int, seconds: float, request_: Request, expected: tuple[str, ...]
) -> None:
    """A wrong resolution or length is named with the measured and the requested value."""
    assert expected == deviations(_facts(width, height, seconds), request_)
