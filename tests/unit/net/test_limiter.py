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


async def _hold(limiter: AdaptiveLimiter, admitted: list[int], number: int, leave: asyncio.Event) -> None:
    async with limiter:
        admitted.append(number)
        await leave.wait()


async def _let_tasks_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_at_most_its_width_are_inside() -> None:
    """Of 50 concurrent tasks, at most 3 are inside a limiter of width 3."""
    limiter, most = AdaptiveLimiter(3), 0

    async def enter() -> None:
        nonlocal most
        async with limiter:
            most = max(most, limiter.inside)
            await asyncio.sleep(0)

    await asyncio.gather(*(enter() for _ in range(50)))
    assert most == 3
    assert limiter.inside == 0


async def test_tasks_enter_in_order_of_arrival() -> None:
    """The limiter admits waiters in order of arrival."""
    limiter, order = AdaptiveLimiter(1), list[int]()

    async def enter(number: int) -> None:
        async with limiter:
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(enter(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_newcomer_does_not_overtake_an_admitted_waiter() -> None:
    """A slot given to a waiter is taken, even before the waiter runs."""
    limiter, admitted, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    await limiter.__aenter__()
    waiter = asyncio.create_task(_hold(limiter, admitted, 1, leave))
    await _let_tasks_run()
    await limiter.__aexit__(None, None, None)
    newcomer = asyncio.create_task(_hold(limiter, admitted, 2, leave))
    await _let_tasks_run()
    assert admitted == [1]
    leave.set()
    await asyncio.gather(waiter, newcomer)
    assert admitted == [1, 2]


async def test_a_cancelled_waiter_is_skipped() -> None:
    """A cancelled waiter is skipped, and the next one enters."""
    limiter, admitted, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    tasks = [asyncio.create_task(_hold(limiter, admitted, number, leave)) for number in range(3)]
    await _let_tasks_run()
    tasks[1].cancel()
    await _let_tasks_run()
    leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert admitted == [0, 2]
    assert limiter.inside == 0


async def test_a_waiter_cancelled_when_admitted_frees_its_slot() -> None:
    """A waiter cancelled between its admission and its first step frees its slot."""
    limiter, admitted, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    await limiter.__aenter__()
    first, second = (asyncio.create_task(_hold(limiter, admitted, number, leave)) for number in (1, 2))
    await _let_tasks_run()
    await limiter.__aexit__(None, None, None)
    first.cancel()
    leave.set()
    await asyncio.wait_for(second, 1)
    assert admitted == [2]
    assert first.cancelled()
    assert limiter.inside == 0


async def test_only_cancelled_waiters_do_not_block_the_limiter() -> None:
    """When all waiters were cancelled, the next arrival enters at once."""
    limiter, admitted, leave = AdaptiveLimiter(1), list[int](), asyncio.Event()
    await limiter.__aenter__()
    waiter = asyncio.create_task(_hold(limiter, admitted, 1, leave))
    await _let_tasks_run()
    waiter.cancel()
    await _let_tasks_run()
    await limiter.__aexit__(None, None, None)
    async with asyncio.timeout(60), limiter:
        assert limiter.inside == 1


def test_a_burst_halves_the_limit_once() -> None:
    """Twenty 429 responses in one burst halve 24 to 12; the next burst halves it again."""
    clock = _Clock()
    limiter = AdaptiveLimiter(24, clock=clock)
    for _ in range(20):
        limiter.slow_down()
    assert limiter.allowed == 12
    clock.now += 1.0
    limiter.slow_down()
    assert limiter.allowed == 6


def test_the_limit_stays_at_least_one() -> None:
    """After any number of bursts, one task can enter."""
    clock = _Clock()
    limiter = AdaptiveLimiter(5, clock=clock)
    for _ in range(10):
        clock.now += 2
        limiter.slow_down()
    assert limiter.allowed == 1


def test_successes_raise_the_limit_step_by_step() -> None:
    """As many successes as the limit raise it by one, up to the width."""
    clock = _Clock()
    limiter = AdaptiveLimiter(8, clock=clock)
    limiter.slow_down()
    limits = []
    for _ in range(60):
        limiter.recover()
        limits.append(limiter.allowed)
    assert limits[:4] == [4, 4, 4, 5]
    assert limits[-1] == 8
    assert limits == sorted(limits)
    assert sum(later - earlier for earlier, later in itertools.pairwise(limits)) <= 4


async def test_a_lowered_limit_admits_none_until_enough_have_left() -> None:
    """After a halving, tasks inside stay, and none enters until fewer than the new limit are inside."""
    limiter, admitted = AdaptiveLimiter(4), list[int]()
    leaves = [asyncio.Event() for _ in range(6)]
    tasks = [asyncio.create_task(_hold(limiter, admitted, number, leaves[number])) for number in range(6)]
    await _let_tasks_run()
    limiter.slow_down()
    leaves[0].set()
    leaves[1].set()
    await _let_tasks_run()
    assert admitted == [0, 1, 2, 3]
    leaves[2].set()
    await _let_tasks_run()
    assert admitted == [0, 1, 2, 3, 4]
    for leave in leaves:
        leave.set()
    await asyncio.gather(*tasks)


async def test_recovery_admits_waiters_at_once() -> None:
    """A success admits a waiter, even if no task leaves."""
    limiter, admitted, leave = AdaptiveLimiter(2), list[int](), asyncio.Event()
    limiter.slow_down()
    tasks = [asyncio.create_task(_hold(limiter, admitted, number, leave)) for number in range(2)]
    await _let_tasks_run()
    assert admitted == [0]
    limiter.recover()
    await _let_tasks_run()
    assert admitted == [0, 1]
    leave.set()
    await asyncio.gather(*tasks)


async def test_five_thousand_waiters_are_cheap() -> None:
    """5,000 tasks pass a limiter of width 24 in under two seconds of CPU."""
    limiter = AdaptiveLimiter(24)

    async def enter() -> None:
        async with limiter:
            await asyncio.sleep(0)

    began = time.process_time()
    await asyncio.gather(*(enter() for _ in range(5_000)))
    assert time.process_time() - began < 2


def test_a_width_below_one_is_rejected() -> None:
    """A width below 1 raises at construction instead of blocking forever."""
    with pytest.raises(ValueError, match="at least 1"):
        AdaptiveLimiter(0)
