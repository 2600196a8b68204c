"""The memory of a flow run per video in flight; `integration/pipeline/test_memory_slopes.py` has our own part."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.processes import run_child
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.synthetic_images import make_jpeg

FEW, MANY = 10, 60
WAITING_KB = 48
"""As Python counts it, 44 now; what is resident is a quarter more, and may be 60 KB."""


def test_a_video_in_flight_takes_little_with_prefect(
    sandbox: Sandbox, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    """One video more that renders takes less than 48 KB, Prefect's part of it included."""
    picture = make_jpeg(640, 480)
    for each in range(1 + FEW + MANY):
        sandbox.put_image(f"images/{each:03}.jpg", picture + b"%d" % each)
    home = {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_HOME": str(tmp_path)}
    env = sandbox.env | home | {"I2V_POLL_FIRST_SECONDS": "1000", "PATH": os.environ["PATH"]}
    result = run_child("tests.support.waiting_memory", str(FEW), str(MANY), "--prefect", env=env)
    assert 10 < result.output["bytes_each"] / 1000 < WAITING_KB
