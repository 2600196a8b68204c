"""Play one seed: `play`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from tests.simulator.patches import CURRENT
from tests.simulator.scenario import draw_plan
from tests.simulator.story import Story
from tests.simulator.virtual_time import SimulatedLoop, TooLong
from tests.simulator.world import World

MOST_EVENTS = 300_000


def play(seed: int, *, verbose: bool = False) -> Story:
    """Play one seed and return its story."""
    logging.disable()
    loop = SimulatedLoop(MOST_EVENTS)
    world = World(draw_plan(seed), loop, verbose=verbose)
    CURRENT.world = world
    loop.set_exception_handler(lambda _loop, _context: None)
    root = loop.create_task(world.play())
    try:
        loop.run_until_complete(root)
    except TooLong as error:
        running = [process.name for process in world.processes if not process.over]
        world.accuse("no end", f"{error}; still running: {', '.join(running)}")
    finally:
        _close(loop, world)
    return world.story


def _close(loop: SimulatedLoop, world: World) -> None:
    loop.clock.deadline, loop.clock.events_left = float("inf"), 10_000
    for process in world.processes:
        process.dead = True
        if process.frozen:
            loop.thaw(process)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        with suppress(TooLong, RuntimeError):
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
