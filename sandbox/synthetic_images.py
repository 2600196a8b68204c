"""Sample images made on the spot: distinct by seed, smooth like photographs, quick. Real photographs lie elsewhere."""

from __future__ import annotations

import io
import random

from PIL import Image, ImageDraw

ORIENTATION_TAG = 0x0112
TURNED = (5, 6, 7, 8)
"""Orientations whose width and height are shown exchanged."""


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """A hazy sky over three ridges, in colours of its own for each seed."""
    dice = random.Random(f"{seed}")  # noqa: S311 - a picture, not a secret
    sky = Image.frombytes("RGB", (9, 7), bytes(dice.randrange(90, 250) for _ in range(9 * 7 * 3)))
    picture = sky.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for ridge in range(3):
        level = 0.5 + ridge * 0.16
        heights = [height * (level + dice.uniform(-0.09, 0.09)) for _ in range(9)]
        outline = [(width * step / 8, y) for step, y in enumerate(heights)]
        shade = [dice.randrange(20, 150) // (ridge + 1) for _ in range(3)]
        draw.polygon([(0.0, height), *outline, (width, height)], fill=(shade[0], shade[1], shade[2]))
    return picture


def make_jpeg(width: int = 640, height: int = 480, seed: int = 0, exif_orientation: int | None = None) -> bytes:
    """A JPEG of that many stored pixels; orientations 5 to 8 mean that it is shown turned by 90 degrees."""
    exif = Image.Exif()
    if exif_orientation is not None:
        exif[ORIENTATION_TAG] = exif_orientation
    return _bytes(make_image(width, height, seed), "JPEG", quality=80, exif=exif)


def make_png(width: int = 640, height: int = 480, seed: int = 0) -> bytes:
    """The same picture as a PNG."""
    return _bytes(make_image(width, height, seed), "PNG", compress_level=1)


def make_webp(width: int = 640, height: int = 480, seed: int = 0) -> bytes:
    """The same picture in a format that the provider does not take."""
    return _bytes(make_image(width, height, seed), "WEBP")


def _bytes(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
