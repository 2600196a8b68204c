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
Film = Callable[..., Path]


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """Makes a real mp4 of one second, 320 x 180."""

    def make(
        name: str = "film.mp4",
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
    voice = container.add_stream("aac", rate=44100)
    container.start_encoding()
    for number in range(43):
        silence = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        silence.sample_rate, silence.pts = 44100, number * 1024
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(voice.encode(silence))
    container.mux(voice.encode())


def examine(path: Path) -> tuple[VideoFacts, bytes]:
    """A file as it came, with a hash that nobody looks at here."""
    return examine_video(path, "0" * 64)


def _facts(width: int, height: int, seconds: float) -> VideoFacts:
    return VideoFacts(width=width, height=height, seconds=seconds, frames=1, codec="h264", size=1, sha256="0" * 64)


STANDARD = Request(prompt="walk")
PRO = Request(prompt="walk", mode=Mode.PRO)


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("sound", [False, True])
def test_a_whole_video_is_measured(film: Film, movflags: str, sound: bool) -> None:
    """Sides, length, frames and codec are those that were encoded, however the file is laid out."""
    facts, _ = examine(film(movflags=movflags, sound=sound))

    assert (facts.width, facts.height, facts.frames, facts.codec) == (320, 180, FPS, "h264")
    assert pytest.approx(1.0, abs=0.1) == facts.seconds


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95, 0.999])
def test_a_video_cut_anywhere_is_broken(film: Film, movflags: str, share: float) -> None:
    """A half file is told wherever it ends, with its index in front or at the end."""
    path = film(movflags=movflags)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(BrokenVideo):
        examine(path)


def test_a_video_without_its_last_byte_is_broken(film: Film) -> None:
    """One missing byte is enough."""
    path = film()
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(BrokenVideo, match="lacks 1 bytes"):
        examine(path)


def test_a_video_cut_with_honest_parts_is_broken(film: Film) -> None:
    """Where the part that was cut claims to reach to the end, the missing packets tell."""
    path = film(movflags="faststart")
    whole = path.read_bytes()
    place = whole.index(b"mdat") - 4
    path.write_bytes((whole[:place] + bytes(4) + whole[place + 4 :])[: int(len(whole) * 0.7)])

    with pytest.raises(BrokenVideo, match="cut short"):
        examine(path)


def test_a_video_cut_between_two_packets_is_broken(film: Film) -> None:
    """No packet is damaged and no part too short, but there are fewer than the header counts."""
    path = film(movflags="faststart")
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux() if packet.pos is not None]
    whole = path.read_bytes()
    place = whole.index(b"mdat") - 4
    path.write_bytes((whole[:place] + bytes(4) + whole[place + 4 :])[: sorted(ends)[9]])

    with pytest.raises(BrokenVideo, match="10 of 24 video packets are there"):
        examine(path)


@pytest.mark.parametrize("at", [0.5, 0.8])
def test_a_video_overwritten_with_zeros_is_broken(film: Film, at: float) -> None:
    """A hole of zeros, as an interrupted download leaves, is found although every length is right."""
    path = film(movflags="faststart")
    whole = path.read_bytes()
    place = int(len(whole) * at)
    path.write_bytes(whole[:place] + bytes(len(whole) - place))

    with pytest.raises(BrokenVideo):
        examine(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>expired</html>", "an HTML page"),
        (b'{"code": 404}', "text"),
        (make_jpeg(), "a JPEG"),
        (bytes(5000), "unknown data"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(12), "cannot be read"),
    ],
    ids=["empty", "html", "json", "jpeg", "zeros", "only a header"],
)
def test_what_is_no_mp4_is_broken(tmp_path: Path, content: bytes, told: str) -> None:
    """Another file is told for what it looks like, and never passes as a film of one frame."""
    path = tmp_path / "video.mp4"
    path.write_bytes(content)

    with pytest.raises(BrokenVideo, match=told):
        examine(path)


def test_sound_alone_is_broken(tmp_path: Path) -> None:
    """An mp4 without a picture is no video."""
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        _add_sound(container)

    with pytest.raises(BrokenVideo, match="no video"):
        examine(path)


def test_a_video_of_no_frame_is_broken(film: Film) -> None:
    """A film that lasts no time is not published."""
    with pytest.raises(BrokenVideo):
        examine(film(frames=0))


def _promise_a_minute(path: Path) -> None:
    forged = bytearray(path.read_bytes())
    for name, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        place = forged.index(name) + offset
        timescale = int.from_bytes(forged[place - 4 : place]) or 1000
        forged[place : place + 4] = (60 * timescale).to_bytes(4)
    path.write_bytes(forged)


def test_a_forged_length_is_not_believed(film: Film) -> None:
    """Headers that promise a minute make no second of film longer."""
    path = film()
    _promise_a_minute(path)

    assert examine(path)[0].seconds == pytest.approx(1.0, abs=0.1)


