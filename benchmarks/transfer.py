"""From the provider into the bucket: i2v's store step against plain httpx and one PUT, with its memory by video size.

The videos are ready before the clock starts. Emulator and S3 run on the same machine and use its cores.
"""

from __future__ import annotations

from typing import Any

from benchmarks.processes import run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers

MB = 1_000_000
SIZES = {3: 60, 30: 12, 300: 1}
"""Megabytes of a video, and how many are stored concurrently."""
QUICK_SIZES = {3: 40, 300: 1}
HEAD = ("videos", "bare: MB/s", "i2v: MB/s", "ratio", "bare: ms CPU/MB", "i2v: ms CPU/MB", "bare: MB", "i2v: MB")


def measure(servers: Servers, side: str, size_mb: int, count: int) -> dict[str, Any]:
    """Run one side once."""
    servers.reset(count + 1, render_seconds=0, file_bytes=size_mb * MB)
    env = servers.env(I2V_POLL_FIRST_SECONDS="0.2", I2V_POLL_EVERY_SECONDS="0.2")
    return run_child("benchmarks.transfer_sides", side, env=env).output


def run(servers: Servers, trials: int, sizes: dict[int, int]) -> list[Table]:
    """Run both sides in turn for each size."""
    rows: list[Row] = []
    for size, count in sizes.items():
        done: dict[str, list[dict[str, Any]]] = {"bare": [], "i2v": []}
        for _ in range(trials):
            for side, found in done.items():
                found.append(measure(servers, side, size, count))
        rows.append(_row(size, count, done))
    notes = f"Medians of {trials}, in turn. The last two columns are the additional memory."
    return [Table("Download to stored", HEAD, rows, notes)]


def _row(size: int, count: int, done: dict[str, list[dict[str, Any]]]) -> Row:
    total = size * count

    def each(side: str, value: str) -> float:
        return median_or_zero(result[value] for result in done[side])

    speeds = [total / each(side, "seconds") for side in done]
    cpu = [each(side, "cpu") / total * 1000 for side in done]
    return (f"{count} of {size} MB", *speeds, speeds[1] / speeds[0], *cpu, *(each(side, "more_mb") for side in done))
