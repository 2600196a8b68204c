"""Videos that players show although something about them is odd: each is measured by its packets, and flagged."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from i2v.errors import BrokenVideo
from i2v.media.fingerprint import fingerprint
from i2v.media.image_check import check_image
from i2v.media.video_facts import VideoFacts, deviations
from i2v.media.videos import examine_video, salvage
from i2v.request import Request
from sandbox.synthetic_images import make_image, make_jpeg
from tests.support.odd_videos import (
    C2PA,
    MVHD,
    box,
    find,
    make_film,
    put32,
    with_edit_list,
    with_first_box,
    with_forged_table,
    with_last_sample,
    with_matrix,
    with_media_duration,
    with_stray_end,
)
from tests.support.paths import SAMPLES

MakeFilm = Callable[[], bytes]
"""Films are made in the tests: every pytest worker imports this module."""


@cache
def whole() -> bytes:
    """Return a film with its index at the end."""
    return make_film()


@cache
def front() -> bytes:
    """Return the film with its index at the start."""
    return make_film(movflags="faststart")


@cache
def pieces() -> bytes:
    """Return the film in fragments."""
    return make_film(movflags="frag_keyframe+empty_moov")


def examine(tmp_path: Path, body: bytes, image: str = "") -> tuple[VideoFacts, Image.Image]:
    """Examine a film; return its facts and its poster."""
    path = tmp_path / "video.mp4"
    path.write_bytes(body)
    facts, poster = examine_video(path, "0" * 64, image)
    return facts, Image.open(io.BytesIO(poster))


@pytest.mark.parametrize(
    "film",
    [
        whole,
        front,
        pieces,
        lambda: with_edit_list(whole(), (1000, 0, 1, 0)),
        lambda: with_matrix(whole(), 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30),
        lambda: whole() + box(b"free", bytes(10)),
        lambda: whole() + box(b"uuid", bytes(100)),
    ],
)
def test_an_ordinary_film_has_no_flags(tmp_path: Path, film: MakeFilm) -> None:
    """The same films without the oddity are measured exactly, and nothing about them is flagged."""
    facts, poster = examine(tmp_path, film())
    assert (facts.width, facts.height, facts.frames, facts.seconds, facts.flags) == (320, 180, 24, 1.0, ())
    assert (facts.container, poster.size) == ("mp4", (320, 180))


ODD: dict[str, tuple[MakeFilm, str]] = {
    "media duration of 0": (lambda: with_media_duration(whole(), 0), ""),
    "media duration of all ones": (lambda: with_media_duration(whole(), 0xFFFFFFFF), ""),
    "media duration too short": (lambda: with_media_duration(whole(), 100), ""),
    "edit list of duration 0": (lambda: with_edit_list(whole(), (0, 0, 1, 0)), ""),
    "the last frame has no bytes": (lambda: with_last_sample(front(), None), "contains 23 of 24 video packets"),
    "stray bytes after the last frame": (lambda: with_stray_end(whole(), b"\0\0\0"), "stray bytes"),
    "uncompressed sound": (lambda: make_film(sound="pcm_s16le", form="mov"), "QuickTime"),
    "a cut free box": (lambda: whole() + box(b"free", bytes(10), 1000), "free box is 982 bytes short"),
    "a cut uuid box": (lambda: whole() + box(b"uuid", C2PA + bytes(100), 9000), "uuid box"),
    "bytes after the end": (lambda: whole() + b"garbage" * 9, "63 bytes follow the last box"),
    "a box before ftyp": (lambda: with_first_box(front(), box(b"free", bytes(8))), "begins with a free box"),
    "an unknown box before ftyp": (lambda: with_first_box(front(), box(b"abcd", bytes(8))), "begins with a abcd box"),
    "fragments that promise 0.7 s more": (
        lambda: with_media_duration(put32(pieces(), find(pieces(), *MVHD)[0] + 24, 1700), int(1.7 * 12288)),
        "declares 1.70 s and contains 1.00 s",
    ),
    "WebM": (lambda: make_film(form="webm", codec="libvpx-vp9"), "WebM"),
    "Matroska": (lambda: make_film(form="matroska"), "Matroska"),
    "another codec": (lambda: make_film(codec="mpeg2video"), "codec mpeg2video"),
}


@pytest.mark.parametrize(("film", "flag"), ODD.values(), ids=ODD.keys())
def test_an_odd_film_is_measured_and_flagged(tmp_path: Path, film: MakeFilm, flag: str) -> None:
    """A film that players show is never rejected; what is odd is a flag, and a wrong header alone is none."""
    facts, poster = examine(tmp_path, film())
    assert (facts.width, facts.height, poster.size) == (320, 180, (320, 180))
    assert facts.seconds == pytest.approx(1, abs=0.1)
    assert facts.frames >= 23
    assert flag in "; ".join(facts.flags)
    assert facts.flags == deviations(facts.model_copy(update={"height": 768, "seconds": 6.0, "width": 1344}), REQUEST)


REQUEST = Request(prompt="walk")


@pytest.mark.parametrize(
    ("form", "codec", "ending"),
    [
        ("webm", "libvpx-vp9", "webm"),
        ("matroska", "libx264", "mkv"),
        ("mov", "libx264", "mov"),
        ("mp4", "libx264", "mp4"),
    ],
)
def test_the_container_is_named(tmp_path: Path, form: str, codec: str, ending: str) -> None:
    """The facts name the container, which becomes the file's ending."""
    assert examine(tmp_path, make_film(form=form, codec=codec))[0].container == ending


