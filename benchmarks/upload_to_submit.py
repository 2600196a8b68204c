"""The time from an upload to its paid submit, through SQS, door, Prefect server and worker, all as we ship them.

One image at a time is uploaded, at a random moment of the worker's polling interval.
"""

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from sandbox.full_stack import FullStack
from sandbox.provider import ProviderOptions
from sandbox.sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg

WORKER_QUERY_SECONDS = 2
"""What the units and manifests set as PREFECT_WORKER_QUERY_SECONDS."""
ENVIRONMENT = {"I2V_DEFAULT_PROMPT": "it moves", "PREFECT_WORKER_QUERY_SECONDS": str(WORKER_QUERY_SECONDS)}
TARGET_SECONDS = 6.5
PATIENCE_SECONDS = 300.0
LAST_RUN = {"deployments": {"name": {"any_": ["on-image"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
T = TypeVar("T")


class Times(NamedTuple):
    """Seconds since the upload ended, for one image."""

    created: float
    started: float
    submitted: float


def _wait_for(read: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := read()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError("an uploaded image was not submitted")
        time.sleep(0.05)
    return found


def measure(stack: FullStack, number: int) -> Times:
    """Upload one image, and return its times once its run has completed."""
    sandbox = stack.sandbox
    sandbox.put_image(f"images/{number}.jpg", make_jpeg(800, 600, seed=number))
    uploaded = time.time()

    def submitted() -> float | None:
        return next((entry.at for entry in sandbox.provider.request_log.find("submit")[number:]), None)

    def completed_run() -> tuple[str, str] | None:
        (run,) = stack.post("flow_runs/filter", LAST_RUN)
        return (run["created"], run["start_time"]) if run["state_type"] == "COMPLETED" else None

    submit = _wait_for(submitted)
    created, started = (datetime.fromisoformat(each).timestamp() for each in _wait_for(completed_run))
    return Times(created - uploaded, started - uploaded, submit - uploaded)


def run(_servers: Servers, uploads: int) -> list[Table]:
    """Upload the images to its own full stack."""
    options = ProviderOptions(render_seconds=0.2, fast=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(options, notifications=True) as sandbox,
        FullStack(sandbox, Path(folder), ENVIRONMENT) as stack,
    ):
        times = []
        for number in range(uploads):
            time.sleep(random.uniform(0, WORKER_QUERY_SECONDS))  # noqa: S311 - an arbitrary moment
            times.append(measure(stack, number))
    notes = (
        f"{uploads} uploads to an idle stack, PREFECT_WORKER_QUERY_SECONDS={WORKER_QUERY_SECONDS}. Seconds since the "
        f"upload; the target for the submit is a median of {TARGET_SECONDS} s."
    )
    return [Table("Upload to submit", ("until", "median", "worst"), _rows(times), notes)]


def _rows(times: Sequence[Times]) -> list[Row]:
    names = ("the door has its flow run", "the flow runs", "the provider has the submit")
    return [
        (name, median_or_zero(values), max(values))
        for name, values in zip(names, zip(*times, strict=True), strict=True)
    ]
