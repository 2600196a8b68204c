"""Promise 6 with real processes: no more is spent than allowed when runs race, die or are paused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from i2v.ledger.day_spend import DaySpend
from i2v.ledger.ledger import Ledger
from i2v.s3.storage import Storage
from sandbox import Sandbox
from tests.support.fault_proxy import FaultRule
from tests.support.forked_processes import ProcessResult, run_concurrently, run_process, start_process
from tests.support.kill_points import RUN
from tests.support.kill_rounds import KILLED, SHORT_LEASE
from tests.support.proxied_sandbox import ProxiedSandbox
from tests.support.settings import MakeSettings

CENT = Decimal("0.01")
GATE, IMAGES = 24, 80
"""Submits at once in one process, and its images."""
STANDARD, LONG, PRO = Decimal("0.192"), Decimal("0.320"), Decimal("0.33")
UNTIL_SUBMITTED = {
    "I2V_POLL_FIRST_SECONDS": "0.5",
    "I2V_POLL_DEADLINE_SECONDS": "0.1",
    "I2V_FIRST_SUBMITS": "0",
}
"""Submitted jobs stay open: these tests are about money."""


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[ProxiedSandbox]:
    """The sandbox behind two fault proxies, with a slow provider."""
    with ProxiedSandbox(sandbox, tmp_path) as world:
        world.provider.set_options(render_seconds=3600)
        yield world


def items(ended: list[ProcessResult], outcome: str) -> list[dict[str, Any]]:
    """Return the images of all processes with this outcome."""
    return [item for each in ended for item in each.report["items"] if item["outcome"] == outcome]


def _submitting(world: ProxiedSandbox) -> set[int]:
    """Return which of two processes have submitted, if each has every second image."""
    numbers = {picture.sha256: number for number, picture in enumerate(world.pictures)}
    read = [task.image_sha256 for task in list(world.provider.tasks.values())]
    return {numbers[digest] % 2 for digest in read if digest}


def reserved_usd(world: ProxiedSandbox) -> Decimal:
    """Return what is reserved on all days."""
    pages = [DaySpend.model_validate_json(world.sandbox.read(key)) for key in world.sandbox.keys("jobs/days/")]
    return sum((page.total_usd for page in pages), Decimal(0))


def test_processes_share_a_labels_month_to_the_cent(world: ProxiedSandbox) -> None:
    """Eight processes with a hundred images race for a limit for twenty: twenty are billed, eighty are not tried."""
    uris = [world.put(f"{number}.jpg", number).uri for number in range(100)]
    limits = {"*": {"day": 100}, "team-a": {"month": str(21 * STANDARD - CENT)}}
    env = {**UNTIL_SUBMITTED, "I2V_LIMITS": json.dumps(limits)}
    shares = [tuple(uris[first::8]) for first in range(8)]
    ended = run_concurrently([world.process(env, images=one, label="team-a", partial=True) for one in shares])
    assert len(items(ended, "submitted")) == 20
    assert len(items(ended, "not_tried")) == 80
    assert all("I2V_LIMITS (label 'team-a', month)" in item["reason"] for item in items(ended, "not_tried"))
    assert list(world.bills().values()) == [1] * 20
    assert world.provider.billed_usd == reserved_usd(world) == 20 * STANDARD


def test_processes_over_the_same_images_share_the_daily_cap(world: ProxiedSandbox) -> None:
    """Eight processes that want the same thirty images under a cap for six pay for six together."""
    for number in range(30):
        world.put(f"{number}.jpg", number)
    env = {**UNTIL_SUBMITTED, "I2V_DAILY_CAP_USD": str(6 * STANDARD)}
    ended = run_concurrently([world.process(env, partial=True) for _ in range(8)])
    assert list(world.bills().values()) == [1] * 6
    assert {len(each.report["items"]) for each in ended} == {30}
    assert len(items(ended, "submitted")) + len(items(ended, "not_tried")) == 8 * 30
    assert len({item["image"] for item in items(ended, "submitted")}) == 6


def test_a_partial_run_spends_up_to_its_limit(world: ProxiedSandbox) -> None:
    """Under `max_spend_usd` it leaves less than the price of the cheapest image that it did not try."""
    orders = [{}, {"prompt": "p", "duration": "10"}, {"prompt": "p", "mode": "pro"}]
    prices = {world.put(f"{n}.jpg", n, **orders[n % 3]).uri: (STANDARD, LONG, PRO)[n % 3] for n in range(30)}
    limit = Decimal("3.00")
    ended = run_process(world.process(UNTIL_SUBMITTED, max_spend_usd=limit, partial=True))
    left = items([ended], "not_tried")
    assert left
    assert all("max_spend_usd" in item["reason"] for item in left)
    assert limit - min(prices[item["image"]] for item in left) < world.provider.billed_usd <= limit
    assert (
        reserved_usd(world) == world.provider.billed_usd == sum(prices[i["image"]] for i in items([ended], "submitted"))
    )


def test_a_run_that_exceeds_its_limit_does_not_start(world: ProxiedSandbox) -> None:
    """Without `partial`, a limit that is a cent too low pays nothing and reports every image."""
    for number in range(5):
        world.put(f"{number}.jpg", number)
    ended = run_process(world.process(max_spend_usd=5 * STANDARD - CENT))
    assert "max_spend_usd has $0.95 left, 5 videos cost $0.96" in ended.error
    assert len(items([ended], "not_tried")) == 5
    assert world.provider.billed_usd == reserved_usd(world) == 0


@pytest.mark.parametrize("submits", [1, 2, 3])
def test_a_killed_run_keeps_its_limit_when_retried(world: ProxiedSandbox, submits: int) -> None:
    """The same flow run, killed after some submits and started again, neither exceeds its limit nor loses of it."""
    for number in range(8):
        world.put(f"{number}.jpg", number)
    limit = 4 * STANDARD
    process = world.process(UNTIL_SUBMITTED, settings=SHORT_LEASE, max_spend_usd=limit, partial=True, run_id="the-same")
    with start_process(process) as running:
        world.s3.add(RUN["job-submitted"].kill(running.pid, "after", submits - 1))
        running.begin()
        assert running.wait().code == KILLED
    world.clear_faults()
    assert submits * STANDARD <= world.provider.billed_usd <= limit
    again = run_process(process)
    assert world.provider.billed_usd <= limit
    assert sum(record.cost_usd for record in world.records().values()) == limit, "paid, or possibly paid"
    assert max(world.bills().values()) == 1
    assert len(again.report["items"]) == 8


async def test_a_pause_stops_every_run_in_its_gate(
    world: ProxiedSandbox, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused while gates turn over every 3 s, two runs submit at most three rounds more; a resume pays for the rest."""
    for name, value in world.sandbox.env.items():
        monkeypatch.setenv(name, value)
    uris = [world.put(f"{number}.jpg", number).uri for number in range(2 * IMAGES)]
    processes = [world.process(UNTIL_SUBMITTED, images=tuple(uris[first::2])) for first in range(2)]
    world.s3.add(FaultRule("delay", "PUT", r"/jobs/[0-9a-f]{64}\.json", when="before", seconds=3, times=None))
    with Storage() as storage, ThreadPoolExecutor(1) as executor:
        ledger = Ledger(storage, make_settings(**world.env))
        running = executor.submit(run_concurrently, processes)
        world.provider.wait(lambda: _submitting(world) == {0, 1})  # else the one that starts later may submit nothing
        await ledger.info.set_paused(True)
        before = len(world.provider.tasks)
        ended = running.result()
        assert all(each.report["submitted"] > 0 for each in ended)
        assert len(items(ended, "submitted")) <= before + 2 * 3 * GATE
        assert items(ended, "not_tried")
        assert all("paused" in item["reason"] for item in items(ended, "not_tried"))
        assert len(items(ended, "submitted") + items(ended, "not_tried")) == len(uris)
        await ledger.info.set_paused(False)
    world.clear_faults()
    ended = run_concurrently(processes)
    assert [each.report["submitted"] for each in ended] == [IMAGES] * 2
    assert list(world.bills().values()) == [1] * len(uris)
