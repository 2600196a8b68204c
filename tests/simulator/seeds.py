"""Play many seeds on some cores, and add up what happened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from tests.simulator import patches
from tests.simulator.mutants import MUTANTS
from tests.simulator.play import play
from tests.simulator.story import Violation

CHUNK = 25


class Result(NamedTuple):
    """What came of some seeds."""

    counts: Counter[str]
    failures: list[tuple[int, Violation]]
    cpu_seconds: float


def play_chunk(first: int, last: int) -> Result:
    """Play the seeds from `first` to before `last`."""
    counts: Counter[str] = Counter()
    failures: list[tuple[int, Violation]] = []
    began = time.process_time()
    for seed in range(first, last):
        story = play(seed)
        counts += story.counts
        failures += [(seed, violation) for violation in story.violations]
    return Result(counts, failures, time.process_time() - began)


def begin() -> None:
    """Prepare a process to play seeds."""
    patches.install()


def play_many(first: int, count: int, processes: int) -> Result:
    """Play many seeds on some cores."""
    starts = range(first, first + count, CHUNK)
    counts: Counter[str] = Counter()
    failures: list[tuple[int, Violation]] = []
    cpu = 0.0
    with ProcessPoolExecutor(processes, get_context("spawn"), begin) as pool:
        for result in pool.map(play_chunk, starts, [min(start + CHUNK, first + count) for start in starts]):
            counts += result.counts
            failures += result.failures
            cpu += result.cpu_seconds
    return Result(counts, failures, cpu)


def hunt(name: str, most: int) -> tuple[str, int | None, str]:
    """Play seeds with a mutant until one breaks a promise; return its name, how many it took, and what was seen."""
    next(one for one in MUTANTS if one.__name__ == name)()
    for seed in range(most):
        if violations := play(seed).violations:
            return name, seed + 1, str(violations[0])
    return name, None, ""


def hunt_all(names: Sequence[str], most: int, processes: int) -> list[tuple[str, int | None, str]]:
    """Hunt these mutants, each in a process of its own."""
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, begin, max_tasks_per_child=1) as pool:
        return list(pool.map(hunt, names, [most] * len(names)))
