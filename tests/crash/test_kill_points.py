"""Promises 1 and 3 with kill -9: a real process ends at each request it makes, and others take up what it left.

`I2V_CRASH_ROUNDS` is how often each point is tried, each time with another seed: which of the images is hit, how the
requests are shuffled, and who comes first afterwards.
"""

from __future__ import annotations

import os
import time

import pytest

from i2v.jobs import JobState
from sandbox.tollgate import Toll
from tests.crash.points import MOMENTS, RECONCILE, RUN, When
from tests.crash.processes import start
from tests.crash.rounds import LATER_SECONDS, LOST, SOON, Round, done
from tests.crash.world import Tolled

ROUNDS = int(os.environ.get("I2V_CRASH_ROUNDS", "10"))
pytestmark = pytest.mark.timeout(60 + 15 * ROUNDS)


def test_every_request_has_a_name(world: Tolled) -> None:
    """No request that a run or reconcile makes is left out of the points at which it is killed, and none is made up."""
    assert len(RUN) + len(RECONCILE) > 20
    for points, work in ((RUN, "animate"), (RECONCILE, "reconcile")):
        round_ = Round(world, work)
        if work == "reconcile":
            leave_open(round_)
        done(world.errand(SOON, work=work))
        world.settle()
        named = {"s3": world.s3.log, "api": world.api.log}
        for gate, log in named.items():
            mine = {name: point for name, point in points.items() if point.gate == gate}
            known = [(passage, [name for name, point in mine.items() if point.names(passage)]) for passage in log]
            assert [(str(passage), names) for passage, names in known if len(names) != 1] == []
            found = [names[0] for _, names in known]
            assert {n: p.times for n, p in mine.items() if found.count(n) < p.times} == {}, found


def leave_open(round_: Round) -> None:
    """A run that is killed with three tasks at the provider, and a fourth whose answer is on its way."""
    world = round_.world
    world.put(LOST, round_.dice.randrange(1 << 30))
    world.api.add(Toll("hold", "POST", body=LOST, when="after"))
    running = start(world.errand({"I2V_POLL_FIRST_SECONDS": "60"}))
    running.go()
    under_way = sorted(["submitted"] * 3 + ["claimed"])
    world.provider.wait(
        lambda: len(world.provider.tasks) == len(under_way) and sorted(world.states().values()) == under_way
    )
    running.kill()
    assert round_.left() == {LOST}
    time.sleep(LATER_SECONDS)


@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("name", RUN)
def test_a_run_killed_at_any_request_pays_once(world: Tolled, name: str, when: When) -> None:
    """Whatever a run was at when it died, each image is billed once and answered once, or held unknown."""
    for seed in range(ROUNDS):
        round_ = Round(world, f"{name} {when} {seed}")
        round_.kill(world.errand(), RUN[name], when, seed % RUN[name].times)
        lost = round_.left()
        round_.check(lost, round_.recover())


@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("name", RECONCILE)
def test_reconcile_killed_at_any_request_is_repeated(world: Tolled, name: str, when: When) -> None:
    """Whatever reconcile was at when it died, the next one ends what is open, and nothing is paid by either."""
    for seed in range(ROUNDS):
        round_ = Round(world, f"{name} {when} {seed}")
        leave_open(round_)
        round_.kill(world.errand(SOON, work="reconcile"), RECONCILE[name], when, seed % RECONCILE[name].times)
        assert round_.left() <= {LOST}
        done(world.errand(SOON, work="reconcile"))
        assert JobState.SUBMITTED not in world.states().values()
        round_.check({LOST}, round_.recover())
