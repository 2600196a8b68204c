"""Where the CPU of a run goes, step by step, in the library alone: `python -m benchmarks.steps --images 300`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.outside import Outside
from benchmarks.processes import run_child
from benchmarks.table import Table, middle

FASTER = 10
STEPS = ("the run itself", "validate", "submit", "poll", "store", "loop")
ABOUT = (
    "Milliseconds of CPU a video, without Prefect, the images of one run together; medians. `the run itself` looks at "
    "images (HEAD, sidecar) and writes reports; `loop` is the event loop between them."
)


def measure(outside: Outside, images: int) -> dict[str, Any]:
    """One run."""
    outside.fresh(images, render_seconds=60 / FASTER, render_jitter=0.3, file_bytes=3_000_000)
    env = outside.env(I2V_POLL_FIRST_SECONDS=str(30 / FASTER), I2V_POLL_EVERY_SECONDS=str(10 / FASTER))
    return run_child("benchmarks.library_run", env=env).said


def run(outside: Outside, images: int, trials: int) -> list[Table]:
    """Measure and tell."""
    done = [measure(outside, images) for _ in range(trials)]
    return [
        Table(
            f"CPU by step: {images:,} images, {trials} trials", ("step", "loop", "threads"), _steps(done, images), ABOUT
        ),
        Table("S3 requests of the library by kind", ("request", "a video", "ms of CPU each"), _requests(done, images)),
    ]


def _steps(done: list[dict[str, Any]], images: int) -> list[Sequence[str | float]]:
    def each(side: str, step: str) -> float:
        return middle(said[side].get(step, 0.0) for said in done) / images * 1000

    rows: list[Sequence[str | float]] = [(step, each("loop", step), each("threads", step)) for step in STEPS]
    total = middle(said["cpu"] - said["import_cpu"] for said in done) / images * 1000
    known = sum(float(cell) for row in rows for cell in row[1:])
    return [*rows, ("all (and what no step owns)", total, total - known)]


def _requests(done: list[dict[str, Any]], images: int) -> list[Sequence[str | float]]:
    first = done[0]
    return [
        (name, count / images, middle(said["s3_cpu"][name] / said["s3_count"][name] for said in done) * 1000)
        for name, count in sorted(first["s3_count"].items(), key=lambda each: -each[1])
    ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--trials", type=int, default=3)
    asked = parser.parse_args()
    with Outside() as outside:
        for table in run(outside, asked.images, asked.trials):
            print(table, end="\n\n")


if __name__ == "__main__":
    main()
