"""A whole cluster with one, two and four API servers and services processes: `make cluster`, measured.

First images land, and become videos through doors and workers; then clients make empty task runs as fast as they can,
so that the servers, PostgreSQL and Redis are the limit. PostgreSQL, Redis and nginx must be installed.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
from redis import Redis

from benchmarks.prefect_cost import PER_VIDEO
from benchmarks.processes import cpu_seconds, run_child
from benchmarks.report import Row, Table
from benchmarks.servers import Servers
from sandbox import Sandbox
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.compose import HOST
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg

COUNTS = (1, 2, 4)
WORKERS = CLIENTS = 4
SETTINGS = {"I2V_DEFAULT_PROMPT": "it moves"}
PATIENCE_SECONDS = 1800.0
SAMPLE_SECONDS = 0.5
IDLE_SECONDS, STALLED_SECONDS = 30.0, 60.0
STREAM = "events"
"""The Redis stream of Prefect's events."""
GIVEN_UP = "dlq"
"""Where Prefect puts events that it has failed to process several times."""
PARTS = {"api": "API servers", "services": "services", "postgres": "PostgreSQL", "redis": "Redis", "nginx": "nginx"}
CLIENT_PARTS = {"door": "two doors", "worker": f"{WORKERS} workers and their flow runs"}


class Load(NamedTuple):
    """What one load did; `cpu` in seconds by part, without what the same parts use when they are idle."""

    task_runs: int
    seconds: float
    """Until the work was done."""
    behind: float
    """Seconds from then until Prefect showed every task run as Completed, or no other for `STALLED_SECONDS`."""
    lost: int
    """Task runs that Prefect never showed as Completed."""
    cpu: dict[str, float]
    redis_mb: float
    stream: int
    """The most events that Redis held at once."""

    @property
    def rate(self) -> float:
        """Task runs per second until all were shown."""
        return (self.task_runs - self.lost) / (self.seconds + self.behind)

    def cpu_ms(self, part: str, count: int) -> float:
        """Return milliseconds of CPU per one of `count`."""
        return 1000 * self.cpu[part] / count


class Peaks:
    """The most memory and events in Redis, sampled in a thread: `with Peaks(redis) as peaks:`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._done = threading.Event()
        self.memory_mb, self.stream = 0.0, 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            info: Any = self._redis.info("memory")
            length: Any = self._redis.xlen(STREAM)
            self.memory_mb = max(self.memory_mb, info["used_memory"] / (1 << 20))
            self.stream = max(self.stream, length)


class MeasuredCluster:
    """A cluster with so many API servers and services processes, and the loads on it."""

    def __init__(self, box: Sandbox, cluster: Cluster) -> None:
        self._box, self._cluster = box, cluster
        port = int(cluster.url("redis", 6379).rpartition(":")[2])
        self.redis = Redis(host=HOST, port=port)
        self.idle: dict[str, float] = {}
        """Cores that each part uses without any load."""

    def rest(self) -> Self:
        """Measure the parts without any load."""
        time.sleep(IDLE_SECONDS)  # what they do once after their start
        before, began = self._cpu(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - began
        self.idle = {part: (after - before[part]) / seconds for part, after in self._cpu().items()}
        return self

    def land_images(self, count: int) -> Load:
        """Upload images at once, and wait until each has a video."""

        def work() -> None:
            for number in range(count):
                self._box.put_image(f"images/{number:06}.jpg", make_jpeg(400, 320, seed=number))
            _wait_for(lambda: sum(key.endswith(".json") for key in self._box.keys("videos/")) >= count)

        return self._measure(work, PER_VIDEO["task run"] * count)

    def make_task_runs(self, count: int) -> Load:
        """Make empty task runs in several clients at once."""
        env = self._cluster.user_environment | {"PREFECT_LOGGING_LEVEL": "WARNING"}

        def client(_: int) -> None:
            with tempfile.TemporaryDirectory() as home:
                child_env = env | {"PREFECT_HOME": home}
                run_child("benchmarks.prefect_cost", "task run", str(count // CLIENTS), env=child_env)

        def work() -> None:
            with ThreadPoolExecutor(CLIENTS) as threads:
                list(threads.map(client, range(CLIENTS)))

        return self._measure(work, count)

    def _measure(self, work: Callable[[], None], task_runs: int) -> Load:
        completed, cpu, began = self._completed(), self._cpu(), time.monotonic()
        with Peaks(self.redis) as peaks:
            work()
            seconds = time.monotonic() - began
            lost, last_change = self._wait_for_ui(completed + task_runs)
            behind = max(0.0, last_change - began - seconds)
        idle = {part: share * (time.monotonic() - began) for part, share in self.idle.items()}
        used = {part: after - cpu[part] - idle[part] for part, after in self._cpu().items()}
        return Load(task_runs, seconds, behind, lost, used, peaks.memory_mb, peaks.stream)

    def _wait_for_ui(self, wanted: int) -> tuple[int, float]:
        """Return how many task runs Prefect does not show as Completed, and when the last one changed."""
        completed, last_change = self._completed(), time.monotonic()
        while completed < wanted and time.monotonic() < last_change + STALLED_SECONDS:
            time.sleep(SAMPLE_SECONDS)
            if (now := self._completed()) != completed:
                completed, last_change = now, time.monotonic()
        return wanted - completed, last_change

    def _completed(self) -> int:
        wanted = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        url = f"{self._cluster.url('nginx', 4200)}/api/task_runs/count"
        return int(httpx.post(url, json=wanted, trust_env=False, timeout=60).raise_for_status().json())

    def _cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each part so far."""
        used = dict.fromkeys([*PARTS, *CLIENT_PARTS], 0.0)
        for name, part in self._cluster.parts.items():
            used[next(each for each in used if name.startswith(each))] += cpu_seconds(part.process.pid)
        return used


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster did not finish its load")
        time.sleep(SAMPLE_SECONDS)


