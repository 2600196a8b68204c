from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from i2v.net.limiter import AdaptiveLimiter


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def _hold(gate: AdaptiveLimiter, log: list[int], number: int, leave: asyncio.Event) -> None:
    async with gate:
        log.append(number)
        await leave.wait()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_its_width_are_ever_inside() -> None:
    """Of 50 that come, never more than 3 are inside."""
    gate, most = AdaptiveLimiter(3), 0

    async def visit() -> None:
        nonlocal most
        async with gate:
            most = max(most, gate.inside)
            await asyncio.sleep(0)

    await asyncio.gather(*(visit() for _ in range(50)))
    assert most == 3
    assert gate.inside == 0


async def test_who_came_first_enters_first() -> None:
    """Places are given in the order of arrival."""
    gate, order = AdaptiveLimiter(1), list[int]()

    async def visit(number: int) -> None:
        async with gate:
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(visit(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_newcomer_does_not_overtake_one_whose_turn_came() -> None:
    """A place that was handed to a waiter is taken, also before the waiter has run."""
    gate, log, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    await gate.__aenter__()
    waiter = asyncio.create_task(_hold(gate, log, 1, leave))
    await _settle()
    await gate.__aexit__(None, None, None)
    newcomer = asyncio.create_task(_hold(gate, log, 2, leave))
    await _settle()
    assert log == [1]
    leave.set()
    await asyncio.gather(waiter, newcomer)
    assert log == [1, 2]


async def test_a_cancelled_waiter_loses_nobody_a_place() -> None:
    """Who gives up waiting is skipped, and the one behind enters."""
    gate, log, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    tasks = [asyncio.create_task(_hold(gate, log, number, leave)) for number in range(3)]
    await _settle()
    tasks[1].cancel()
    await _settle()
    leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log == [0, 2]
    assert gate.inside == 0


async def test_a_waiter_cancelled_just_as_its_turn_comes_passes_the_place_on() -> None:
    """Cancelled between the hand-over and its first step, a waiter leaves the gate as open as it was."""
    gate, log, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    await gate.__aenter__()
    first, second = (asyncio.create_task(_hold(gate, log, number, leave)) for number in (1, 2))
    await _settle()
    await gate.__aexit__(None, None, None)
    first.cancel()
    leave.set()
    await asyncio.wait_for(second, 1)
    assert log == [2]
    assert first.cancelled()
    assert gate.inside == 0


async def test_only_cancelled_waiters_do_not_close_the_gate() -> None:
    """After all who waited gave up, the next who comes enters at once."""
    gate, log, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    await gate.__aenter__()
    waiter = asyncio.create_task(_hold(gate, log, 1, leave))
    await _settle()
    waiter.cancel()
    await _settle()
    await gate.__aexit__(None, None, None)
    async with asyncio.timeout(1), gate:
        assert gate.inside == 1


def test_a_burst_of_refusals_halves_it_once() -> None:
    """Twenty 429 of one burst halve 24 to 12, not to 1; the next burst halves it again."""
    clock = _Clock()
    gate = AdaptiveLimiter(24, clock=clock)
    for _ in range(20):
        gate.slow_down()
    assert gate.allowed == 12
    clock.now += 1.0
    gate.slow_down()
    assert gate.allowed == 6


def test_it_never_closes_wholly() -> None:
    """However many bursts come, one may be inside."""
    clock = _Clock()
    gate = AdaptiveLimiter(5, clock=clock)
    for _ in range(10):
        clock.now += 2
        gate.slow_down()
    assert gate.allowed == 1


def test_successes_open_it_step_by_step_to_the_full_width() -> None:
    """One more is allowed for as many successes as are allowed inside, and never more than the width."""
    clock = _Clock()
    gate = AdaptiveLimiter(8, clock=clock)
    gate.slow_down()
    seen = []
    for _ in range(60):
        gate.recover()
        seen.append(gate.allowed)
    assert seen[:4] == [4, 4, 4, 5]
    assert seen[-1] == 8
    assert seen == sorted(seen)
    assert sum(later - earlier for earlier, later in itertools.pairwise(seen)) <= 4


async def test_a_narrowed_gate_holds_back_until_enough_have_left() -> None:
    """After halving, those inside stay and nobody enters until fewer than the half are inside."""
    gate, log = AdaptiveLimiter(4), list[int]()
    leaves = [asyncio.Event() for _ in range(6)]
    tasks = [asyncio.create_task(_hold(gate, log, number, leaves[number])) for number in range(6)]
    await _settle()
    gate.slow_down()
    leaves[0].set()
    leaves[1].set()
    await _settle()
    assert log == [0, 1, 2, 3]
    leaves[2].set()
    await _settle()
    assert log == [0, 1, 2, 3, 4]
    for leave in leaves:
        leave.set()
    await asyncio.gather(*tasks)


async def test_recovering_lets_waiters_in_at_once() -> None:
    """Who waits at a narrowed gate enters by a success alone, without anybody leaving."""
    gate, log, leave = AdaptiveLimiter(2), list[int](), asyncio.Event()
    gate.slow_down()
    tasks = [asyncio.create_task(_hold(gate, log, number, leave)) for number in range(2)]
    await _settle()
    assert log == [0]
    gate.recover()
    await _settle()
    assert log == [0, 1]
    leave.set()
    await asyncio.gather(*tasks)


async def test_five_thousand_waiters_are_cheap() -> None:
    """5,000 visits through a gate of 24 take well under two seconds of CPU."""
    gate = AdaptiveLimiter(24)

    async def visit() -> None:
        async with gate:
            await asyncio.sleep(0)

    began = time.process_time()
    await asyncio.gather(*(visit() for _ in range(5_000)))
    assert time.process_time() - began < 2


def test_a_gate_nobody_fits_through_is_refused() -> None:
    """A width under 1 is an error where it is made, not a run that hangs."""
    with pytest.raises(ValueError, match="lets nobody in"):
        AdaptiveLimiter(0)
