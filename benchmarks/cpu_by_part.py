"""What a flow run spends CPU on. `python -m benchmarks.cpu_by_part` is the child, a flow run with a profiler."""

import asyncio
import json
import os
import time
from typing import Any

from benchmarks.processes import peak_mb, run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.sampler import Sampler
from benchmarks.servers import Servers

FASTER = 10
NOTES = (
    "Milliseconds of CPU a video in the run's own process, sampled, without start-up and the decoder's processes; "
    "medians. Garbage collection is also in the parts that it interrupts."
)


def run(servers: Servers, images: int, trials: int) -> list[Table]:
    """Profile some runs; print the most expensive functions of the last one."""
    done: list[dict[str, Any]] = []
    server_cpu: list[float] = []
    for _ in range(trials):
        servers.reset(images, render_seconds=60 / FASTER, render_jitter=0.3, file_bytes=3_000_000)
        servers.start_meters()
        done.append(run_child("benchmarks.cpu_by_part", env=servers.env(faster=FASTER)).output)
        server_cpu.append(servers.cpu_seconds()["Prefect server"])
    parts = sorted({part for each in done for part in each["parts"]}, key=lambda part: -done[0]["parts"].get(part, 0))
    rows: list[Row] = [
        (part, median_or_zero(each["parts"].get(part, 0) for each in done) / images * 1000) for part in parts
    ]
    rows.append(("the run's process", median_or_zero(each["cpu"] for each in done) / images * 1000))
    rows.append(("Prefect server", median_or_zero(server_cpu) / images * 1000))
    functions: list[Row] = [(line, seconds / images * 1000) for line, seconds in done[-1]["lines"]]
    return [
        Table(f"CPU by part: {images:,} images, {trials} trials", ("part", "ms"), rows, NOTES),
        Table("The most expensive functions, by part", ("function", "ms"), functions),
    ]


def main() -> None:
    """Make videos of all images in the bucket of the environment; print the CPU by part."""
    from flows.generate import generate_videos  # noqa: PLC0415 - its import is not measured

    begun = time.process_time()
    with Sampler() as sampler:
        images = f"s3://{os.environ['I2V_BUCKET']}/images/"
        asyncio.run(generate_videos(images, prompt="it moves", return_state=True))  # type: ignore[arg-type]
    output = {"cpu": time.process_time() - begun, "parts": sampler.seconds, "peak_mb": peak_mb()}
    print(json.dumps(output | {"lines": sorted(sampler.lines.items(), key=lambda line: -line[1])[:40]}))


if __name__ == "__main__":
    main()