@contextmanager
def measured_cluster(count: int) -> Iterator[MeasuredCluster]:
    """Start a sandbox and a cluster with `count` API servers and as many services processes."""
    options = ProviderOptions(render_seconds=2, fast=True, render="shared", balance_usd=Decimal(10_000))
    replicas = {"api-2": count - 1, "services": count, "worker": WORKERS}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Sandbox(options, notifications=True) as box,
        Cluster(Path(folder), box.env | SETTINGS, replicas=replicas) as cluster,
    ):
        yield MeasuredCluster(box, cluster).rest()


def run(_servers: Servers, images: int, task_runs: int, counts: Sequence[int] = COUNTS) -> list[Table]:
    """Measure each size in turn, each on a new cluster."""
    videos: dict[int, Load] = {}
    bursts: dict[int, Load] = {}
    idle: dict[int, dict[str, float]] = {}
    given_up: Any = 0
    for count in counts:
        with measured_cluster(count) as cluster:
            idle[count] = cluster.idle
            videos[count] = cluster.land_images(images)
            bursts[count] = cluster.make_task_runs(task_runs)
            given_up += cluster.redis.scard(GIVEN_UP)
        print(f"{count} of each: {videos[count]}, {bursts[count]}", file=sys.stderr, flush=True)
    head = ("API servers, and as many services processes", *map(str, counts))
    landed, burst = f"{images:,} landed images", f"{task_runs:,} empty task runs from {CLIENTS} clients"
    parts = PARTS | CLIENT_PARTS
    notes = f"CPU in ms per {{}}, without that of an idle cluster. Prefect gave up {given_up} events."
    rest: list[Row] = [(name, *(1000 * each[part] for each in idle.values())) for part, name in parts.items()]
    return [
        Table("An idle cluster", head, rest, "CPU in ms per second."),
        Table(landed, head, _rows(videos, parts, images), notes.format("video")),
        Table(burst, head, _rows(bursts, PARTS, task_runs), notes.format("task run")),
    ]


def _rows(loads: dict[int, Load], parts: dict[str, str], count: int) -> list[Row]:
    figures: dict[str, Callable[[Load], float]] = {
        "together": lambda load: sum(load.cpu_ms(part, count) for part in parts),
        "seconds until the work was done": lambda load: load.seconds,
        "Prefect's UI behind then, seconds": lambda load: load.behind,
        "task runs never shown as Completed": lambda load: float(load.lost),
        "task runs per second": lambda load: load.rate,
        "Redis, MB at most": lambda load: load.redis_mb,
        "events in Redis at most": lambda load: float(load.stream),
    }
    cpu: list[Row] = [(name, *(load.cpu_ms(part, count) for load in loads.values())) for part, name in parts.items()]
    others: list[Row] = [(name, *map(figure, loads.values())) for name, figure in figures.items()]
    return [*cpu, *others]
