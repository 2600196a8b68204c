"""Renders videos in two threads, one for each image, size and length."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from PIL import Image

from sandbox.provider.video_maker import VideoSpec, make_video
from sandbox.synthetic_images import ORIENTATION_TAG, ROTATED, make_jpeg

THREADS = 2
"""The encoder releases the GIL, so threads are enough."""


class Renderer:
    """Renders into `folder`. Its videos survive a reset of the emulator."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sandbox-renderer")
        self._videos: dict[tuple[str, VideoSpec], asyncio.Future[Path]] = {}

    @property
    def rendered(self) -> int:
        """How many videos were rendered."""
        return len(self._videos)

    async def render(self, image: bytes, spec: VideoSpec, *, shared: bool) -> Path:
        """Return the video of an image; with `shared`, one video for all images of its size. Raise `OSError`."""
        name = _frame_name(image, spec) if shared else sha256(image).hexdigest()
        key = (name, spec)
        if key not in self._videos:
            frame = name if shared else None
            self._videos[key] = asyncio.get_running_loop().run_in_executor(self._pool, self._make, image, spec, frame)
        return await asyncio.shield(self._videos[key])

    def _make(self, image: bytes, spec: VideoSpec, frame: str | None) -> Path:
        path = self._folder / f"{uuid4().hex}.mp4"
        make_video(make_jpeg(*map(int, frame.split("x"))) if frame else image, spec, path)
        return path

    def close(self) -> None:
        """Finish the current videos and stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _frame_name(image: bytes, spec: VideoSpec) -> str:
    """Return the frame's size from the header alone: a thousand different images must cost next to nothing."""
    with Image.open(io.BytesIO(image)) as opened:
        width, height = spec.size(*opened.size)
        rotated = opened.getexif().get(ORIENTATION_TAG, 1) in ROTATED
    return f"{height}x{width}" if rotated else f"{width}x{height}"
