"""`make_video` renders an mp4 from one image: a slow camera move, marked as synthetic. It blocks."""

import io
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont, ImageOps

Planes = tuple[Image.Image, ...]
Camera = tuple[float, float, float]

MARK = "SYNTHETIC - i2v sandbox"
COMMENT = "Synthetic video made by the i2v sandbox from a still image; no model and no provider was involved."
MOVES = ("in", "out", "right", "up")
MARGIN = 0.14
"""The share of the picture that the camera moves over."""


@dataclass(frozen=True)
class VideoSpec:
    """The video to make: its short side in pixels, its length in seconds, and its quality."""

    short_side: int
    seconds: int
    fast: bool = False

    @property
    def rate(self) -> int:
        """Frames a second."""
        return 1 if self.fast else 24

    @property
    def resampling(self) -> Image.Resampling:
        """How a view is scaled to the frame."""
        return Image.Resampling.NEAREST if self.fast else Image.Resampling.BILINEAR

    @property
    def options(self) -> dict[str, str]:
        """Encoder options."""
        return {"preset": "ultrafast", "crf": "36" if self.fast else "23"}

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the frame size for an image of that size: the same aspect ratio, both sides even."""
        scale = self.short_side / min(width, height)
        return round(width * scale / 2) * 2, round(height * scale / 2) * 2


def make_video(image: bytes, spec: VideoSpec, path: Path) -> None:
    """Write an h264 yuv420p mp4 with its index in front (faststart).

    Raise `OSError` if the image cannot be read or the file cannot be written.
    """
    with Image.open(io.BytesIO(image)) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    size = spec.size(*picture.size)
    larger = (round(size[0] * (1 + MARGIN)), round(size[1] * (1 + MARGIN)))
    planes = _planes(picture.resize(larger, Image.Resampling.BILINEAR, reducing_gap=2))
    _encode(planes, size, spec, MOVES[sha256(image).digest()[0] % len(MOVES)], path)


def _planes(picture: Image.Image) -> Planes:
    """Return YUV planes in video range, chroma at half size. Moving planes is three times as fast as moving RGB."""
    luma, blue, red = picture.convert("YCbCr").split()
    half = (picture.width // 2, picture.height // 2)
    luma = luma.point([16 + value * 219 // 255 for value in range(256)])
    colors = (plane.point([16 + value * 224 // 255 for value in range(256)]).resize(half) for plane in (blue, red))
    return luma, *colors


def _encode(planes: Planes, size: tuple[int, int], spec: VideoSpec, move: str, path: Path) -> None:
    total = spec.seconds * spec.rate
    mark = _planes(_mark(size))
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = COMMENT
        stream = container.add_stream("libx264", rate=spec.rate, options=spec.options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(total):
            frame = _frame(planes, mark, spec.resampling, size, _camera(move, number / total))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _camera(move: str, time: float) -> Camera:
    """Return left, top and side of the view at `time` from 0 to 1, as shares of the picture. Eased at both ends."""
    eased = time * time * (3 - 2 * time)
    closest = 1 / (1 + MARGIN)
    zoom = {"in": eased, "out": 1 - eased}.get(move, 1)
    side = 1 - (1 - closest) * zoom
    left = (1 - side) * (eased if move == "right" else 0.5)
    top = (1 - side) * (1 - eased if move == "up" else 0.5)
    return left, top, side


def _frame(
    planes: Planes, mark: Planes, resampling: Image.Resampling, size: tuple[int, int], camera: Camera
) -> av.VideoFrame:
    frame = av.VideoFrame(*size, "yuv420p")
    left, top, side = camera
    for plane, stamp, target in zip(planes, mark, frame.planes, strict=True):
        width, height = plane.size
        box = (left * width, top * height, (left + side) * width, (top + side) * height)
        view = plane.resize((target.width, target.height), resampling, box=box)
        view.paste(stamp, (0, target.height - stamp.height))
        row = Image.new("L", (target.line_size, target.height))
        row.paste(view)
        target.update(row.tobytes())
    return frame


def _mark(size: tuple[int, int]) -> Image.Image:
    height = max(24, min(size) // 48 * 2)
    mark = Image.new("RGB", (height * 11, height), (20, 20, 20))
    draw = ImageDraw.Draw(mark)
    draw.text((height // 3, height // 8), MARK, fill=(255, 210, 60), font=ImageFont.load_default(height * 0.62))
    return mark
