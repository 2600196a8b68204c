from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from i2v.errors import Refused, UsageError
from i2v.media.image_check import MAX_PIXELS, check_image
from i2v.media.images import MAX_IMAGE_BYTES, ImageRef, check_size
from i2v.s3_uri import S3Uri
from sandbox.synthetic_images import ORIENTATION_TAG, make_image, make_jpeg, make_png, make_webp
from tests.support.paths import SAMPLES

LABEL = "s3://bucket/images/tom.jpg"


def _rule(body: bytes) -> str:
    """Return the rule that refuses the image, or `accepted`."""
    try:
        check_image(body, LABEL)
    except Refused as refusal:
        is_complete = LABEL in refusal.message and refusal.hint
        return refusal.rule if is_complete else f"{refusal.rule}, without a label or a hint"
    return "accepted"


def _save(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _flat_png(width: int, height: int) -> bytes:
    """Return a 1-bit PNG of one color: any size in a few bytes."""
    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _with_declared_sides(jpeg: bytes, width: int, height: int) -> bytes:
    """Return the JPEG with other sides in its frame header."""
    place = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := jpeg.find(marker)) > 0)
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


def test_an_image_is_measured() -> None:
    """The facts are the hash, size, format and sides of the bytes."""
    body = make_jpeg(640, 480)
    facts = check_image(body, LABEL)

    assert (facts.sha256, facts.size) == (hashlib.sha256(body).hexdigest(), len(body))
    assert (facts.format, facts.width, facts.height, facts.content_type) == ("JPEG", 640, 480, "image/jpeg")


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.jpg", "deep-field.jpg", "rocket.jpg"])
def test_the_samples_are_accepted(name: str) -> None:
    """The demo's photographs are valid images."""
    assert _rule((SAMPLES / name).read_bytes()) == "accepted"


def test_the_small_sample_is_refused() -> None:
    """The demo's one invalid image is refused for its short side."""
    assert _rule((SAMPLES / "cat-too-small.png").read_bytes()) == "short_side"


