"""Promise 1 in a race: real processes over the same images at the same moment. Who dies in it is in `tests/crash`.

`I2V_RACES` (1) is how often: each takes half a minute of both cores.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import Sandbox
from tests.support.forked_processes import run_concurrently, run_process
from tests.support.proxied_sandbox import ProxiedSandbox

pytestmark = pytest.mark.timeout(300)
PROCESSES, IMAGES = 8, 50
RACES = int(os.environ.get("I2V_RACES", "1"))
SELDOM = {"I2V_POLL_FIRST_SECONDS": "1", "I2V_POLL_EVERY_SECONDS": "1"}
"""Four hundred that ask twenty times a second would measure nothing but that."""


@pytest.mark.parametrize("time", range(1, RACES + 1))
def test_processes_over_the_same_images_pay_each_once(sandbox: Sandbox, tmp_path: Path, time: int) -> None:
    """Eight processes that want the same fifty videos at once: fifty are billed and stored, and nobody fails."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        for number in range(IMAGES):
            world.put(f"{number}.jpg", 100 * time + number)
        ended = run_concurrently(world.process({**sandbox.env, **SELDOM}) for _ in range(PROCESSES))
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
