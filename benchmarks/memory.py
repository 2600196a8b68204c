"""Memory of a flow run's process while many videos render.

Each number of videos has its own process, with Prefect and the vendor's schedule. No video finishes: once the last one
is submitted, the benchmark waits a while, measures, and kills the process.
"""

import time
from collections.abc import Sequence

from benchmarks.processes import largest_child_mb, peak_mb, resident_mb
from benchmarks.report import Row, Table
from benchmarks.servers import Servers
from sandbox.child_process import ChildProcess, clean_environment

RENDER_SECONDS = 7200
REST_SECONDS = 20
SUBMIT_SECONDS = 1800
SIDE_PX = 640


def measure(servers: Servers, count: int) -> tuple[float, float, float]:
    """Return resident and peak MB with that many videos in flight, and the peak of its largest child.

    Raise `RuntimeError` if the run stops early.
    """
    servers.reset(count, side_px=SIDE_PX, render_seconds=RENDER_SECONDS)
    env, log = clean_environment() | servers.env(), servers.folder / "run.log"
    with ChildProcess("benchmarks.flow_run", env=env, log=log) as child:
        deadline = time.monotonic() + SUBMIT_SECONDS
        while (submitted := len(servers.requests("submit"))) < count:
            if not child.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"{submitted} of {count} videos were submitted")
            time.sleep(1)
        time.sleep(REST_SECONDS)
        measured = resident_mb(child.pid), peak_mb(child.pid), largest_child_mb(child.pid)
        child.kill()
        return measured


def run(servers: Servers, counts: Sequence[int]) -> list[Table]:
    """Measure each number of videos."""
    rows: list[Row] = []
    before: tuple[int, float] | None = None
    for count in counts:
        resident, peak, child = measure(servers, count)
        each_kb = (resident - before[1]) / (count - before[0]) * 1024 if before else ""
        rows.append((count, resident, peak, each_kb, child))
        before = count, resident
    head = ("in flight", "resident, MB", "peak, MB", "KB per extra video", "largest child: peak, MB")
    return [Table("A flow run's process while all its videos render", head, rows)]
