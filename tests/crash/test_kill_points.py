"""Promises 1 and 3 with kill -9: a real process dies at each request it makes, and other processes finish its work.

A run is killed `I2V_CRASH_ROUNDS` (1) times at each of the 20 points that change the outcome: after every kind of
request that writes, and also before those that write a job. All other points get a fifth of that, reconcile's points a
quarter; every kind of request gets at least one round, after a write and before a read. Every round has its own seed,
which decides the image that is hit, the order of simultaneous requests, and whether reconcile or another run comes
first afterwards.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from tests.support.fault_proxy import FaultRule
from tests.support.forked_processes import start_process
from tests.support.kill_points import RECONCILE, RUN, KillPoint, When
from tests.support.kill_rounds import AFTER_LEASE_SECONDS, LOST, SHORT_LEASE, KillRound, run_successfully
from tests.support.proxied_sandbox import ProxiedSandbox

ROUNDS = int(os.environ.get("I2V_CRASH_ROUNDS", "1"))
KILLS, LONGEST_SECONDS = 5, 0.7
pytestmark = pytest.mark.timeout(60 + 15 * ROUNDS)


@pytest.mark.parametrize(("work", "points"), [("generate", RUN), ("reconcile", RECONCILE)])
def test_every_request_has_a_name(world: ProxiedSandbox, work: str, points: dict[str, KillPoint]) -> None:
    """Every request of a run or of reconcile has exactly one kill point, and every kill point occurs."""
    round_ = KillRound(world, work)
    if work == "reconcile":
        leave_open(round_)
    run_successfully(world.process(settings=SHORT_LEASE, work=work))
    found: Counter[str] = Counter()
    for proxy, log in (("s3", world.s3.log), ("api", world.api.log)):
        for proxied in log:
            # a heartbeat of reconcile may delete markers in a batch, as a run does
            named = {**RUN, **RECONCILE}.items()
            names = [name for name, point in named if point.proxy == proxy and point.matches(proxied)]
            assert len(names) == 1, f"{proxied}: {names}"
            found.update(names)
    assert {name: found[name] for name, point in points.items() if found[name] < point.times} == {}


def leave_open(round_: KillRound) -> None:
    """Kill a run that has three tasks at the provider, and a fourth submit whose answer is still on its way."""
    world = round_.world
    world.put(LOST, round_.dice.randrange(1 << 30))
    world.api.add(FaultRule("hold", "POST", body=LOST, when="after"))
    under_way = sorted(["submitted"] * 3 + ["claimed"])
    with start_process(world.process({"I2V_POLL_FIRST_SECONDS": "60"})) as running:
        running.begin()
        world.provider.wait(
            lambda: len(world.provider.tasks) == len(under_way) and sorted(world.states().values()) == under_way
        )
    assert round_.possibly_paid() == {LOST}
    time.sleep(AFTER_LEASE_SECONDS)


def rounds(points: dict[str, KillPoint], most: int) -> list[tuple[str, When, int]]:
    """List the kill points, before and after their requests, with their numbers of rounds."""
    moments: tuple[When, ...] = ("before", "after")
    found = [(name, when, rounds_at(point, when, most)) for name, point in points.items() for when in moments]
    return [each for each in found if each[2]]


def rounds_at(point: KillPoint, when: When, most: int) -> int:
    """Return the number of rounds; a kill before a write leaves what one after the request before it leaves."""
    if point.changes_outcome(when):
        return most
    return max(most // 5, int((when == "after") is point.changes))


def test_enough_points_are_tried_often_enough() -> None:
    """A run is killed at 20 points or more for the full number of rounds, and at each kind of request at least once."""
    for points in (RUN, RECONCILE):
        assert {name for name, _, _ in rounds(points, 1)} == set(points)
    assert sum(often == 10 for _, _, often in rounds(RUN, 10)) >= 20


@pytest.mark.parametrize(("name", "when", "often"), rounds(RUN, ROUNDS))
def test_a_run_killed_at_any_request_pays_once(world: ProxiedSandbox, name: str, when: When, often: int) -> None:
    """Wherever a run dies, each image is billed once and gets one result, or is kept as unknown."""
    for seed in range(often):
        round_ = KillRound(world, f"{name} {when} {seed}")
        round_.kill(world.process(), RUN[name], when, seed % RUN[name].times)
        lost = round_.possibly_paid()
        round_.check(lost, round_.recover())


@pytest.mark.parametrize(("name", "when", "often"), rounds(RECONCILE, max(1, ROUNDS // 4)))
def test_reconcile_killed_at_any_request_is_repeated(world: ProxiedSandbox, name: str, when: When, often: int) -> None:
    """Wherever reconcile dies, the next one settles every open job, and neither pays for anything."""
    for seed in range(often):
        round_ = KillRound(world, f"{name} {when} {seed}")
        leave_open(round_)
        round_.kill(
            world.process(settings=SHORT_LEASE, work="reconcile"), RECONCILE[name], when, seed % RECONCILE[name].times
        )
        assert round_.possibly_paid() <= {LOST}
        round_.check({LOST}, round_.recover())


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_processes_killed_again_and_again_pay_once(world: ProxiedSandbox, seed: int) -> None:
    """After five runs and reconciles were killed at random moments, each image is billed at most once."""
    round_ = KillRound(world, f"again and again {seed}")
    for _ in range(KILLS):
        work = round_.dice.choice(("generate", "generate", "reconcile"))
        with start_process(world.process(settings=SHORT_LEASE, work=work)) as running:
            running.begin()
            time.sleep(round_.dice.uniform(0, LONGEST_SECONDS))
    lost = round_.possibly_paid()
    round_.check(lost, round_.recover())
