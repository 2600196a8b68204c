"""What Prefect itself costs: CPU of an empty task run, an event and a log line, in client and server.

A flow in its own process makes many of one kind concurrently; the cost of the same flow without them is subtracted.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers

NOTHING = "nothing"
PER_VIDEO = {"task run": 4, "event": 2, "log line": 4}
"""Four steps; submitted and stored; a line for each step. The cost of a task run includes its own three events."""
WARM_UP = 5
"""A server builds its routes and statements at the first request."""


class Cost(NamedTuple):
    """CPU seconds."""

    client: float
    server: float


def measure(servers: Servers, kind: str, count: int) -> Cost:
    """Make that many of one kind."""
    servers.reset(0)
    servers.start_meters()
    child = run_child("benchmarks.prefect_flow", kind, str(count), env=servers.env())
    return Cost(child.cpu, servers.cpu_seconds()["Prefect server"])


def run(servers: Servers, count: int, trials: int) -> list[Table]:
    """Measure each kind in turn."""
    found: dict[str, list[Cost]] = {kind: [] for kind in (NOTHING, *PER_VIDEO)}
    for kind in found:
        measure(servers, kind, WARM_UP)
    for _ in range(trials):
        for kind, measured in found.items():
            measured.append(measure(servers, kind, count))

    def each_ms(kind: str, side: int) -> float:
        return (
            median_or_zero(cost[side] - empty[side] for cost, empty in zip(found[kind], found[NOTHING], strict=True))
            / count
            * 1000
        )

    costs = {kind: (each_ms(kind, 0), each_ms(kind, 1)) for kind in PER_VIDEO}
    total = (sum(costs[kind][side] * number for kind, number in PER_VIDEO.items()) for side in (0, 1))
    kinds = ", ".join(f"{number} {kind}s" for kind, number in PER_VIDEO.items())
    notes = (
        f"Milliseconds of CPU, from {count:,} of each kind concurrently; medians of {trials}. A video makes {kinds}."
    )
    rows: list[Row] = [*((kind, *cost) for kind, cost in costs.items()), ("a video", *total)]
    return [Table("Prefect alone", ("", "client", "server"), rows, notes)]
