"""Promise 1 in a race: eight real processes over the same images at the same time. `tests/crash` also kills them.

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
"""So that eight processes do not spend all their time on status requests."""


@pytest.mark.parametrize("time", range(1, RACES + 1))
def test_processes_over_the_same_images_pay_each_once(sandbox: Sandbox, tmp_path: Path, time: int) -> None:
    """Eight processes that want the same videos at the same time pay once for each, and none of them fails."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        for number in range(IMAGES):
            world.put(f"{number}.jpg", 100 * time + number)
        ended = run_concurrently(world.process({**sandbox.env, **SLOW_POLLING}) for _ in range(PROCESSES))
        assert [(each.code, each.error) for each in ended] == [(0, "")] * PROCESSES
        assert [each.report["stored"] + each.report["cached"] for each in ended] == [IMAGES] * PROCESSES
        assert list(world.bills().values()) == [1] * IMAGES
        for picture in world.pictures:
            world.read_published(picture)
        assert sum(each.report["spent_usd"] for each in ended) == pytest.approx(IMAGES * 0.192)
        assert (
            run_process(world.process(sandbox.env, work="reconcile")).error == ""
        )  # it takes away the marks that losers were late with
        assert world.open_marks() == set()
