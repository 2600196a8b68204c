"""A corpus of hostile files in the decoder: each ends by itself, and the decoder stays usable.

`I2V_HOSTILE_FILES=2000` decodes as many, and prints what they took.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from i2v.errors import BrokenVideo, DecoderStopped, Refused
from i2v.media.decoder import DECODER, MEMORY_BYTES, WALL_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.hostile_files import HostileFile, hostile_files

COUNT = int(os.environ.get("I2V_HOSTILE_FILES", "81"))
SLOW_SECONDS = 5.0
"""Files that take longer are printed."""


async def _decode(file: HostileFile, path: Path) -> str:
    """Decode a file as a run would; return how it ended."""
    try:
        if file.kind == "image":
            await DECODER.check_image(file.body, "x")
        else:
            path.write_bytes(file.body)  # noqa: ASYNC240 - a small file
            await DECODER.examine_video(path, "0" * 64)
    except (Refused, BrokenVideo, DecoderStopped) as error:
        return type(error).__name__
    return "accepted"


def peak_bytes() -> int:
    """Return the peak memory of this child process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.timeout(3600)
async def test_no_hostile_file_takes_more_than_its_limits(tmp_path: Path) -> None:
    """Each file is accepted or refused, or stopped at its limits; none ends the decoder."""
    ends: Counter[tuple[str, str]] = Counter()
    slowest: list[tuple[float, str]] = []
    for file in hostile_files(COUNT):
        begun = time.monotonic()
        ends[file.how, await _decode(file, tmp_path / "video.mp4")] += 1
        slowest.append((time.monotonic() - begun, f"{file.number} {file.how}"))
    peak = max([await DECODER.run(peak_bytes) for _ in range(8)])
    slowest.sort(reverse=True)
    print(*sorted(ends.items()), *slowest[:10], f"peak {peak >> 20} MB", sep="\n")  # noqa: T201 - for the long run
    assert ends.total() == COUNT
    assert slowest[0][0] < 2 * WALL_SECONDS
    assert peak < 1.5 * MEMORY_BYTES
    assert (await DECODER.check_image(make_jpeg(), "x")).width == 640


async def test_hostile_files_at_once_stay_within_the_limits_of_two_processes(tmp_path: Path) -> None:
    """Eight forged tables at once are decoded two at a time, and all end."""
    forged = list(hostile_files(27 * 8, only="mp4, forged index"))
    paths = [tmp_path / f"{file.number}.mp4" for file in forged]
    ends = await asyncio.gather(*map(_decode, forged, paths))
    assert len(ends) == 8
    assert set(ends) <= {"accepted", "BrokenVideo", "DecoderStopped"}