def test_a_video_in_fragments_that_lacks_some_is_broken(film: Film) -> None:
    """Fragments promise no number of packets, but a length that the packets must fill."""
    path = film(movflags="frag_keyframe+empty_moov")
    _promise_a_minute(path)

    with pytest.raises(BrokenVideo, match=r"promises 60\.00 s and holds 1\.00 s"):
        examine(path)


def test_bytes_after_the_end_do_no_harm(film: Film) -> None:
    """Players pass over what follows the last part, and so do we."""
    path = film()
    path.write_bytes(path.read_bytes() + b"garbage" * 100)

    assert examine(path)[0].frames == FPS


def test_a_turned_video_is_measured_as_it_is_shown(film: Film) -> None:
    """A display matrix of 90 degrees swaps width and height, and the poster is upright."""
    path = film(rotation=90)
    facts, jpeg = examine(path)
    poster = Image.open(io.BytesIO(jpeg))

    assert (facts.width, facts.height) == (180, 320)
    assert poster.size == (180, 320)


def test_a_title_in_an_old_encoding_does_no_harm(film: Film) -> None:
    """Metadata that is no UTF-8 breaks nothing."""
    path = film(title="TITELTITEL")
    path.write_bytes(path.read_bytes().replace(b"TITELTITEL", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\xfe"))

    assert examine(path)[0].frames == FPS


def test_another_codec_is_measured_too(film: Film) -> None:
    """The codec is named and not judged."""
    assert examine(film(codec="mpeg4"))[0].codec == "mpeg4"


def test_a_poster_is_a_jpeg_of_bounded_size(film: Film) -> None:
    """The poster's long side is at most 960 px, its aspect that of the video."""
    poster = Image.open(io.BytesIO(examine(film(size=(1600, 400), frames=2))[1]))

    assert (poster.format, poster.size) == ("JPEG", (960, 240))


RED = (200, 30, 60)


def _red(path: Path, colours: int, matrix: str = "itu601") -> Path:
    """A red film that says that its colours are written in this way, by FFmpeg's number."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 64
        stream.codec_context.colorspace = colours
        frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), RED))  # type: ignore[no-untyped-call]
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("matrix", "colours"), [("itu709", 1), ("itu601", 6)])
def test_a_poster_has_the_colours_of_the_video(matrix: str, colours: int, tmp_path: Path) -> None:
    """High definition and a JPEG write colours in different ways; what is red stays that red."""
    poster = Image.open(io.BytesIO(examine(_red(tmp_path / "red.mp4", colours, matrix))[1])).convert("RGB")

    shown = poster.getpixel((32, 32))
    assert isinstance(shown, tuple)
    assert all(abs(seen - meant) < 8 for seen, meant in zip(shown, RED, strict=True)), shown


@pytest.mark.parametrize("colours", [8, 10, 14])
def test_a_video_in_rare_colours_has_a_poster(colours: int, tmp_path: Path) -> None:
    """What FFmpeg cannot turn into a JPEG's colours is no reason to leave a paid video unpublished."""
    assert Image.open(io.BytesIO(examine(_red(tmp_path / "red.mp4", colours))[1])).size == (64, 64)


def test_nothing_is_printed_about_a_broken_video(film: Film, capfd: pytest.CaptureFixture[str]) -> None:
    """FFmpeg's own complaints do not reach the terminal."""
    path = film(movflags="faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    with pytest.raises(BrokenVideo):
        examine(path)

    assert capfd.readouterr() == ("", "")


def test_no_message_names_the_place_on_disk(tmp_path: Path) -> None:
    """What a user reads is about the video, not about our temporary files."""
    path = tmp_path / "video.mp4"
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(12))
    with pytest.raises(BrokenVideo) as caught:
        examine(path)

    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "height", "seconds", "request_"),
    [(1344, 768, 6.0, STANDARD), (768, 1344, 5.5, STANDARD), (1000, 753, 6.5, STANDARD), (1920, 1080, 6.04, PRO)],
)
def test_what_was_ordered_deviates_in_nothing(width: int, height: int, seconds: float, request_: Request) -> None:
    """Within 2 % of the short side and half a second all is well, whatever the aspect."""
    assert deviations(_facts(width, height, seconds), request_) == ()


@pytest.mark.parametrize(
    ("width", "height", "seconds", "request_", "told"),
    [
        (1280, 720, 6.0, STANDARD, ("short side 720 px instead of 768 px",)),
        (1000, 752, 6.0, STANDARD, ("short side 752 px instead of 768 px",)),
        (1344, 768, 6.0, PRO, ("short side 768 px instead of 1080 px",)),
        (1344, 768, 5.49, STANDARD, ("5.49 s long instead of 6 s",)),
        (640, 360, 10.0, STANDARD, ("short side 360 px instead of 768 px", "10.00 s long instead of 6 s")),
    ],
)
def test_what_differs_from_the_order_is_said(
    width: int, height: int, seconds: float, request_: Request, told: tuple[str, ...]
) -> None:
    """A wrong resolution and a wrong length are each told with what was measured and what was ordered."""
    assert told == deviations(_facts(width, height, seconds), request_)
