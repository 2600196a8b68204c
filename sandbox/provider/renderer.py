"""Where videos are made: at most two at a time, and each image, mode and length only once while the studio stands."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from PIL import Image

from sandbox.provider.video_maker import VideoSpec, make_video
from sandbox.synthetic_images import ORIENTATION_TAG, TURNED, make_jpeg

WORKERS = 2
"""The encoder gives the interpreter's lock away, so threads do."""


class Renderer:
    """Makes and keeps films in `folder`; its cache outlives a reset of the emulator."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="sandbox-film")
        self._films: dict[tuple[str, VideoSpec], asyncio.Future[Path]] = {}
        self.made = 0
        """Films that were really made, not taken from the cache."""

    async def film(self, image: bytes, reel: VideoSpec, *, shared: bool) -> Path:
        """The film of an image, made if it is new; with `shared` one film for all images of that size.

        Raises:
            OSError: the image cannot be read.
        """
        name = _frame_name(image, reel) if shared else sha256(image).hexdigest()
        key = (name, reel)
        if key not in self._films:
            self._films[key] = asyncio.get_running_loop().run_in_executor(self._pool, self._make, image, key, shared)
        return await asyncio.shield(self._films[key])

    def _make(self, image: bytes, key: tuple[str, VideoSpec], shared: bool) -> Path:
        name, reel = key
        pace = "fast" if reel.fast else "fine"
        path = self._folder / f"{name}-{reel.short_side}-{reel.seconds}-{pace}.mp4"
        if not path.exists():
            if shared:
                image = make_jpeg(*map(int, name.split("x")))
            make_video(image, reel, path)
            self.made += 1
        return path

    def close(self) -> None:
        """Finish the film at hand and stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _frame_name(image: bytes, reel: VideoSpec) -> str:
    """The frame's size, from the header alone: a thousand different images must cost next to nothing."""
    with Image.open(io.BytesIO(image)) as opened:
        width, height = reel.size(*opened.size)
        turned = opened.getexif().get(ORIENTATION_TAG, 1) in TURNED
    return f"{height}x{width}" if turned else f"{width}x{height}"
