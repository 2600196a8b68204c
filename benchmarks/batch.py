"""A batch against the floor: `generate_batch` over several workers that run on this machine, with PostgreSQL."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from benchmarks.makespan import JITTER, LARGE_RUN, LARGE_RUN_BYTES, RENDER_SECONDS, VIDEO_BYTES, measure
from benchmarks.processes import cpu_seconds, run_child
from benchmarks.report import Row, Table, median_or_zero
from benchmarks.servers import Servers
from sandbox.child_process import ChildProcess, clean_environment
from sandbox.prefect_server import PrefectServer

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PATIENCE_SECONDS = 3600
LARGEST_SHARD = 1000


class Trial(NamedTuple):
    """One batch: seconds from its start to its end and to the last submit, and CPU a video in milliseconds."""

    seconds: float
    last_submit: float
    runs_cpu: float
    server_cpu: float
    database_cpu: float


@contextmanager
def workers(count: int, env: dict[str, str], folder: Path) -> Iterator[list[ChildProcess]]:
    """Deploy the flows and start workers."""
    run_child("deployments.setup", env=env)
    command = ("prefect", "--no-prompt", "worker", "start", "--pool", "i2v")
    own = clean_environment() | env
    with ExitStack() as stack:
        started = [ChildProcess(*command, env=own, log=folder / f"worker-{number}.log") for number in range(count)]
        for each in started:
            stack.enter_context(each)
        for each in started:
            each.wait_for_output("Worker '.*' started!")
        yield started


def run_batch(servers: Servers, images: int, count: int, faster: float) -> Trial:
    """Run one batch over so many workers, a shard on each at a time. Raise `RuntimeError` if it fails."""
    size = VIDEO_BYTES if images <= LARGE_RUN else LARGE_RUN_BYTES
    servers.reset(images, render_seconds=RENDER_SECONDS / faster, render_jitter=JITTER, file_bytes=size)
    env = servers.env(faster=faster, PREFECT_WORKER_QUERY_SECONDS="2")
    parameters = {
        "images": f"s3://{servers.bucket}/images/",
        "prompt": "it moves",
        "shard_size": min(LARGEST_SHARD, -(-images // count)),
        "max_parallel": count,
        "max_spend_usd": images,
    }
    with tempfile.TemporaryDirectory() as folder, workers(count, env, Path(folder)) as started:
        servers.start_meters()
        before = sum(cpu_seconds(each.pid) for each in started)
        begun = time.time()
        state = _run_deployment(servers.prefect, parameters)
        seconds = time.time() - begun
        runs_cpu = sum(cpu_seconds(each.pid) for each in started) - before
        cpu = servers.cpu_seconds()
    if (found := len(servers.keys(".mp4"))) != images:
        raise RuntimeError(f"{found} of {images} videos exist: {state}")
    last_submit = max(entry["at"] for entry in servers.requests("submit")) - begun
    per_video = (each / images * 1000 for each in (runs_cpu, cpu["Prefect server"], cpu["PostgreSQL"]))
    return Trial(seconds, last_submit, *per_video)


def _run_deployment(server: PrefectServer, parameters: dict[str, Any]) -> str:
    """Start a run of the deployment, wait for its end, and return its state's message."""
    deployment = server.request("GET", "deployments/name/generate-batch/batch")["id"]
    wanted = {"parameters": parameters, "idempotency_key": str(uuid4())}
    run = server.request("POST", f"deployments/{deployment}/create_flow_run", wanted)["id"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        state: dict[str, Any] = server.request("GET", f"flow_runs/{run}")["state"]
        if state["type"] in FINAL:
            return str(state["message"])
        time.sleep(0.5)
    raise TimeoutError("the batch did not end")


def run(servers: Servers, images: int, counts: Sequence[int], trials: int, faster: float = 1) -> list[Table]:
    """Run the floor and the batches in turn."""
    floor: list[float] = []
    batches: dict[int, list[Trial]] = {count: [] for count in counts}
    for _ in range(trials):
        floor.append(measure(servers, "floor", images, faster).child.seconds)
        for count, done in batches.items():
            with servers.on_postgresql():
                done.append(run_batch(servers, images, count, faster))
    shortest = median_or_zero(floor)
    rows: list[Row] = [("floor", shortest, 1.0, "", "", "", "")]
    for count, done in batches.items():
        seconds, *others = (median_or_zero(values) for values in zip(*done, strict=True))
        rows.append((f"{count} workers", seconds, seconds / shortest, *others))
    head = ("", "makespan, s", "ratio", "last submit, s", "runs: CPU", "Prefect server: CPU", "PostgreSQL: CPU")
    notes = (
        f"Medians of {trials}; as many shards at a time as workers, of {LARGEST_SHARD:,} images at most. Prefect's "
        "database is PostgreSQL. CPU in ms a video; that of the runs includes workers and parent."
    )
    return [Table(f"Batch: {images:,} images", head, rows, notes)]
