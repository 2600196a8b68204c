"""`ClusterWorld`: all services of compose.yaml with a sandbox, uploads to it, and what was stored, billed and used."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import tree
from sandbox import Sandbox
from sandbox.cluster.cluster import Cluster
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg
from tests.support.i2v_command import bare_env, i2v

WORKERS = 4
GONE_SECONDS = 15
"""A run that is silent for longer has died: short, so that its jobs are taken over within a test."""
SETTINGS = {
    "I2V_DEFAULT_PROMPT": "Slow push in",
    "I2V_RUN_GONE_SECONDS": str(GONE_SECONDS),
    "I2V_SETTLING_SECONDS": "0",
}
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class ClusterWorld:
    """Each test uses its own prefixes in the bucket."""

    box: Sandbox
    cluster: Cluster

    def upload(self, prefix: str, numbers: Sequence[int]) -> dict[str, str]:
        """Upload distinct images below a prefix, and return the SHA-256 of each by its URI."""
        with ThreadPoolExecutor(8) as threads:
            return dict(threads.map(lambda number: self._upload(prefix, number), numbers))

    def _upload(self, prefix: str, number: int) -> tuple[str, str]:
        data = make_jpeg(400, 320, seed=number)
        return self.box.put_image(f"{prefix}{number:06}.jpg", data), sha256(data).hexdigest()

    def stored(self, prefix: str) -> list[str]:
        """Return the keys of all manifests below a prefix, one per stored video."""
        return [key for key in self.box.keys(prefix) if key.endswith(".json")]

    def is_billed_once(self, images: Mapping[str, str]) -> bool:
        """Whether the provider billed each of these uploads exactly once."""
        return self.billed(set(images.values())) == dict.fromkeys(images.values(), 1)

    def billed(self, digests: set[str]) -> Counter[str]:
        """Count what the provider billed, by image."""
        tasks = self.box.provider.tasks.values()
        return Counter(task.image_sha256 for task in tasks if task.image_sha256 in digests)

    def unknown(self, prefix: str) -> set[str]:
        """Return the URIs below a prefix of images whose job is unknown."""
        done = i2v("jobs", "--state", "unknown", "--json", env=bare_env(**self.cluster.user_environment))
        labels = {job["image"]["label"] for job in done.report["jobs"]}
        return {label for label in labels if label.startswith(prefix)}

    def kill(self, name: str) -> None:
        """Kill a process with all its descendants, as when a machine fails, and wait until it is healthy again.

        Flow runs have their own sessions, so that they would outlive their worker.
        """
        starts = self.cluster.starts[name]
        for pid in list(tree(self.cluster.parts[name].process.pid))[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cluster.kill(name)
        wait_for(lambda: self.cluster.starts[name] > starts)
        self.cluster.wait_healthy(name)

    def kill_flow_run(self, flow_run_id: str) -> None:
        """Kill the processes of a flow run alone, while its worker goes on."""
        marker = f"PREFECT__FLOW_RUN_ID={flow_run_id}".encode()
        pids = [pid for name in self.workers for pid in list(tree(self.cluster.parts[name].process.pid))[1:]]
        own = [pid for pid in pids if marker in _environment(pid)]
        assert own, f"no worker has a process of the flow run {flow_run_id}"
        for pid in own:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def workers(self) -> list[str]:
        """The names of the workers."""
        return [name for name, part in self.cluster.parts.items() if part.service.name == "worker"]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST to Prefect's API through the load balancer, again while a server is down."""
        found: list[Any] = []

        def is_answered() -> bool:
            with suppress(httpx.HTTPError):
                url = f"{self.cluster.url('nginx', 4200)}/api/{path}"
                response = httpx.post(url, json=body, trust_env=False, timeout=60)
                found.append(response.raise_for_status().json())
            return bool(found)

        wait_for(is_answered)
        return found[0]

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return the latest runs of a deployment."""
        wanted = {"deployments": {"name": {"any_": [deployment]}}, "limit": 200, "sort": "START_TIME_DESC"}
        runs: list[dict[str, Any]] = self.post("flow_runs/filter", wanted)
        return runs

    def completed_task_runs(self) -> int:
        """Count the task runs that Prefect shows as Completed."""
        count: int = self.post("task_runs/count", {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
        return count


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@contextmanager
def cluster_world(folder: Path) -> Iterator[ClusterWorld]:
    """Start a sandbox and the cluster, with four workers."""
    with ExitStack() as stack:
        options = ProviderOptions(render_seconds=2, fast=True, render="shared", balance_usd=Decimal(10_000))
        box = stack.enter_context(Sandbox(options, notifications=True))
        cluster = stack.enter_context(Cluster(folder, box.env | SETTINGS, replicas={"worker": WORKERS}))
        yield ClusterWorld(box, cluster)


def wait_for(condition: Callable[[], object], seconds: float = 900) -> None:
    """Wait until a condition holds; this long because all services share a busy machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not hold within {seconds:g} s"
        time.sleep(0.5)
