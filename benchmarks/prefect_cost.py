"""What Prefect itself costs: CPU of an empty task run, an event and a log line, in client and server.

A flow in its own process, `python -m benchmarks.prefect_cost KIND COUNT`, makes many of one kind concurrently; the cost
of the same flow without them is subtracted.
"""

import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from prefect_support.logging_setup import send_library_logs
from prefect_support.task_states import run_step

log = logging.getLogger("i2v.benchmark")
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
    child = run_child("benchmarks.prefect_cost", kind, str(count), env=servers.env())
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


@dataclass(frozen=True)
class Named:
    """What a task run is named after."""

    name: str


@task(name="step", task_run_name="step {image.name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
async def step(run: Any, image: Named) -> Named:  # noqa: ARG001 - the signature of the real steps
    """As thin as the real steps."""
    return image


def emit_one(number: int, name: str) -> None:
    """Emit an event as large as a run's."""
    emit_event(
        "i2v.job.stored",
        resource={"prefect.resource.id": f"i2v.job.{number:064x}", "prefect.resource.name": name},
        related=[{"prefect.resource.id": "i2v.ledger.bucket", "prefect.resource.role": "ledger"}],
        payload={"image": f"s3://bucket/images/{name}", "job": f"{number:064x}", "sha256": "0" * 64, "take": 1},
    )


async def make(kind: str, number: int) -> None:
    """Make one of a kind."""
    name = f"{number:05}.jpg"
    if kind == "task run":
        await run_step(step, None, Named(name))
    elif kind == "event":
        emit_one(number, name)
    elif kind == "log line":
        log.info("stored s3://bucket/videos/%s/0123456789ab-0123456789ab.mp4", name)


@flow(name="benchmark")
async def make_many(kind: str, count: int) -> None:
    """Make them concurrently, like the images of a run."""
    send_library_logs()
    await asyncio.gather(*(make(kind, each) for each in range(count)))


def main() -> None:
    """Run once."""
    work: Any = make_many(sys.argv[1], int(sys.argv[2]))
    asyncio.run(work)


if __name__ == "__main__":
    main()
