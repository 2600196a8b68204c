"""Promises 1 and 3 with kill -9: a real process ends at each request it makes, and others take up what it left.

`I2V_CRASH_ROUNDS` (10) is how often a run is killed at each point where it changes the world: 15 kinds of request, each
before and after, so 300 rounds. A round has a seed of its own: which of the images is hit, how the requests are
shuffled, who comes first afterwards. By default requests that only read get a fifth of that, and those of reconcile a
quarter, to keep it within three minutes on two cores; all get more when the number is raised.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from sandbox.tollgate import Toll
from tests.crash.points import OF_OTHERS, RECONCILE, RUN, Point, When
from tests.crash.processes import start
from tests.crash.rounds import LATER_SECONDS, LOST, SOON, Round, done
from tests.crash.world import Tolled

ROUNDS = int(os.environ.get("I2V_CRASH_ROUNDS", "10"))
pytestmark = pytest.mark.timeout(60 + 15 * ROUNDS)


@pytest.mark.parametrize(("work", "points"), [("animate", RUN), ("reconcile", RECONCILE)])
def test_every_request_has_a_name(world: Tolled, work: str, points: dict[str, Point]) -> None:
    """No request that a run or reconcile makes is left out of the points at which it is killed, and none is made up."""
    round_ = Round(world, work)
    if work == "reconcile":
        leave_open(round_)
    done(world.errand(SOON, work=work))
    found: Counter[str] = Counter()
    for gate, log in (("s3", world.s3.log), ("api", world.api.log)):
        for passage in log:
            names = [name for name, point in points.items() if point.gate == gate and point.names(passage)]
            assert len(names) == 1 or OF_OTHERS.names(passage), f"{passage}: {names}"
            found.update(names)
    assert sum(point.changes for point in points.values()) * 2 >= 16
    assert {name: found[name] for name, point in points.items() if found[name] < point.times} == {}


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


def rounds(points: dict[str, Point], most: int) -> list[tuple[str, When, int]]:
    """Every point, before and after, and how often it is tried."""
    often = {name: most if point.changes else max(1, most // 5) for name, point in points.items()}
    return [(name, when, often[name]) for name in points for when in ("before", "after")]


@pytest.mark.parametrize(("name", "when", "often"), rounds(RUN, ROUNDS))
def test_a_run_killed_at_any_request_pays_once(world: Tolled, name: str, when: When, often: int) -> None:
    """Whatever a run was at when it died, each image is billed once and answered once, or held unknown."""
    for seed in range(often):
        round_ = Round(world, f"{name} {when} {seed}")
        round_.kill(world.errand(), RUN[name], when, seed % RUN[name].times)
        lost = round_.left()
        round_.check(lost, round_.recover())


@pytest.mark.parametrize(("name", "when", "often"), rounds(RECONCILE, max(1, ROUNDS // 4)))
def test_reconcile_killed_at_any_request_is_repeated(world: Tolled, name: str, when: When, often: int) -> None:
    """Whatever reconcile was at when it died, the next one ends what is open, and nothing is paid by either."""
    for seed in range(often):
        round_ = Round(world, f"{name} {when} {seed}")
        leave_open(round_)
        round_.kill(world.errand(SOON, work="reconcile"), RECONCILE[name], when, seed % RECONCILE[name].times)
        assert round_.left() <= {LOST}
        round_.check({LOST}, round_.recover())
