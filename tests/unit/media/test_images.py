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
from i2v.media.images import MAX_IMAGE_BYTES, MAX_PIXELS, ImageRef, check_image, check_size
from i2v.s3_uri import S3Uri
from sandbox.synthetic_images import ORIENTATION_TAG, make_image, make_jpeg, make_png, make_webp
from tests.support.paths import SAMPLES

LABEL = "s3://bucket/images/tom.jpg"


def _rule(body: bytes) -> str:
    """The rule that refuses, or `taken`."""
    try:
        check_image(body, LABEL)
    except Refused as refusal:
        told = LABEL in refusal.message and refusal.hint
        return refusal.rule if told else f"{refusal.rule}, badly told"
    return "taken"


def _save(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _flat_png(width: int, height: int) -> bytes:
    """A 1-bit PNG of one colour: any size in a few bytes."""
    row = bytes(1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with other sides in its frame header."""
    place = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := jpeg.find(marker)) > 0)
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


def test_an_image_is_measured() -> None:
    """Facts are the bytes' own: hash, size, format and sides."""
    body = make_jpeg(640, 480)
    facts = check_image(body, LABEL)

    assert (facts.sha256, facts.size) == (hashlib.sha256(body).hexdigest(), len(body))
    assert (facts.format, facts.width, facts.height, facts.content_type) == ("JPEG", 640, 480, "image/jpeg")


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.jpg", "deep-field.jpg", "rocket.jpg"])
def test_the_samples_are_taken(name: str) -> None:
    """The photographs of the demo are good images."""
    assert _rule((SAMPLES / name).read_bytes()) == "taken"


def test_the_small_sample_is_refused() -> None:
    """The demo's one bad image is refused for its short side."""
    assert _rule((SAMPLES / "cat-too-small.png").read_bytes()) == "short_side"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (make_webp(), "a WebP"),
        (_save(make_image(400, 400), "GIF"), "a GIF"),
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
def test_only_jpeg_and_png_are_taken_by_their_bytes(body: bytes, told: str) -> None:
    """Whatever its name is, a file that is no JPEG or PNG is refused and told for what it looks like."""
    with pytest.raises(Refused, match=f"by its bytes it is {told}") as caught:
        check_image(body, LABEL)

    assert caught.value.rule == "not_jpeg_or_png"


def test_an_empty_file_is_refused() -> None:
    """Nothing is no image."""
    assert _rule(b"") == "empty"


def test_an_image_of_21_mb_is_refused_by_its_size() -> None:
    """The message says how large it is and how large it may be, and no pixel is looked at."""
    with pytest.raises(Refused, match=r"21\.0 MB \(21,000,000 bytes\).*at most 20 MB") as caught:
        check_size(21_000_000, LABEL)

    assert caught.value.rule == "too_large"
    assert _rule(make_jpeg() + bytes(MAX_IMAGE_BYTES)) == "too_large"


def test_an_image_of_exactly_20_mb_is_taken() -> None:
    """At most means that the limit itself is allowed."""
    body = make_jpeg()
    padded = body + bytes(MAX_IMAGE_BYTES - len(body))

    assert check_image(padded, LABEL).size == MAX_IMAGE_BYTES


@pytest.mark.parametrize(
    ("width", "height", "rule"),
    [
        (301, 301, "taken"),
        (300, 300, "short_side"),
        (300, 600, "short_side"),
        (600, 300, "short_side"),
        (301, 600, "taken"),
        (400, 1000, "ratio"),  # 2:5
        (1000, 400, "ratio"),  # 5:2
        (401, 1000, "taken"),
        (999, 400, "taken"),
        (1001, 400, "ratio"),
        (3000, 301, "ratio"),
        (1, 1, "short_side"),
    ],
)
@pytest.mark.parametrize("make", [make_jpeg, _flat_png])
def test_the_sides_are_judged_strictly(make: type, width: int, height: int, rule: str) -> None:
    """A short side of 300 px and ratios of 2:5 and 5:2 are refused, one pixel more is taken."""
    assert _rule(make(width, height)) == rule


@settings(deadline=None, max_examples=60)
@given(short=st.integers(301, 700), extra=st.integers(-2, 2), upright=st.booleans())
def test_the_ratio_is_exact(short: int, extra: int, upright: bool) -> None:
    """Around the limit the verdict is that of exact fractions, in both directions."""
    long = short * 5 // 2 + extra
    width, height = (short, long) if upright else (long, short)
    good = Fraction(2, 5) < Fraction(width, height) < Fraction(5, 2)

    assert _rule(_flat_png(width, height)) == ("taken" if good else "ratio")


def test_a_refusal_tells_what_was_measured() -> None:
    """Sides and ratio stand in the message, beside the limit."""
    with pytest.raises(Refused, match=r"640 x 300 px, and the short side must be more than 300 px"):
        check_image(make_jpeg(640, 300), LABEL)
    with pytest.raises(Refused, match=r"1000:400 \(2\.500\).*strictly between 2:5 \(0\.4\) and 5:2 \(2\.5\)"):
        check_image(make_jpeg(1000, 400), LABEL)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sides_are_those_that_are_shown(orientation: int) -> None:
    """EXIF orientations 5 to 8 turn the image, in a JPEG and in a PNG."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    for body in (
        make_jpeg(640, 480, exif_orientation=orientation),
        _save(make_image(640, 480), "PNG", exif=exif),
    ):
        facts = check_image(body, LABEL)
        assert (facts.width, facts.height) == ((480, 640) if orientation > 4 else (640, 480))


def test_an_orientation_behind_the_pixels_counts_too() -> None:
    """A PNG may bear its EXIF after its data."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    body = make_png(640, 480)
    late = body[:-12] + _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + body[-12:]

    assert check_image(late, LABEL).width == 480


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_does_no_harm(exif: bytes) -> None:
    """A good picture with damaged metadata is taken."""
    body = make_jpeg(640, 480)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif

    assert _rule(body[:2] + segment + body[2:]) == "taken"


PROGRESSIVE = _save(make_image(320, 310), "JPEG", progressive=True)
BASELINE = _save(make_image(320, 310), "JPEG")
PNG = make_png(320, 310)


@settings(deadline=None, max_examples=150)
@given(body=st.sampled_from([BASELINE, PROGRESSIVE, PNG]), data=st.data())
def test_an_image_cut_anywhere_is_refused(body: bytes, data: st.DataObject) -> None:
    """No proper beginning of an image is taken, however little is missing."""
    length = data.draw(st.integers(1, len(body) - 1) | st.integers(len(body) - 40, len(body) - 1))

    assert _rule(body[:length]) in {"truncated", "corrupt", "not_jpeg_or_png"}


@pytest.mark.parametrize("body", [BASELINE, PROGRESSIVE, PNG])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_half_image_is_called_cut_short(body: bytes, share: float) -> None:
    """The rule and the words are those of a file that ends too soon."""
    with pytest.raises(Refused, match="is cut short") as caught:
        check_image(body[: int(len(body) * share)], LABEL)

    assert caught.value.rule == "truncated"


@pytest.mark.parametrize("body", [BASELINE, PROGRESSIVE, PNG])
def test_an_image_with_a_tail_of_zeros_is_refused(body: bytes) -> None:
    """An upload that was interrupted in a file of full length is found."""
    half = len(body) // 2

    assert _rule(body[:half] + bytes(len(body) - half)) == "truncated"


@settings(deadline=None, max_examples=60)
@given(place=st.integers(8, len(PNG) - 1), flip=st.integers(1, 255))
def test_a_png_with_one_wrong_byte_is_refused(place: int, flip: int) -> None:
    """Every part of a PNG bears a checksum, and each is looked at."""
    wrong = bytearray(PNG)
    wrong[place] ^= flip

    assert _rule(bytes(wrong)) != "taken"


@settings(deadline=None, max_examples=200)
@given(head=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", BASELINE[:300], PNG[:60]]), rest=st.binary())
def test_garbage_is_refused_and_nothing_else_happens(head: bytes, rest: bytes) -> None:
    """Whatever bytes follow a good beginning, the answer is a refusal and no other error."""
    assert _rule(head + rest) in {"truncated", "corrupt", "bomb"}


@settings(deadline=None, max_examples=200)
@given(place=st.integers(3, 700), flip=st.integers(1, 255))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_jpeg_with_a_wrong_byte_in_its_header_raises_nothing_strange(place: int, flip: int) -> None:
    """It is taken or refused, and Pillow's own errors stay inside."""
    wrong = bytearray(BASELINE)
    wrong[place] ^= flip

    _rule(bytes(wrong))


def test_a_png_with_a_wrong_checksum_says_so() -> None:
    """The reason is told in words."""
    place = PNG.index(b"IDAT") + 40
    with pytest.raises(Refused, match="is corrupt: its PNG data cannot be decoded") as caught:
        check_image(PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :], LABEL)

    assert caught.value.rule == "corrupt"


@pytest.mark.parametrize(
    "body",
    [
        _flat_png(20_000, 20_000),
        _claiming(BASELINE, 60_000, 60_000),
        _claiming(PROGRESSIVE, 65_000, 65_000),
        PNG[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + PNG[24:29] + PNG[29:],
    ],
    ids=["flat png", "baseline jpeg", "progressive jpeg", "png header"],
)
def test_a_bomb_is_refused_before_it_is_unpacked(body: bytes) -> None:
    """A small file of countless pixels costs nothing but a look at its header."""
    assert len(body) < 1_000_000
    assert _rule(body) in {"bomb", "corrupt"}


def test_a_bomb_tells_its_pixels() -> None:
    """The message says how many pixels there are and may be."""
    with pytest.raises(Refused, match=r"20000 x 20000 px are 400 million, and the limit is 120 million") as caught:
        check_image(_flat_png(20_000, 20_000), LABEL)

    assert caught.value.rule == "bomb"


def test_an_image_of_the_largest_cameras_is_taken_without_a_warning() -> None:
    """108 megapixels are no bomb, though Pillow would warn of them."""
    assert MAX_PIXELS > 12_000 * 9_000
    assert _rule(_save(Image.new("L", (12_000, 9_000)), "JPEG")) == "taken"


def test_a_bomb_in_the_metadata_is_refused() -> None:
    """A text that unpacks to a hundred megabytes is not unpacked."""
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))

    assert _rule(PNG[:33] + text + PNG[33:]) == "corrupt"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_kind_of_png_is_taken(mode: str) -> None:
    """Black and white, grey, palette, transparent and 16-bit are all PNG."""
    image = Image.new("I;16", (400, 320)) if mode == "I;16" else make_image(400, 320).convert(mode)

    assert check_image(_save(image, "PNG"), LABEL).format == "PNG"


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
def test_every_kind_of_jpeg_is_taken(mode: str) -> None:
    """Grey and CMYK are JPEG too."""
    assert check_image(_save(make_image(400, 320).convert(mode), "JPEG"), LABEL).format == "JPEG"


def test_an_animated_png_is_taken_for_its_first_frame() -> None:
    """By its bytes it is a PNG of that size."""
    frames = [make_image(400, 320, seed) for seed in range(3)]
    body = _save(frames[0], "PNG", save_all=True, append_images=frames[1:])

    assert check_image(body, LABEL).width == 400


def test_an_animated_png_cut_in_a_later_frame_is_refused() -> None:
    """Whole means all of it."""
    frames = [make_image(400, 320, seed) for seed in range(3)]
    body = _save(frames[0], "PNG", save_all=True, append_images=frames[1:])

    assert _rule(body[: len(body) * 9 // 10]) == "truncated"


def test_a_picture_of_a_phone_in_several_parts_is_taken() -> None:
    """An MPO is a JPEG with more behind it."""
    body = _save(make_image(640, 480), "MPO", save_all=True, append_images=[make_image(640, 480, 1)])
    facts = check_image(body, LABEL)

    assert (facts.format, facts.width, facts.height) == ("JPEG", 640, 480)


@pytest.mark.parametrize("body", [BASELINE, PROGRESSIVE, PNG])
def test_bytes_after_a_whole_image_do_no_harm(body: bytes) -> None:
    """What cameras and tools put behind the end is passed over."""
    assert _rule(body + b"trailing garbage \xff\xd8\xff\xda" * 50) == "taken"


def test_long_metadata_and_profiles_do_no_harm() -> None:
    """Text, XMP and a colour profile are no reason to refuse."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x/>" * 100_000)
    info.add_text("Comment", "x" * 200_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert _rule(_save(make_image(400, 320), "PNG", pnginfo=info, icc_profile=profile)) == "taken"
    assert _rule(_save(make_image(400, 320), "JPEG", icc_profile=profile)) == "taken"


def test_many_images_at_once_are_judged_alike() -> None:
    """Nothing global is changed: bombs and good images in parallel keep their verdicts."""
    bodies = [PNG, _flat_png(20_000, 20_000), BASELINE, PNG[:900]] * 10
    with ThreadPoolExecutor(8) as threads:
        rules = list(threads.map(_rule, bodies))

    assert rules == ["taken", "bomb", "taken", "truncated"] * 10


def test_a_refusal_survives_pickling() -> None:
    """Prefect keeps errors as pickles."""
    with pytest.raises(Refused) as caught:
        check_image(b"", LABEL)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes

    assert (again.message, again.hint, again.rule) == (caught.value.message, caught.value.hint, "empty")


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
def test_an_image_is_named_without_its_secrets(text: str, label: str) -> None:
    """A URL's query, fragment and userinfo are kept for the fetch and shown nowhere."""
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
def test_what_names_no_image_is_wrong_usage(text: str) -> None:
    """The message says what is accepted."""
    with pytest.raises(UsageError, match=r"s3://bucket/key|https://host/path"):
        ImageRef.parse(text)


def test_no_message_shows_a_signature() -> None:
    """A URL that cannot be read is not printed with its query either."""
    for text in ("https://example.org/a b.jpg?sig=SECRET", "htps://u:SECRET@example.org/a.jpg?SECRET"):
        with pytest.raises(UsageError) as caught:
            ImageRef.parse(text)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="either") as wrong:
        ImageRef(uri=S3Uri("bucket", "a"), url="https://example.org?SECRET")
    assert "SECRET" not in str(wrong.value)
