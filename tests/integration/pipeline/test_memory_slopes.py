"""Memory per video in flight and for a large video, each measured in its own process."""

from __future__ import annotations

import sys

import pytest

from benchmarks.processes import run_child
from sandbox import Sandbox
from tests.support.orders import put_copies

FEW, MANY = 4, 24
WAITING_KB = 25
"""Limit per video in flight. With Prefect it is 60 KB."""
STORING_MB = 32
VIDEO_BYTES = 60_000_000


def test_a_video_in_flight_takes_little_memory(sandbox: Sandbox) -> None:
    """Each further video that is rendering takes less than 25 KB."""
    put_copies(sandbox, 1 + FEW + MANY)
    env = sandbox.env | {"I2V_POLL_FIRST_SECONDS": "1000", "I2V_POLL_EVERY_SECONDS": "0.1", "I2V_FIRST_SUBMITS": "0"}
    result = run_child("tests.support.waiting_memory", str(FEW), str(MANY), env=env)
    assert 1 < result.output["bytes_each"] / 1000 < WAITING_KB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_video_is_never_in_memory(sandbox: Sandbox) -> None:
    """Storing a video of 60 MB takes at most 32 MB more than storing a small one."""
    put_copies(sandbox, 2)
    env = sandbox.env | {"I2V_POLL_FIRST_SECONDS": "0.05", "I2V_POLL_EVERY_SECONDS": "0.1"}
    sandbox.provider.set_options(file_bytes=VIDEO_BYTES, render_seconds=0, render="shared")
    result = run_child("benchmarks.transfer", "i2v", env=env)
    video, _ = sorted(key for key in sandbox.keys("videos/") if key.endswith(".mp4"))
    head = sandbox.s3().head_object(Bucket=sandbox.bucket, Key=video)
    assert head["ContentLength"] == VIDEO_BYTES
    assert result.output["more_mb"] < STORING_MB
