"""The CPU that i2v adds to what the floor and Prefect alone use for the same videos, measured in turn."""

from collections.abc import Callable, Sequence

from benchmarks.makespan import RENDER_SECONDS, measure
from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers

FASTER = 10
RUN, SERVER = "the run", "Prefect server"
SIDES = ("floor", "Prefect alone", "i2v")
Cost = tuple[float, float]
"""CPU of the run with its child processes, and of Prefect's server, in milliseconds a video."""


def run(servers: Servers, images: int, trials: int) -> list[Table]:
    """Run all sides in turn."""
    measures: dict[str, Callable[[], Cost]] = {
        "floor": lambda: _measured(servers, "floor", images),
        "Prefect alone": lambda: _prefect_alone(servers, images),
        "i2v": lambda: _measured(servers, "i2v", images),
    }
    done: dict[str, list[Cost]] = {side: [] for side in SIDES}
    for _ in range(trials):
        for side, costs in done.items():
            costs.append(measures[side]())
    rows = [_row(RUN, done, [0]), _row(SERVER, done, [1]), _row("together", done, [0, 1])]
    notes = (
        f"Milliseconds of CPU a video, medians of {trials}, start-up included; rendering takes "
        f"{RENDER_SECONDS / FASTER:g} s. Prefect alone makes the same task runs, events and log lines at the pace of a "
        "run, with empty steps."
    )
    return [Table(f"CPU over floor and Prefect: {images:,} images", ("", *SIDES, "i2v over both"), rows, notes)]


def _measured(servers: Servers, side: str, images: int) -> Cost:
    cpu = measure(servers, side, images, FASTER).cpu
    return cpu[RUN], cpu[SERVER]


def _prefect_alone(servers: Servers, images: int) -> Cost:
    servers.reset(0)
    servers.start_meters()
    child = run_child("benchmarks.prefect_alone", str(images), str(RENDER_SECONDS / FASTER), env=servers.env())
    return child.cpu / images * 1000, servers.cpu_seconds()[SERVER] / images * 1000


def _row(name: str, done: dict[str, list[Cost]], sides: Sequence[int]) -> Row:
    floor, prefect, i2v = (median_or_zero(sum(cost[side] for side in sides) for cost in done[each]) for each in SIDES)
    return name, floor, prefect, i2v, i2v - floor - prefect
