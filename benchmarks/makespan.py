"""i2v against the floor: makespan, CPU and memory of each process, and what comes after a video is ready.

    python -m benchmarks.makespan --images 1000 --trials 3

Both run in turn in a fresh process each against the same emulator, S3 and Prefect server, with the vendor's schedule or
one as many times shorter as the rendering is (`--faster 10`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks.outside import Outside
from benchmarks.processes import Told, run_child
from benchmarks.table import Table, late, middle

MODULES = {"floor": "benchmarks.floor", "i2v": "benchmarks.flow_run", "i2v, two runs": "benchmarks.two_runs"}
SIDES = ("floor", "i2v")
SPLIT = ("floor", "i2v, two runs")
RENDER_SECONDS, JITTER = 60.0, 0.3
FIRST_SECONDS, EVERY_SECONDS = 30.0, 10.0
VIDEO_BYTES = 3_000_000
BIG_RUN, BIG_RUN_BYTES = 2000, 300_000
"""S3 holds all in memory: longer runs make smaller videos."""


@dataclass(frozen=True)
class Trial:
    """One run of one side."""

    told: Told
    servers: dict[str, float]
    peaks: dict[str, float]
    lag: list[float]
    images: int

    def per_video_ms(self, cpu: float) -> float:
        """Milliseconds a video."""
        return cpu / self.images * 1000


def measure(outside: Outside, side: str, images: int, faster: float) -> Trial:
    """Run one side once.

    Raises:
        RuntimeError: it failed, or a video is missing.
    """
    size = VIDEO_BYTES if images <= BIG_RUN else BIG_RUN_BYTES
    outside.fresh(images, render_seconds=RENDER_SECONDS / faster, render_jitter=JITTER, file_bytes=size)
    schedule = {"FIRST": FIRST_SECONDS, "EVERY": EVERY_SECONDS}
    env = outside.env(**{f"I2V_POLL_{name}_SECONDS": str(seconds / faster) for name, seconds in schedule.items()})
    outside.begin()
    told = run_child(MODULES[side], env=env)
    servers = outside.spent()
    if (found := outside.videos()) != images:
        raise RuntimeError(f"{side}: {found} of {images} videos are there: {told.said.get('message')}")
    peaks = {name: meter.peak_mb() for name, meter in outside.meters.items()}
    lag = told.said["lag"] if side == "floor" else stored_after(outside)
    return Trial(told, servers, peaks, lag, images)


def stored_after(outside: Outside) -> list[float]:
    """Seconds from the status that said `success` to the manifest, of each video of i2v."""
    statuses = outside.ask("journal?endpoint=status")["entries"]
    told = {entry["task_id"]: entry["at"] + entry["seconds"] for entry in statuses}
    return [_stored_at(page) - told[page["task_id"]] for page in manifests(outside)]


def manifests(outside: Outside) -> list[dict[str, Any]]:
    """All of them."""
    s3 = outside.s3()
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=outside.bucket, Prefix="videos/")
    keys = [item["Key"] for page in pages for item in page["Contents"] if item["Key"].endswith(".json")]
    return [json.loads(s3.get_object(Bucket=outside.bucket, Key=key)["Body"].read()) for key in keys]


def _stored_at(page: dict[str, Any]) -> float:
    return datetime.fromisoformat(page["stored_at"]).timestamp()


def in_turn(outside: Outside, images: int, trials: int, faster: float, sides: Sequence[str]) -> dict[str, list[Trial]]:
    """Both sides, one after the other, so often."""
    done: dict[str, list[Trial]] = {side: [] for side in sides}
    for _ in range(trials):
        for side, found in done.items():
            found.append(measure(outside, side, images, faster))
    return done


def tables(images: int, trials: int, done: dict[str, list[Trial]], faster: float) -> list[Table]:
    """Makespan with its ratio, then CPU and memory by process."""
    what = f"{images:,} images, {trials} trials each, in turn"
    pace = f"rendering {RENDER_SECONDS / faster:g} s ± {JITTER:.0%}, "
    pace += f"polled after {FIRST_SECONDS / faster:g} s and then every {EVERY_SECONDS / faster:g} s"
    return [
        Table(f"Makespan: {what}", ("", *done, "ratio"), [*_makespan_rows(done)], f"Medians; {pace}."),
        Table(
            f"CPU a video in ms, and peak memory in MB: {what}",
            ("process", *(f"{side}: {unit}" for side in done for unit in ("CPU", "memory"))),
            [_client_row(done), *_server_rows(done)],
        ),
    ]


def _makespan_rows(done: dict[str, list[Trial]]) -> list[Sequence[str | float]]:
    values = {
        "seconds, process start to end": lambda t: t.told.seconds,
        "seconds, without start-up and end of the process": lambda t: t.told.said["run_seconds"],
        "told ready to stored, median, s": lambda t: middle(t.lag),
        "told ready to stored, 95 %, s": lambda t: late(t.lag),
    }
    rows: list[Sequence[str | float]] = []
    for name, value in values.items():
        floor, ours = (middle(map(value, trials)) for trials in done.values())
        rows.append((name, floor, ours, ours / floor))
    return rows


def _client_row(done: dict[str, list[Trial]]) -> Sequence[str | float]:
    cells: list[str | float] = ["the run itself"]
    for trials in done.values():
        cells.append(middle(trial.per_video_ms(trial.told.cpu) for trial in trials))
        cells.append(middle(trial.told.peak_mb for trial in trials))
    return cells


def _server_rows(done: dict[str, list[Trial]]) -> list[Sequence[str | float]]:
    rows: list[Sequence[str | float]] = []
    for server in next(iter(done.values()))[0].servers:
        cells: list[str | float] = [server]
        for trials in done.values():
            cells.append(middle(trial.per_video_ms(trial.servers[server]) for trial in trials))
            cells.append(middle(trial.peaks[server] for trial in trials))
        rows.append(cells)
    return rows


def run(outside: Outside, images: int, trials: int, faster: float, sides: Sequence[str] = SIDES) -> list[Table]:
    """Measure and tell."""
    return tables(images, trials, in_turn(outside, images, trials, faster, sides), faster)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--faster", type=float, default=1, help="shorten rendering and schedule so many times")
    asked = parser.parse_args()
    with Outside(prefect=True) as outside:
        for table in run(outside, asked.images, asked.trials, asked.faster):
            print(table, end="\n\n")


if __name__ == "__main__":
    main()
