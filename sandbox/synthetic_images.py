"""Synthetic images, smooth like photographs and distinct by seed. For real photographs see `samples/`."""

import io
import random

from PIL import Image, ImageDraw

ORIENTATION_TAG = 0x0112
ROTATED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw a hazy sky over three ridges, in colors that depend on the seed."""
    rng = random.Random(f"{seed}")  # noqa: S311 - a picture, not a secret
    sky = Image.frombytes("RGB", (9, 7), bytes(rng.randrange(90, 250) for _ in range(9 * 7 * 3)))
    image = sky.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for ridge in range(3):
        level = 0.5 + ridge * 0.16
        heights = [height * (level + rng.uniform(-0.09, 0.09)) for _ in range(9)]
        outline = [(width * step / 8, y) for step, y in enumerate(heights)]
        shade = [rng.randrange(20, 150) // (ridge + 1) for _ in range(3)]
        draw.polygon([(0.0, height), *outline, (width, height)], fill=(shade[0], shade[1], shade[2]))
    return image


def make_jpeg(width: int = 640, height: int = 480, seed: int = 0, exif_orientation: int | None = None) -> bytes:
    """Return a JPEG of that many stored pixels; orientations 5 to 8 swap its sides when shown."""
    exif = Image.Exif()
    if exif_orientation is not None:
        exif[ORIENTATION_TAG] = exif_orientation
    return _encode(make_image(width, height, seed), "JPEG", quality=80, exif=exif)


def make_png(width: int = 640, height: int = 480, seed: int = 0) -> bytes:
    """Return the same image as a PNG."""
    return _encode(make_image(width, height, seed), "PNG", compress_level=1)


def make_webp(width: int = 640, height: int = 480, seed: int = 0) -> bytes:
    """Return the same image as WebP, which the provider rejects."""
    return _encode(make_image(width, height, seed), "WEBP")


def _encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
