"""From upload to video with real SQS, door, Prefect server and worker, each of which is killed.

`I2V_LANDED_IMAGES` sets the number of uploads in each test.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from benchmarks.processes import tree
from sandbox import Sandbox
from sandbox.full_stack import FullStack
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg
from tests.support.door_process import NotificationQueue, wait_for
from tests.support.prefect_database import copy_database

IMAGES = int(os.environ.get("I2V_LANDED_IMAGES", "8"))
ODD = ("a b", "a+b", "100%", "a%20b%2Bc", "ÿ 猫/é", "x" * (1024 - len("images/killed/.jpg")))
GONE_SECONDS = 6
IDLE_CHECKS = 3
PATIENCE_SECONDS = 180 + IMAGES
pytestmark = pytest.mark.timeout(240 + 3 * PATIENCE_SECONDS)
RECORD = re.compile(r"jobs/[0-9a-f]{64}\.json")


@dataclass
class Landing:
    """A full stack, the images uploaded to it, and the checks."""

    box: Sandbox
    queue: NotificationQueue
    pipeline: FullStack
    images: dict[str, str] = field(default_factory=dict)
    """This test's uploads: SHA-256 by URI."""
    bad: list[str] = field(default_factory=list)

    def upload(self, folder: str, first_seed: int) -> list[str]:
        """Upload images and return S3's notifications for them."""
        names = [*ODD, *map(str, range(IMAGES - len(ODD)))]
        for seed, name in enumerate(names, first_seed):
            data = make_jpeg(400, 320, seed=seed)
            self.images[self.box.put_image(f"images/{folder}/{name}.jpg", data)] = sha256(data).hexdigest()
        bodies = [message["Body"] for message in self.queue.drain(str(self.box.queue_url))]
        notifications = [body for body in bodies if f'"images/{folder}/' in body]
        assert len(notifications) == len(self.images)
        return notifications

    def notify(self, notifications: Sequence[str]) -> None:
        """Send each notification twice in random order, plus one malformed message in twenty."""
        first = len(self.bad)
        bad = [f'{{"Records": {number}' for number in range(first, first + max(1, len(notifications) // 20))]
        self.bad += bad
        bodies = [*notifications, *notifications, *bad]
        random.Random(1).shuffle(bodies)  # noqa: S311 - a fixed order
        self.queue.send(bodies)

    def states(self) -> Counter[str]:
        """Count the jobs by state."""
        keys = [key for key in self.box.keys("jobs/") if RECORD.fullmatch(key)]
        return Counter(self.box.read_json(key)["state"] for key in keys)

    def with_videos(self) -> list[str]:
        """Return this test's images, once per manifest."""
        manifests = [self.box.read_json(key) for key in self.box.keys("videos/") if key.endswith(".json")]
        labels = [manifest["image"]["label"] for manifest in manifests]
        return sorted(label for label in labels if label in self.images)

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs of `on-image`."""
        wanted = {"deployments": {"name": {"any_": ["on-image"]}}, "limit": 200}
        runs: list[dict[str, Any]] = self.pipeline.post("flow_runs/filter", wanted)
        return runs

    def pending_work(self) -> str:
        """Describe the messages, scheduled runs and worker processes that are left; empty if none."""
        waiting = sum(run["state_type"] == "SCHEDULED" for run in self.runs())
        working = len(list(tree(self.pipeline.worker.pid))) - 1
        counts = {"messages": self.queue.count_messages(), "scheduled runs": waiting, "worker processes": working}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def settle(self) -> None:
        """Wait until three checks in a row find no pending work: a run can be between two states for a moment."""
        idle_checks, deadline = 0, time.monotonic() + PATIENCE_SECONDS
        while idle_checks < IDLE_CHECKS:
            pending = self.pending_work()
            idle_checks = 0 if pending else idle_checks + 1
            if time.monotonic() > deadline:
                raise AssertionError(f"{pending}\n{self.pipeline.worker.output()}\n{self.pipeline.door.output()}")
            time.sleep(0.7)

    def check(self) -> None:
        """Check that each image has one video, was billed once, and that only malformed messages are dead-lettered."""
        digests = set(self.images.values())
        billed = Counter(task.image_sha256 for task in self.box.provider.tasks.values())
        assert self.with_videos() == sorted(self.images)
        assert {digest: times for digest, times in billed.items() if digest in digests} == dict.fromkeys(digests, 1)
        assert self.queue.count_messages() == 0
        dead = {message["Body"] for message in self.queue.drain(self.queue.dead_letter_url)}
        assert dead == set(self.bad)  # a door killed during a move moves the message again


@pytest.fixture(scope="module")
def running(
    no_outside: None, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sandbox, NotificationQueue, FullStack]]:
    """A sandbox with door, Prefect server and worker."""
    with Sandbox(ProviderOptions(fast=True, render="shared"), notifications=True) as box:
        queue = NotificationQueue(box, connect_bucket=False)
        own = {"I2V_RUN_GONE_SECONDS": str(GONE_SECONDS), "I2V_SETTLING_SECONDS": "0", "I2V_DEFAULT_PROMPT": "zoom"}
        own |= {"I2V_SQS_QUEUE_URL": queue.url}
        folder = tmp_path_factory.mktemp("landing")
        copy_database(shared_folder, folder / "server")
        with FullStack(box, folder, own) as pipeline:
            yield box, queue, pipeline


@pytest.fixture
def landing(running: tuple[Sandbox, NotificationQueue, FullStack]) -> Landing:
    """Share one stack between both tests, each with its own images."""
    return Landing(*running)


def test_a_burst_becomes_videos_and_each_is_billed_once(landing: Landing) -> None:
    """With duplicates, disorder and odd keys, each image gets one video and is billed once."""
    landing.notify(landing.upload("landed", 0))
    wait_for(lambda: len(landing.with_videos()) >= IMAGES, PATIENCE_SECONDS)
    landing.settle()
    landing.check()
    assert {run["state_type"] for run in landing.runs()} == {"COMPLETED"}


def test_after_kills_one_reconcile_completes_everything(landing: Landing) -> None:
    """After door, worker with its runs, and server are killed with -9, one reconcile completes every image."""
    began, box, pipeline = datetime.now(UTC) - timedelta(minutes=1), landing.box, landing.pipeline
    ended_before = landing.states().total()
    notifications = landing.upload("killed", 10_000)
    first, second = notifications[: IMAGES // 2], notifications[IMAGES // 2 :]

    box.provider.set_options(render_seconds=10)
    landing.notify(first)
    wait_for(landing.queue.count_hidden)
    pipeline.door.kill()
    pipeline.door.start()

    expected = {"submitted", "stored"}, ended_before + len(first)
    wait_for(lambda: (set(landing.states()) <= expected[0], landing.states().total()) == (True, expected[1]), 120)
    _kill_with_its_runs(pipeline)
    pipeline.worker.start()
    pipeline.wait_ready()
    box.provider.set_options(render_seconds=0.5)

    runs = len(landing.runs())
    landing.notify(second)
    wait_for(lambda: len(landing.runs()) > runs, 120)
    pipeline.server.kill()
    pipeline.server.start()

    landing.settle()
    time.sleep(GONE_SECONDS)
    wait_for(lambda: all(task.state != "processing" for task in box.provider.tasks.values()))
    left = len(landing.images) - len(landing.with_videos())
    state = _reconcile(pipeline, began)
    print(f"open before reconcile: {left} of {len(landing.images)}; result: {state['message']}")  # noqa: T201 - for -s
    assert state["type"] == "COMPLETED", state
    landing.check()
    assert set(landing.states()) == {"stored"}


def _kill_with_its_runs(pipeline: FullStack) -> None:
    """Kill the worker and its runs, as when a machine fails: runs have their own sessions and outlive the worker."""
    for pid in list(tree(pipeline.worker.pid))[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    pipeline.worker.kill()


def _reconcile(pipeline: FullStack, since: datetime) -> dict[str, Any]:
    """Run `nightly` as from the UI and return its final state."""
    deployment = pipeline.get("deployments/name/reconcile/nightly")["id"]
    given = {"since": since.isoformat(), "max_spend_usd": 100, "limit": 1000}
    wanted = {"parameters": given, "idempotency_key": str(uuid4())}
    run = pipeline.post(f"deployments/{deployment}/create_flow_run", wanted)["id"]

    def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = pipeline.get(f"flow_runs/{run}")["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED"} else None

    return wait_for(ended, PATIENCE_SECONDS) or {}
