"""What memory rises with, and by how much: videos in flight, and a video's size. Each in a process of its own."""

from __future__ import annotations

import sys

import pytest

from benchmarks.processes import run_child
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg

FEW, MANY = 4, 24
WAITING_KB = 25
"""Of the 60 KB that a video in flight may take with Prefect."""
STORING_MB = 32
VIDEO_BYTES = 60_000_000


def put_images(sandbox: Sandbox, number: int) -> dict[str, str]:
    """So many different images; the environment of a child that uses them."""
    picture = make_jpeg(640, 480)
    for each in range(number):
        sandbox.put_image(f"images/{each:03}.jpg", picture + b"%d" % each)
    return sandbox.env | {"I2V_POLL_FIRST_SECONDS": "0.05", "I2V_POLL_EVERY_SECONDS": "0.1"}


def test_a_video_in_flight_takes_little(sandbox: Sandbox) -> None:
    """One video more that renders takes some tens of KB."""
    env = put_images(sandbox, 1 + FEW + MANY) | {"I2V_POLL_FIRST_SECONDS": "1000"}
    result = run_child("tests.support.waiting_memory", str(FEW), str(MANY), env=env)
    assert 1 < result.output["bytes_each"] / 1000 < WAITING_KB


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc")
def test_a_large_video_is_never_in_memory(sandbox: Sandbox) -> None:
    """A video of 60 MB is stored in at most 32 MB more than a small one was."""
    env = put_images(sandbox, 2)
    sandbox.provider.set_options(file_bytes=VIDEO_BYTES, render_seconds=0, render="shared")
    result = run_child("benchmarks.transfer_sides", "i2v", env=env)
    video, _ = sorted(key for key in sandbox.keys("videos/") if key.endswith(".mp4"))
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key=video)
    assert head["ContentLength"] == VIDEO_BYTES
    assert result.output["more_mb"] < STORING_MB
