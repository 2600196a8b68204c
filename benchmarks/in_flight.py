"""What memory a flow run takes while so many videos render: `python -m benchmarks.in_flight 100 1000`.

Each number in a process of its own, with Prefect and the vendor's schedule. All are submitted and none gets ready; once
the last is submitted it waits a while, reads what is resident and what was at most, and ends the process by force.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from benchmarks.outside import Outside
from benchmarks.processes import now_mb, peak_mb, started
from benchmarks.table import Table

RENDER_SECONDS = 7200
REST_SECONDS = 20
SUBMIT_SECONDS = 1800
"""So long it may take until all are submitted."""
SMALL_PX = 640


def measure(outside: Outside, number: int) -> tuple[float, float]:
    """Megabytes that are resident with so many in flight, and the most that ever were.

    Raises:
        RuntimeError: the process ended, or has not submitted all in time.
    """
    outside.fresh(number, side_px=SMALL_PX, render_seconds=RENDER_SECONDS)
    with started("benchmarks.flow_run", env=outside.env()) as child:
        deadline = time.monotonic() + SUBMIT_SECONDS
        while (submitted := outside.submitted()) < number:
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{submitted} of {number} videos were submitted")
            time.sleep(1)
        time.sleep(REST_SECONDS)
        return now_mb(child.pid), peak_mb(child.pid)


def run(outside: Outside, numbers: Sequence[int]) -> list[Table]:
    """Measure and tell."""
    rows: list[Sequence[str | float]] = []
    before: tuple[int, float] | None = None
    for number in numbers:
        now, most = measure(outside, number)
        more = (now - before[1]) / (number - before[0]) * 1024 if before else ""
        rows.append((number, now, most, more))
        before = number, now
    head = ("in flight", "resident, MB", "at most, MB", "KB for each more")
    return [Table("A flow run's process while all its videos render", head, rows)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, default=[100, 1000])
    numbers = parser.parse_args().numbers
    with Outside(prefect=True) as outside:
        print(*run(outside, numbers))


if __name__ == "__main__":
    main()
