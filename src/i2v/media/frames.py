"""What the frames of a video show: `picture_flags` says whether it is frozen or black, or shows another picture."""

from collections.abc import Sequence
from statistics import median

from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from i2v.media.fingerprint import shows_the_same, thumbnail

FROZEN, BLACK, NOT_THE_IMAGE = (
    "frozen: nothing moves",
    "black: all frames are black",
    "not_the_image: its first frame does not show the image",
)
_SIDE = 64
_BLACK_LEVEL = 32
_STILL_LEVELS = 8
_STILL_BYTES, _STILL_PIXELS_PER_BYTE = 256, 768
"""What x264's fastest preset writes at most for an unchanged frame; a slow zoom takes twice as much."""


def small_copy(frame: VideoFrame) -> VideoFrame:
    """Return 64 x 64 pixels of gray."""
    return frame.reformat(_SIDE, _SIDE, "gray", interpolation=Interpolation.FAST_BILINEAR, threads=1)


class Samples:
    """Small gray copies of frames."""

    def __init__(self, first: VideoFrame) -> None:
        self._frames = [bytes(first.planes[0])]

    def add(self, frame: VideoFrame) -> None:
        """Keep a small copy of a frame."""
        self._frames.append(bytes(small_copy(frame).planes[0]))

    @property
    def is_black(self) -> bool:
        """Whether all frames are black."""
        return all(max(frame) <= _BLACK_LEVEL for frame in self._frames)

    @property
    def is_still(self) -> bool:
        """Whether all frames are equal but for the encoder's noise."""
        first, *others = self._frames
        return bool(others) and all(
            abs(one - other) <= _STILL_LEVELS for frame in others for one, other in zip(first, frame, strict=True)
        )


def may_be_still(sizes: Sequence[int], pixels: int) -> bool:
    """Return whether most packets after the first are as small as those of unchanged frames; sizes in bytes."""
    return len(sizes) > 1 and median(sizes[1:]) <= _STILL_BYTES + pixels / _STILL_PIXELS_PER_BYTE


def is_other_picture(frame: VideoFrame, image: str) -> bool:
    """Return whether a frame shows something else than the image with this fingerprint."""
    return bool(image) and not shows_the_same(image, thumbnail(frame))
