"""A small picture of a picture, to tell whether two show the same: `fingerprint` and `shows_the_same`."""

from math import sqrt

from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

SIDE = 8
_LEVELS = 16
SAME_FROM = 0.5
"""The correlation of a picture with the first frame of its video is 0.8 to 1, that of two others mostly below 0.3."""
_FLAT = 1.0
"""Variance, in levels of gray, below which a picture has nothing to compare."""


def thumbnail(frame: VideoFrame) -> bytes:
    """Return 8 x 8 pixels of gray, row by row."""
    small = frame.reformat(SIDE, SIDE, "gray", interpolation=Interpolation.AREA, threads=1)
    plane = small.planes[0]
    data = bytes(plane)
    return b"".join(data[row * plane.line_size : row * plane.line_size + SIDE] for row in range(SIDE))


def fingerprint(pixels: bytes) -> str:
    """Return 64 hex digits for 8 x 8 pixels: one of 16 levels for each."""
    return "".join(f"{pixel * _LEVELS // 256:x}" for pixel in pixels)


def shows_the_same(image: str, pixels: bytes) -> bool:
    """Return whether 8 x 8 pixels may show the image with this fingerprint, in any of four orientations."""
    first = [float(int(digit, _LEVELS)) for digit in image]
    second = [pixel * _LEVELS / 256 for pixel in pixels]
    if len(first) != len(second) or _variance(first) < _FLAT or _variance(second) < _FLAT:
        return True
    for _ in range(4):
        if _correlation(first, second) >= SAME_FROM:
            return True
        second = [second[(SIDE - 1 - column) * SIDE + row] for row in range(SIDE) for column in range(SIDE)]
    return False


def _variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def _correlation(first: list[float], second: list[float]) -> float:
    mean, other = sum(first) / len(first), sum(second) / len(second)
    both = sum((a - mean) * (b - other) for a, b in zip(first, second, strict=True)) / len(first)
    return both / sqrt(_variance(first) * _variance(second))