@pytest.mark.parametrize("form", ["webm", "matroska"])
def test_a_truncated_matroska_is_broken(tmp_path: Path, form: str) -> None:
    """A WebM or Matroska file that ends early is detected, also if only its last byte is missing."""
    body = make_film(form=form, codec="libvpx-vp9")
    for length in (len(body) // 2, len(body) - 1):
        with pytest.raises(BrokenVideo, match="truncated"):
            examine(tmp_path, body[:length])


def test_a_matrix_of_zeros_turns_nothing(tmp_path: Path) -> None:
    """Some tools write a matrix of zeros; players show the film upright."""
    facts, poster = examine(tmp_path, with_matrix(whole(), *[0] * 9))
    assert (facts.width, facts.height, poster.size) == (320, 180, (320, 180))


def test_pixels_that_are_not_square_count_as_shown(tmp_path: Path) -> None:
    """Where a pixel is shown twice as wide as high, the sides and the poster are so too."""
    facts, poster = examine(tmp_path, make_film(pixel_ratio=(2, 1)))
    assert (facts.width, facts.height, poster.size) == (640, 180, (640, 180))


def test_the_largest_track_is_the_film(tmp_path: Path) -> None:
    """A small preview that comes first is not the film."""
    assert examine(tmp_path, make_film(small_first=True))[0].width == 320


def test_a_forged_table_is_broken_or_stopped(tmp_path: Path) -> None:
    """A table of 50,000 frames that are not there makes a video broken."""
    with pytest.raises((BrokenVideo, MemoryError)):
        examine(tmp_path, with_forged_table(whole(), 50_000))


def test_endless_boxes_are_broken(tmp_path: Path) -> None:
    """A file of a million empty boxes is rejected after 10,000."""
    with pytest.raises(BrokenVideo, match="more than 10,000 boxes"):
        examine(tmp_path, box(b"free", b"") * 1_000_000 + whole())


BLACK = Image.new("RGB", (320, 180))
PHOTO = make_image(320, 180, seed=7)


@pytest.mark.parametrize(
    ("film", "flag"),
    [
        (lambda: make_film(moves=False), "frozen"),
        (lambda: make_film(scene=BLACK), "black"),
        (whole, ""),
        (lambda: make_film(scene=PHOTO), ""),
    ],
    ids=["frozen", "black", "moving", "moving photo"],
)
def test_what_a_film_shows_is_flagged(tmp_path: Path, film: MakeFilm, flag: str) -> None:
    """A film in which nothing moves, or which is black, is flagged; another is not."""
    assert flag in "; ".join(flags := examine(tmp_path, film())[0].flags)
    assert bool(flags) == bool(flag)


def test_a_film_of_another_picture_is_flagged(tmp_path: Path) -> None:
    """The first frame is compared with the picture that was handed over, in any orientation."""
    image = check_image(make_jpeg(640, 360, seed=7), "x").fingerprint
    turned = check_image(make_jpeg(640, 360, seed=7, exif_orientation=6), "x").fingerprint
    film = make_film(scene=PHOTO)
    for other in (image, turned, ""):
        assert not [one for one in examine(tmp_path, film, other)[0].flags if "not_the_image" in one]
    other = check_image((SAMPLES / "coffee.jpg").read_bytes(), "x").fingerprint
    assert "not_the_image" in "; ".join(examine(tmp_path, film, other)[0].flags)
    assert fingerprint(bytes(64)) == "0" * 64


def test_marks_of_ai_origin_are_facts(tmp_path: Path) -> None:
    """C2PA and IPTC's digital source type are facts of the video; every poster says that a model made it."""
    xmp = b'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"'
    marked = whole() + box(b"uuid", C2PA + bytes(50)) + box(b"uuid", bytes(16) + xmp)
    facts, poster = examine(tmp_path, marked)
    assert (facts.ai_marks, facts.flags) == (("c2pa", "iptc:trainedAlgorithmicMedia"), ())
    assert "trainedAlgorithmicMedia" in str(poster.getxmp())
    assert examine(tmp_path, whole())[0].ai_marks == ()


@pytest.mark.parametrize(
    ("film", "width"), [(lambda: pieces()[:-900], 320), (lambda: b"no video at all", 0), (lambda: b"", 0)]
)
def test_what_can_be_saved_of_a_broken_film_is_saved(tmp_path: Path, film: MakeFilm, width: int) -> None:
    """A video that cannot be verified still has a poster: its first frame, or a gray one."""
    path = tmp_path / "video.mp4"
    path.write_bytes(film())
    facts, poster = salvage(path, "0" * 64)
    assert (facts.width, facts.size) == (width, len(film()))
    assert Image.open(io.BytesIO(poster)).size == (320, 180)
