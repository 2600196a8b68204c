"""The whole way for real: uploads in a burst, SQS, the door, a Prefect server, a worker; and each of them killed.

`I2V_LANDED_IMAGES` says how many land in each test.
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
from typing import Any

import pytest

from benchmarks.processes import tree
from sandbox import Sandbox
from sandbox.full_stack import FullStack
from sandbox.provider import ProviderOptions
from sandbox.synthetic_images import make_jpeg
from tests.support.door_process import Feed, wait_for

IMAGES = int(os.environ.get("I2V_LANDED_IMAGES", "12"))
ODD = ("a b", "a+b", "100%", "a%20b%2Bc", "ÿ 猫/é", "x" * (1024 - len("images/killed/.jpg")))
GONE_SECONDS = 6
CALM_LOOKS = 3
PATIENCE_SECONDS = 180 + IMAGES
pytestmark = pytest.mark.timeout(240 + 3 * PATIENCE_SECONDS)
RECORD = re.compile(r"jobs/[0-9a-f]{64}\.json")


@dataclass
class Landing:
    """A pipeline, the images that land in its bucket, and what a test asks of it."""

    box: Sandbox
    feed: Feed
    pipeline: FullStack
    images: dict[str, str] = field(default_factory=dict)
    """What this test uploaded: the digest of its bytes by its address."""
    bad: list[str] = field(default_factory=list)

    def upload(self, folder: str, first_seed: int) -> list[str]:
        """Let images land; what S3 tells of each, whatever else it tells of."""
        names = [*ODD, *map(str, range(IMAGES - len(ODD)))]
        for seed, name in enumerate(names, first_seed):
            data = make_jpeg(400, 320, seed=seed)
            self.images[self.box.put_image(f"images/{folder}/{name}.jpg", data)] = sha256(data).hexdigest()
        bodies = [message["Body"] for message in self.feed.take(str(self.box.queue_url))]
        told = [body for body in bodies if f'"images/{folder}/' in body]
        assert len(told) == len(self.images)
        return told

    def tell(self, told: Sequence[str]) -> None:
        """Put these notifications into the queue: each twice, in disorder, and one in twenty malformed."""
        first = len(self.bad)
        bad = [f'{{"Records": {number}' for number in range(first, first + max(1, len(told) // 20))]
        self.bad += bad
        bodies = [*told, *told, *bad]
        random.Random(1).shuffle(bodies)  # noqa: S311 - the same disorder each time
        self.feed.send(bodies)

    def states(self) -> Counter[str]:
        """How many jobs the ledger has in each state."""
        keys = [key for key in self.box.keys("jobs/") if RECORD.fullmatch(key)]
        return Counter(self.box.read_json(key)["state"] for key in keys)

    def with_videos(self) -> list[str]:
        """The images of this test that have a manifest, once for each."""
        manifests = [self.box.read_json(key) for key in self.box.keys("videos/") if key.endswith(".json")]
        labels = [manifest["image"]["label"] for manifest in manifests]
        return sorted(label for label in labels if label in self.images)

    def runs(self) -> list[dict[str, Any]]:
        """The runs of `on-image`."""
        wanted = {"deployments": {"name": {"any_": ["on-image"]}}, "limit": 200}
        runs: list[dict[str, Any]] = self.pipeline.post("flow_runs/filter", wanted)
        return runs

    def goes_on(self) -> str:
        """What still goes on: messages in the queue, runs that wait for the worker, and those that it has."""
        waiting = sum(run["state_type"] == "SCHEDULED" for run in self.runs())
        working = len(list(tree(self.pipeline.worker.pid))) - 1
        counts = {"messages": self.feed.left(), "runs that wait": waiting, "processes of the worker": working}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def settle(self) -> None:
        """Wait until nothing goes on, at three looks in a row: a run may be between two of those for a moment."""
        calm, deadline = 0, time.monotonic() + PATIENCE_SECONDS
        while calm < CALM_LOOKS:
            going = self.goes_on()
            calm = 0 if going else calm + 1
            if time.monotonic() > deadline:
                raise AssertionError(f"{going}\n{self.pipeline.worker.said()}\n{self.pipeline.door.said()}")
            time.sleep(0.7)

    def check(self) -> None:
        """Each image has one video and was billed once, no message is left, and the malformed ones lie apart."""
        digests = set(self.images.values())
        billed = Counter(task.image_sha256 for task in self.box.provider.tasks.values())
        assert self.with_videos() == sorted(self.images)
        assert {digest: times for digest, times in billed.items() if digest in digests} == dict.fromkeys(digests, 1)
        assert self.feed.left() == 0
        dead = {message["Body"] for message in self.feed.take(self.feed.dead)}
        assert dead == set(self.bad)  # a door that is killed just while it moves one moves it again


@pytest.fixture(scope="module")
def running(no_outside: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Feed, FullStack]]:
    """A sandbox, and all that runs between its bucket and its provider."""
    with Sandbox(ProviderOptions(fast=True, render="shared"), notifications=True) as box:
        feed = Feed(box, is_told=False)
        own = {"I2V_RUN_GONE_SECONDS": str(GONE_SECONDS), "I2V_SETTLING_SECONDS": "0", "I2V_DEFAULT_PROMPT": "zoom"}
        own |= {"I2V_SQS_QUEUE_URL": feed.url}
        with FullStack(box, tmp_path_factory.mktemp("landing"), own) as pipeline:
            yield box, feed, pipeline


@pytest.fixture
def landing(running: tuple[Sandbox, Feed, FullStack]) -> Landing:
    """One pipeline for both tests, each with images of its own."""
    return Landing(*running)


def test_a_burst_becomes_videos_and_each_is_paid_once(landing: Landing) -> None:
    """Told twice and in disorder, odd keys among them: a video each, billed once, and only the malformed is left."""
    landing.tell(landing.upload("landed", 0))
    wait_for(lambda: len(landing.with_videos()) >= IMAGES, PATIENCE_SECONDS)
    landing.settle()
    landing.check()
    assert {run["state_type"] for run in landing.runs()} == {"COMPLETED"}


def test_whatever_is_killed_one_reconcile_heals_it(landing: Landing) -> None:
    """Door, worker with its runs, and server are killed (-9) in the middle; after one reconcile all is the same."""
    began, box, pipeline = datetime.now(UTC) - timedelta(minutes=1), landing.box, landing.pipeline
    ended_before = landing.states().total()
    told = landing.upload("killed", 10_000)
    first, second = told[: IMAGES // 2], told[IMAGES // 2 :]

    box.provider.set_options(render_seconds=10)
    landing.tell(first)
    wait_for(landing.feed.taken)
    pipeline.door.kill()
    pipeline.door.start()

    expected = {"submitted", "stored"}, ended_before + len(first)
    wait_for(lambda: (set(landing.states()) <= expected[0], landing.states().total()) == (True, expected[1]), 120)
    _kill_with_its_runs(pipeline)
    pipeline.worker.start()
    pipeline.wait_ready()
    box.provider.set_options(render_seconds=0.5)

    runs = len(landing.runs())
    landing.tell(second)
    wait_for(lambda: len(landing.runs()) > runs, 120)
    pipeline.server.kill()
    pipeline.server.start()

    landing.settle()
    time.sleep(GONE_SECONDS)
    wait_for(lambda: all(task.state != "processing" for task in box.provider.tasks.values()))
    left = len(landing.images) - len(landing.with_videos())
    state = _reconcile(pipeline, began)
    print(f"left for reconcile: {left} of {len(landing.images)}; it says: {state['message']}")  # noqa: T201 - for -s
    assert state["type"] == "COMPLETED", state
    landing.check()
    assert set(landing.states()) == {"stored"}


def _kill_with_its_runs(pipeline: FullStack) -> None:
    """As when a machine is lost: runs are processes in sessions of their own, and would outlive their worker."""
    for pid in list(tree(pipeline.worker.pid))[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    pipeline.worker.kill()


def _reconcile(pipeline: FullStack, since: datetime) -> dict[str, Any]:
    """Start `nightly` as a person does in the UI, and give its last state."""
    deployment = pipeline.get("deployments/name/reconcile/nightly")["id"]
    given = {"since": since.isoformat(), "max_spend_usd": 100, "limit": 1000}
    run = pipeline.post(f"deployments/{deployment}/create_flow_run", {"parameters": given})["id"]

    def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = pipeline.get(f"flow_runs/{run}")["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED"} else None

    return wait_for(ended, PATIENCE_SECONDS) or {}
