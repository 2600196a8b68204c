"""From the provider into the bucket: i2v's store step against plain httpx and one put, and its memory by size.

`python -m benchmarks.transfer`: each side a process of its own, in turn.
The videos are submitted and ready before the clock starts. Emulator and S3 run on the same machine and take their part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.outside import Outside
from benchmarks.processes import Told, run_child
from benchmarks.table import Table, middle

MB = 1_000_000
SIZES = {3: 60, 30: 12, 300: 1}
"""Megabytes of a video, and how many there are at once."""
QUICK_SIZES = {3: 40, 300: 1}


def measure(outside: Outside, side: str, size_mb: int, count: int) -> Told:
    """One side once."""
    outside.fresh(count + 1, render_seconds=0, file_bytes=size_mb * MB)
    env = outside.env(I2V_POLL_FIRST_SECONDS="0.2", I2V_POLL_EVERY_SECONDS="0.2")
    return run_child(f"benchmarks.transfer_{side}", env=env)


def run(outside: Outside, trials: int, sizes: dict[int, int]) -> list[Table]:
    """Measure and tell."""
    rows: list[Sequence[str | float]] = []
    for size, count in sizes.items():
        done: dict[str, list[dict[str, Any]]] = {"bare": [], "i2v": []}
        for _ in range(trials):
            for side, found in done.items():
                found.append(measure(outside, side, size, count).said)
        rows.append(_row(size, count, done))
    head = ("videos", "bare: MB/s", "i2v: MB/s", "ratio", "bare: ms CPU/MB", "i2v: ms CPU/MB", "bare: MB", "i2v: MB")
    notes = f"Medians of {trials}, in turn. The last two columns are memory beyond what the process had before."
    return [Table("Download to stored", head, rows, notes)]


def _row(size: int, count: int, done: dict[str, list[dict[str, Any]]]) -> Sequence[str | float]:
    total = size * count

    def each(side: str, what: str) -> float:
        return middle(said[what] for said in done[side])

    speeds = [total / each(side, "seconds") for side in done]
    cpu = [each(side, "cpu") / total * 1000 for side in done]
    return (f"{count} of {size} MB", *speeds, speeds[1] / speeds[0], *cpu, *(each(side, "more_mb") for side in done))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3)
    trials = parser.parse_args().trials
    with Outside() as outside:
        for table in run(outside, trials, SIZES):
            print(table)


if __name__ == "__main__":
    main()
