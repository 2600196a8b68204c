"""From an upload to its paid submit: through SQS, door, Prefect server and worker. Prints one JSON object.

    python -m benchmarks.upload_to_submit --uploads 20 --look-every 10

One image at a time lands in the bucket, at no certain moment; the submit is the entry in the provider's own journal.
`--look-every` is how often the worker asks for runs: Prefect's own setting is 10 s. The parts are medians too: until
the door has told Prefect, until a worker's process runs the flow, and until the provider has the submit.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sandbox import Sandbox
from sandbox.full_stack import FullStack
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg

PATIENCE_SECONDS = 300.0


class Times(NamedTuple):
    """Of one image, in seconds since its upload had ended."""

    told: float
    began: float
    submitted: float


def _wait(until: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := until()):
        if time.monotonic() > deadline:
            raise TimeoutError("nothing came of an upload")
        time.sleep(0.05)
    return found


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _measure(pipeline: FullStack, number: int) -> Times:
    box = pipeline.sandbox
    box.put_image(f"images/{number}.jpg", make_jpeg(seed=number))
    uploaded = time.time()
    submit = _wait(lambda: box.provider.request_log.find("submit")[number:])[0]
    wanted = {"deployments": {"name": {"any_": ["on-image"]}}, "sort": "START_TIME_DESC", "limit": 1}
    run = _wait(lambda: [run for run in pipeline.post("flow_runs/filter", wanted) if run["state_type"] == "COMPLETED"])[
        0
    ]
    return Times(_seconds(run["created"]) - uploaded, _seconds(run["start_time"]) - uploaded, submit.at - uploaded)


def _told(times: Sequence[Times], look_every: float) -> dict[str, Any]:
    submitted = [each.submitted for each in times]
    return {
        "uploads": len(times),
        "worker_looks_every_seconds": look_every,
        "median_seconds": round(statistics.median(submitted), 1),
        "worst_seconds": round(max(submitted), 1),
        "of_it_until_prefect_was_told": round(statistics.median(each.told for each in times), 1),
        "then_until_the_flow_ran": round(statistics.median(each.began - each.told for each in times), 1),
        "then_until_the_submit": round(statistics.median(each.submitted - each.began for each in times), 1),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=20)
    parser.add_argument("--look-every", type=float, default=10, help="PREFECT_WORKER_QUERY_SECONDS")
    asked = parser.parse_args()
    more = {"I2V_DEFAULT_PROMPT": "it moves", "PREFECT_WORKER_QUERY_SECONDS": str(asked.look_every)}
    dials = ProviderOptions(render_seconds=0.2, fast=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(dials, notifications=True) as box,
        FullStack(box, Path(folder), more) as pipeline,
    ):
        times = []
        for number in range(asked.uploads):
            times.append(_measure(pipeline, number))
            time.sleep(random.uniform(0, asked.look_every))  # noqa: S311 - no certain moment
    print(json.dumps(_told(times, asked.look_every), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
