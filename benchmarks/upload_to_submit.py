"""From an upload to its paid submit, through SQS, door, Prefect server and worker, one image at a time."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from sandbox import Sandbox
from sandbox.full_stack import FullStack
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg

WORKER_QUERY_SECONDS = 10
"""Prefect's default."""
TIMEOUT_SECONDS = 300.0
RUN = {"deployments": {"name": {"any_": ["on-image"]}}, "sort": "START_TIME_DESC", "limit": 1}
Times = tuple[float, float, float]


def _wait_for(find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (found := find()):
        if time.monotonic() > deadline:
            raise TimeoutError("the upload was not submitted")
        time.sleep(0.05)
    return found


def measure(stack: FullStack, number: int) -> Times:
    """Return the seconds from the upload until the flow run is created, until it starts, and until the submit."""
    stack.sandbox.put_image(f"images/{number}.jpg", make_jpeg(seed=number))
    uploaded = time.time()
    log = stack.sandbox.provider.request_log
    submit = _wait_for(lambda: log.find("submit")[number:])[0]
    (run,) = _wait_for(lambda: [run for run in stack.post("flow_runs/filter", RUN) if run["state_type"] == "COMPLETED"])
    created, started = (datetime.fromisoformat(run[name]).timestamp() for name in ("created", "start_time"))
    return created - uploaded, started - uploaded, submit.at - uploaded


def run(_: Servers, uploads: int) -> list[Table]:
    """Upload images at random moments."""
    extra_env = {"I2V_DEFAULT_PROMPT": "it moves", "PREFECT_WORKER_QUERY_SECONDS": str(WORKER_QUERY_SECONDS)}
    options = ProviderOptions(render_seconds=0.2, fast=True)
    times: list[Times] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(options, notifications=True) as sandbox,
        FullStack(sandbox, Path(folder), extra_env) as stack,
    ):
        for number in range(uploads):
            times.append(measure(stack, number))
            time.sleep(random.uniform(0, WORKER_QUERY_SECONDS))  # noqa: S311 - a random moment of the worker's interval
    rows: list[Row] = [
        ("upload to submit", median_or_zero(each[2] for each in times), max(each[2] for each in times)),
        ("until the flow run is created", median_or_zero(each[0] for each in times), ""),
        ("until it starts", median_or_zero(each[1] - each[0] for each in times), ""),
        ("until the submit", median_or_zero(each[2] - each[1] for each in times), ""),
    ]
    notes = f"Seconds, from {uploads} uploads. The worker polls every {WORKER_QUERY_SECONDS} s."
    return [Table("Upload to submit", ("", "median", "maximum"), rows, notes)]
