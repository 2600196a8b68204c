"""Promise 1 under concurrency: eight processes over the same images. `tests/crash` also kills them.

`I2V_RACE_IMAGES` (20) is the number of images, `I2V_RACES` (1) the number of repetitions.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import Sandbox
from tests.support.forked_processes import run_concurrently, run_process
from tests.support.proxied_sandbox import ProxiedSandbox

pytestmark = pytest.mark.timeout(300)
PROCESSES = 8
IMAGES = int(os.environ.get("I2V_RACE_IMAGES", "20"))
RACES = int(os.environ.get("I2V_RACES", "1"))
SLOW_POLLING = {"I2V_POLL_FIRST_SECONDS": "1", "I2V_POLL_EVERY_SECONDS": "1"}
"""Keeps eight processes from spending all their time on status requests."""


@pytest.mark.parametrize("time", range(1, RACES + 1))
def test_concurrent_processes_pay_once_per_image(sandbox: Sandbox, tmp_path: Path, time: int) -> None:
    """Eight processes that generate the same videos at the same time pay once for each, and none fails."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        for number in range(IMAGES):
            world.put(f"{number}.jpg", 100 * time + number)
        results = run_concurrently(world.process({**sandbox.env, **SLOW_POLLING}) for _ in range(PROCESSES))
        assert [(result.code, result.error) for result in results] == [(0, "")] * PROCESSES
        assert [result.report["stored"] + result.report["cached"] for result in results] == [IMAGES] * PROCESSES
        assert list(world.bills().values()) == [1] * IMAGES
        for picture in world.pictures:
            world.read_published(picture)
        assert sum(result.report["spent_usd"] for result in results) == pytest.approx(IMAGES * 0.192)
        # Reconcile deletes the markers that the losing processes put late.
        assert run_process(world.process(sandbox.env, work="reconcile")).error == ""
        assert world.open_markers() == set()
