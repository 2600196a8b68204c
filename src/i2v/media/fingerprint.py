"""A small picture of a picture, to tell whether two show the same: `fingerprint` and `shows_the_same`."""

from math import sqrt
from statistics import fmean, pvariance

from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

SIDE = 8
_LEVELS = 16
_NEAR = 20.0
"""Mean difference, of 256 levels of gray, up to which two pictures are the same. A video's first frame differs from its
image by 4 to 18, two photographs by 41 and more."""
_ALIKE = 0.4
"""Correlation from which they are the same, though brighter or cropped; of two photographs it is below 0.32."""
_FLAT = 16.0
"""Variance below which a picture has nothing to compare."""


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
    step = 256 // _LEVELS
    first, second = [int(digit, _LEVELS) * step + step / 2 for digit in image], [float(pixel) for pixel in pixels]
    if pvariance(first) < _FLAT or pvariance(second) < _FLAT:
        return True
    for _ in range(4):
        if fmean(abs(one - other) for one, other in zip(first, second, strict=True)) <= _NEAR:
            return True
        if _correlation(_without_rows(first), _without_rows(second)) >= _ALIKE:
            return True
        second = [second[(SIDE - 1 - column) * SIDE + row] for row in range(SIDE) for column in range(SIDE)]
    return False


def _without_rows(values: list[float]) -> list[float]:
    """Subtract each row's mean, because most pictures are bright above and dark below."""
    rows = [values[start : start + SIDE] for start in range(0, len(values), SIDE)]
    return [value - fmean(row) for row in rows for value in row]


def _correlation(first: list[float], second: list[float]) -> float:
    norm = _product(first, first) * _product(second, second)
    return _product(first, second) / sqrt(norm) if norm else 0.0


def _product(first: list[float], second: list[float]) -> float:
    return sum(one * other for one, other in zip(first, second, strict=True))
