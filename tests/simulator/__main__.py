"""Play seeds: `python -m tests.simulator 10000` many, `python -m tests.simulator --seed 7` one with its event log."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence

from tests.simulator.mutants import MUTANTS
from tests.simulator.play import play
from tests.simulator.seeds import begin, hunt_all, play_many

MOST_SHOWN = 20
"""Broken promises that are printed, one a seed."""


def show_one(seed: int, allowed: set[str]) -> int:
    """Play one seed and print its event log."""
    begin()
    story = play(seed, verbose=True)
    broken = [one for one in story.violations if one.rule not in allowed]
    print(story.text())
    print(f"seed {seed}: {len(broken)} broken promises")
    return 1 if broken else 0


def show_many(first: int, count: int, processes: int, allowed: set[str]) -> int:
    """Play many seeds, and print what happened how often and which promises were broken."""
    began = time.monotonic()
    result = play_many(first, count, processes)
    for what, number in sorted(result.counts.items()):
        print(f"{number:9,}  {what}")
    seeds_of: defaultdict[str, list[int]] = defaultdict(list)
    for seed, violation in result.failures:
        if seed not in seeds_of[violation.rule]:
            seeds_of[violation.rule].append(seed)
    for rule, seeds in sorted(seeds_of.items(), key=lambda entry: -len(entry[1])):
        print(f"{'allowed' if rule in allowed else 'BROKEN '} [{rule}] in {len(seeds)} seeds, such as {seeds[:8]}")
    broken = {seed: violation for seed, violation in reversed(result.failures) if violation.rule not in allowed}
    for seed, violation in sorted(broken.items())[:MOST_SHOWN]:
        print(f"{violation}; its event log: make simulate SEED={seed}")
    seconds = time.monotonic() - began
    print(f"{count:,} seeds, {len(broken):,} failed; {seconds:.0f} s, {result.cpu_seconds / count:.3f} CPU s a seed")
    return 1 if broken else 0


def show_mutants(names: Sequence[str], most: int, processes: int) -> int:
    """Print a table of mutants, and after how many seeds each was found."""
    docs = {mutant.__name__: str(mutant.__doc__).partition(": ") for mutant in MUTANTS}
    print("| promise | broken | seeds until it is found | what is found |\n|---|---|---|---|")
    missed = 0
    for name, seeds, seen in hunt_all(names or list(docs), most, processes):
        missed += seeds is None
        promise, _, what = docs[name]
        rule = seen.partition("]")[0].removeprefix("[")
        print(f"| {promise} | {what.rstrip('.')} | {seeds or f'not within {most:,}'} | {rule} |")
    return 1 if missed else 0


def main() -> int:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("seeds", nargs="?", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one and print its event log")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--allow", default="", help="rules, comma separated, that may be broken")
    parser.add_argument(
        "--mutants", nargs="*", metavar="NAME", help="break promises on purpose, all or these, and see them found"
    )
    given = parser.parse_args()
    if given.mutants is not None:
        return show_mutants(given.mutants, given.seeds, given.processes)
    allowed = set(filter(None, given.allow.split(",")))
    if given.seed is not None:
        return show_one(given.seed, allowed)
    return show_many(given.first, given.seeds, given.processes, allowed)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a story
        command = [sys.executable, "-m", "tests.simulator", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})  # noqa: S606 - it is this program
    sys.exit(main())