@pytest.mark.parametrize(
    ("body", "file_type"),
    [
        (make_webp(), "a WebP"),
        (_save(Image.new("P", (400, 400)), "GIF"), "a GIF"),
        (_save(make_image(400, 400), "BMP"), "a BMP"),
        (_save(make_image(400, 400), "TIFF"), "a TIFF"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="640" height="480"/>', "an SVG"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"I am no picture.\n", "text"),
        ("Ich bin müde.".encode(), "text"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\0\0\0\x1cftypheic", "a HEIC"),
        (b"\0\0\0\x1cftypavif", "an AVIF"),
        (b"\0\0\0\x1cftypisom", "a video"),
        (b"\x89PN", "unknown data"),
        (b"\xff\xd8", "unknown data"),
        (bytes(1000), "unknown data"),
    ],
)
def test_only_jpeg_and_png_bytes_are_accepted(body: bytes, file_type: str) -> None:
    """A file that is not a JPEG or PNG is refused, and the message names its type."""
    with pytest.raises(Refused, match=f"it contains {file_type}") as caught:
        check_image(body, LABEL)

    assert caught.value.rule == "not_jpeg_or_png"


def test_an_empty_file_is_refused() -> None:
    """An empty file is refused as empty."""
    assert _rule(b"") == "empty"


def test_an_image_of_21_mb_is_refused() -> None:
    """The message gives the size and the limit, and the image is not decoded."""
    with pytest.raises(Refused, match=r"21\.0 MB \(21,000,000 bytes\).*at most 20 MB") as caught:
        check_size(21_000_000, LABEL)

    assert caught.value.rule == "too_large"
    assert _rule(make_jpeg() + bytes(MAX_IMAGE_BYTES)) == "too_large"


def test_an_image_of_exactly_20_mb_is_accepted() -> None:
    """The size limit itself is allowed."""
    body = make_jpeg()
    padded = body + bytes(MAX_IMAGE_BYTES - len(body))

    assert check_image(padded, LABEL).size == MAX_IMAGE_BYTES


@pytest.mark.parametrize(
    ("width", "height", "rule"),
    [
        (301, 301, "accepted"),
        (300, 300, "short_side"),
        (300, 600, "short_side"),
        (600, 300, "short_side"),
        (301, 600, "accepted"),
        (400, 1000, "ratio"),  # 2:5
        (1000, 400, "ratio"),  # 5:2
        (401, 1000, "accepted"),
        (999, 400, "accepted"),
        (1001, 400, "ratio"),
        (3000, 301, "ratio"),
        (1, 1, "short_side"),
    ],
)
@pytest.mark.parametrize("make", [make_jpeg, _flat_png])
def test_side_limits_are_strict(make: type, width: int, height: int, rule: str) -> None:
    """A short side of 300 px and ratios of 2:5 and 5:2 are refused; one pixel more is accepted."""
    assert _rule(make(width, height)) == rule


@settings(deadline=None, max_examples=60)
@given(short=st.integers(301, 700), extra=st.integers(-2, 2), upright=st.booleans())
def test_the_ratio_is_exact(short: int, extra: int, upright: bool) -> None:
    """Near the limits the result is that of exact fractions, in both orientations."""
    long = short * 5 // 2 + extra
    width, height = (short, long) if upright else (long, short)
    valid = Fraction(2, 5) < Fraction(width, height) < Fraction(5, 2)

    assert _rule(_flat_png(width, height)) == ("accepted" if valid else "ratio")


def test_a_refusal_gives_the_measurement() -> None:
    """The message gives the sides or the ratio, and the limit."""
    with pytest.raises(Refused, match=r"640 x 300 px; the short side must be more than 300 px"):
        check_image(make_jpeg(640, 300), LABEL)
    with pytest.raises(Refused, match=r"1000:400 \(2\.500\).*above 2:5 \(0\.4\) and below 5:2 \(2\.5\)"):
        check_image(make_jpeg(1000, 400), LABEL)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sides_are_measured_as_displayed(orientation: int) -> None:
    """EXIF orientations 5 to 8 swap the sides, in a JPEG and in a PNG."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    for body in (
        make_jpeg(640, 480, exif_orientation=orientation),
        _save(make_image(640, 480), "PNG", exif=exif),
    ):
        facts = check_image(body, LABEL)
        assert (facts.width, facts.height) == ((480, 640) if orientation > 4 else (640, 480))


def test_an_orientation_after_the_pixels_counts() -> None:
    """A PNG can have its EXIF chunk after its data."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    body = make_png(640, 480)
    late = body[:-12] + _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + body[-12:]

    assert check_image(late, LABEL).width == 480


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    """A valid image with damaged metadata is accepted."""
    body = make_jpeg(640, 480)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif

    assert _rule(body[:2] + segment + body[2:]) == "accepted"


PROGRESSIVE = _save(make_image(320, 310), "JPEG", progressive=True)
BASELINE = _save(make_image(320, 310), "JPEG")
PNG = make_png(320, 310)


@settings(deadline=None, max_examples=150)
@given(body=st.sampled_from([BASELINE, PROGRESSIVE, PNG]), data=st.data())
def test_an_image_truncated_anywhere_is_refused(body: bytes, data: st.DataObject) -> None:
    """An image with bytes missing at the end is refused, however few they are."""
    length = data.draw(st.integers(1, len(body) - 1) | st.integers(len(body) - 40, len(body) - 1))

    assert _rule(body[:length]) in {"truncated", "corrupt", "not_jpeg_or_png"}


@pytest.mark.parametrize("body", [BASELINE, PROGRESSIVE, PNG])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_half_image_is_truncated(body: bytes, share: float) -> None:
    """A half image is refused as truncated."""
    with pytest.raises(Refused, match="is truncated") as caught:
        check_image(body[: int(len(body) * share)], LABEL)

    assert caught.value.rule == "truncated"


@pytest.mark.parametrize("body", [BASELINE, PROGRESSIVE, PNG])
def test_an_image_ending_in_zeros_is_refused(body: bytes) -> None:
    """An interrupted upload that has its full length is detected."""
    half = len(body) // 2

    assert _rule(body[:half] + bytes(len(body) - half)) == "truncated"


@settings(deadline=None, max_examples=60)
@given(place=st.integers(8, len(PNG) - 1), flip=st.integers(1, 255))
def test_a_png_with_one_wrong_byte_is_refused(place: int, flip: int) -> None:
    """A wrong byte anywhere in a PNG fails a checksum."""
    wrong = bytearray(PNG)
    wrong[place] ^= flip

    assert _rule(bytes(wrong)) != "accepted"


@settings(deadline=None, max_examples=200)
@given(head=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", BASELINE[:300], PNG[:60]]), rest=st.binary())
def test_garbage_is_refused(head: bytes, rest: bytes) -> None:
    """Random bytes after a valid start are refused, without any other error."""
    assert _rule(head + rest) in {"truncated", "corrupt", "bomb"}


@settings(deadline=None, max_examples=200)
@given(place=st.integers(3, 700), flip=st.integers(1, 255))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_jpeg_with_a_wrong_header_byte_is_accepted_or_refused(place: int, flip: int) -> None:
    """A wrong byte in a JPEG header raises no error but `Refused`."""
    wrong = bytearray(BASELINE)
    wrong[place] ^= flip

    _rule(bytes(wrong))


def test_a_png_with_a_wrong_checksum_is_corrupt() -> None:
    """A PNG with a wrong checksum is refused as corrupt."""
    place = PNG.index(b"IDAT") + 40
    with pytest.raises(Refused, match="is corrupt: its PNG data cannot be decoded") as caught:
        check_image(PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :], LABEL)

    assert caught.value.rule == "corrupt"


@pytest.mark.parametrize(
    "body",
    [
        _flat_png(20_000, 20_000),
        _with_declared_sides(BASELINE, 60_000, 60_000),
        _with_declared_sides(PROGRESSIVE, 65_000, 65_000),
        PNG[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + PNG[24:29] + PNG[29:],
    ],
    ids=["flat png", "baseline jpeg", "progressive jpeg", "png header"],
)
def test_a_decompression_bomb_is_refused_before_decoding(body: bytes) -> None:
    """A small file with too many pixels is refused by its header."""
    assert len(body) < 1_000_000
    assert _rule(body) in {"bomb", "corrupt"}


def test_a_decompression_bomb_gives_its_pixels() -> None:
    """The message gives the pixel count and the limit."""
    with pytest.raises(Refused, match=r"20000 x 20000 px \(400 million\); the limit is 120 million") as caught:
        check_image(_flat_png(20_000, 20_000), LABEL)

    assert caught.value.rule == "bomb"


def test_an_image_of_the_largest_cameras_is_accepted() -> None:
    """108 megapixels are accepted, without Pillow's warning."""
    assert MAX_PIXELS > 12_000 * 9_000
    assert _rule(_save(Image.new("L", (12_000, 9_000)), "JPEG")) == "accepted"


def test_a_bomb_in_the_metadata_is_refused() -> None:
    """A compressed text of 100 MB is refused instead of unpacked."""
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))

    assert _rule(PNG[:33] + text + PNG[33:]) == "unreadable"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_kind_of_png_is_accepted(mode: str) -> None:
    """Black and white, gray, palette, transparent and 16-bit PNGs are accepted."""
    image = Image.new("I;16", (400, 320)) if mode == "I;16" else make_image(400, 320).convert(mode)

    assert check_image(_save(image, "PNG"), LABEL).format == "PNG"


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
def test_every_kind_of_jpeg_is_accepted(mode: str) -> None:
    """Gray and CMYK JPEGs are accepted."""
    assert check_image(_save(make_image(400, 320).convert(mode), "JPEG"), LABEL).format == "JPEG"


def test_an_animated_png_is_measured_by_its_first_frame() -> None:
    """An animated PNG has the size of its first frame."""
    frames = [make_image(400, 320, seed) for seed in range(3)]
    body = _save(frames[0], "PNG", save_all=True, append_images=frames[1:])

    assert check_image(body, LABEL).width == 400


def test_an_animated_png_truncated_in_a_later_frame_is_refused() -> None:
    """Every frame of an animated PNG must be complete."""
    frames = [make_image(400, 320, seed) for seed in range(3)]
    body = _save(frames[0], "PNG", save_all=True, append_images=frames[1:])

    assert _rule(body[: len(body) * 9 // 10]) == "truncated"


def test_a_multi_picture_file_is_accepted_as_a_jpeg() -> None:
    """An MPO, as phones write it, is a JPEG followed by more images."""
    body = _save(make_image(640, 480), "MPO", save_all=True, append_images=[make_image(640, 480, 1)])
    facts = check_image(body, LABEL)

    assert (facts.format, facts.width, facts.height) == ("JPEG", 640, 480)


@pytest.mark.parametrize("body", [BASELINE, PROGRESSIVE, PNG])
def test_bytes_after_a_complete_image_are_ignored(body: bytes) -> None:
    """Data that cameras and tools append after the end is ignored."""
    assert _rule(body + b"trailing garbage \xff\xd8\xff\xda" * 50) == "accepted"


def test_long_metadata_and_profiles_are_ignored() -> None:
    """Long text, XMP and color profiles are not a reason to refuse."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x/>" * 100_000)
    info.add_text("Comment", "x" * 200_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert _rule(_save(make_image(400, 320), "PNG", pnginfo=info, icc_profile=profile)) == "accepted"
    assert _rule(_save(make_image(400, 320), "JPEG", icc_profile=profile)) == "accepted"


def test_concurrent_checks_do_not_affect_each_other() -> None:
    """Valid and invalid images checked in parallel get the same results as alone."""
    bodies = [PNG, _flat_png(20_000, 20_000), BASELINE, PNG[:900]] * 10
    with ThreadPoolExecutor(8) as threads:
        rules = list(threads.map(_rule, bodies))

    assert rules == ["accepted", "bomb", "accepted", "truncated"] * 10


def test_a_refusal_survives_pickling() -> None:
    """A refusal keeps its fields when pickled, as Prefect does with errors."""
    with pytest.raises(Refused) as caught:
        check_image(b"", LABEL)
    restored = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes

    assert (restored.message, restored.hint, restored.rule) == (caught.value.message, caught.value.hint, "empty")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("s3://bucket/images/a b.jpg", "s3://bucket/images/a b.jpg"),
        ("s3://bucket/tom?v=1#x.jpg", "s3://bucket/tom?v=1#x.jpg"),
        ("https://example.org/a.jpg?X-Amz-Signature=SECRET#SECRET", "https://example.org/a.jpg"),
        ("https://user:SECRET@example.org:8443/a.jpg", "https://example.org:8443/a.jpg"),
        ("https://user:SEC@RET@example.org/a.jpg", "https://example.org/a.jpg"),
        ("HTTPS://example.org?SECRET", "HTTPS://example.org"),
        ("http://127.0.0.1:9000/b/a.jpg", "http://127.0.0.1:9000/b/a.jpg"),
        ("https://[::1]/a@b.jpg", "https://[::1]/a@b.jpg"),
    ],
)
def test_a_label_has_no_secrets(text: str, label: str) -> None:
    """A URL's user info, query and fragment are kept but never displayed."""
    ref = ImageRef.parse(text)

    assert ref.label == label == str(ref)
    assert "SECRET" not in repr(ref)
    assert (str(ref.uri) if ref.uri else ref.url) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tom.jpg",
        "/images/tom.jpg",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/images/",
        "s3://B/tom.jpg",
        "ftp://example.org/a.jpg",
        "file:///a.jpg",
        "https://",
        "https:///a.jpg",
        "https://example.org:port/a.jpg",
        "https://example.org/a b.jpg",
        "https://[::1/a.jpg",
        "https://example.org/a.jpg\nX: y",
        "data:image/png;base64,AAAA",
    ],
)
def test_other_texts_are_usage_errors(text: str) -> None:
    """A text that is not an image URI is a usage error, and the message says what is accepted."""
    with pytest.raises(UsageError, match=r"s3://bucket/key|https://host/path"):
        ImageRef.parse(text)


def test_no_message_shows_a_signature() -> None:
    """The error for an invalid URL does not contain its query."""
    for text in ("https://example.org/a b.jpg?sig=SECRET", "htps://u:SECRET@example.org/a.jpg?SECRET"):
        with pytest.raises(UsageError) as caught:
            ImageRef.parse(text)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="either") as wrong:
        ImageRef(uri=S3Uri("bucket", "a"), url="https://example.org?SECRET")
    assert "SECRET" not in str(wrong.value)
