"""What Prefect itself costs: CPU of a task run that does nothing, of an event and of a log line, in client and server.

`python -m benchmarks.prefect_alone`: a flow in a process of its own makes so many of one kind, all at once, and the
same flow without them is taken off. A video's share is by what it makes: `VIDEO`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.outside import Outside
from benchmarks.processes import run_child
from benchmarks.table import Table, middle

KINDS = ("nothing", "task run", "event", "log line")
VIDEO = {"task run": 4, "event": 2, "log line": 4}
"""Four steps; submitted and stored; and a line for each step. A task run's own three events are in its cost."""


WARM = 5
"""A server builds its routes and statements when it is first asked."""


class Cost(NamedTuple):
    """CPU seconds."""

    client: float
    server: float


def measure(outside: Outside, kind: str, number: int) -> Cost:
    """So many of one kind."""
    outside.fresh(0)
    outside.begin()
    told = run_child("benchmarks.prefect_flow", kind, str(number), env=outside.env())
    return Cost(told.cpu, outside.spent()["Prefect server"])


def run(outside: Outside, images: int, trials: int) -> list[Table]:
    """Measure and tell."""
    found: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        measure(outside, kind, WARM)
    for _ in range(trials):
        for kind, done in found.items():
            done.append(measure(outside, kind, images))
    costs = {kind: _each(found, kind, images) for kind in VIDEO}
    total = [sum(costs[kind][side] * number for kind, number in VIDEO.items()) for side in (0, 1)]
    makes = ", ".join(f"{number} {kind}s" for kind, number in VIDEO.items())
    notes = f"Milliseconds of CPU, from {images:,} of each kind at once; medians of {trials}. A video makes {makes}."
    table: list[Sequence[str | float]] = [*((kind, *cost) for kind, cost in costs.items()), ("a video", *total)]
    return [Table("Prefect by itself", ("", "client", "server"), table, notes)]


def _each(found: dict[str, list[Cost]], kind: str, number: int) -> tuple[float, float]:
    pairs = list(zip(found[kind], found["nothing"], strict=True))
    client = middle(cost.client - nothing.client for cost, nothing in pairs)
    server = middle(cost.server - nothing.server for cost, nothing in pairs)
    return client / number * 1000, server / number * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=400)
    parser.add_argument("--trials", type=int, default=1)
    asked = parser.parse_args()
    with Outside(prefect=True) as outside:
        print(*run(outside, asked.number, asked.trials))


if __name__ == "__main__":
    main()
