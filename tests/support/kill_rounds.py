"""One round of a crash test: kill a process, let others recover, and check the outcome."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from i2v.ledger.job import JobState
from tests.support.forked_processes import ProcessResult, ProcessSpec, run_process, start_process
from tests.support.kill_points import KillPoint, When
from tests.support.proxied_sandbox import ProxiedSandbox, UploadedImage

KILLED = -9
GOOD, BAD, LOST = ("ann.jpg", "bob.jpg"), "eve.jpg", "zed.jpg"
SHORT_LEASE = {"lease_seconds": 0.5, "run_gone_seconds": 0.5}
"""Settings that no environment variable may set: tests cannot wait 10 s."""
AFTER_LEASE_SECONDS = 1.1
"""More than the lease, and more than a second, since S3 has times in whole seconds."""
SHUFFLE_SECONDS = 0.005


class KillRound:
    """A round, reproducible by its seed: two images that become videos, and one that the provider refuses."""

    def __init__(self, world: ProxiedSandbox, seed: str) -> None:
        print(seed)  # noqa: T201 - pytest shows it with a failure
        self.world = world
        self.dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
        world.reset()
        for name in (*GOOD, BAD):
            world.put(name, self.dice.randrange(1 << 30))
        world.provider.add_fault(on="task", kind="fails", code="NSFW", image=BAD, times=None)
        self.shuffle_requests()

    def shuffle_requests(self) -> None:
        """Shuffle requests that arrive at the same time."""
        for proxy in (self.world.s3, self.world.api):
            proxy.set_random_delay(SHUFFLE_SECONDS, self.dice.randrange(1 << 30))

    def kill(self, spec: ProcessSpec, point: KillPoint, when: When, nth: int) -> None:
        """Run a process that is killed at the nth request of this kind."""
        proxy = self.world.s3 if point.proxy == "s3" else self.world.api
        with start_process(spec) as running:
            rule = proxy.add(point.kill(running.pid, when, nth))
            running.begin()
            ended = running.wait()
        assert (ended.code, rule.hits) == (KILLED, 1), ended.log

    def possibly_paid(self) -> set[str]:
        """Return the images that may or may not be paid; check that every manifest already has its complete video."""
        self.world.clear_faults()
        self.shuffle_requests()
        for picture in self.world.pictures:
            if "json" in self.world.published_suffixes(picture):
                self.world.read_published(picture)
        lost = {JobState.CLAIMED, JobState.UNKNOWN}
        return {name for name, state in self.world.states().items() if state in lost}

    def recover(self) -> dict[str, Any]:
        """Run reconcile and another run, in either order or at once; return that run's items by image."""
        reconciling, running = (
            self.world.process(settings=SHORT_LEASE, work=work) for work in ("reconcile", "generate")
        )
        match self.dice.choice(("reconcile first", "run first", "both at once")):
            case "reconcile first":
                time.sleep(AFTER_LEASE_SECONDS)
                _, ended = run_successfully(reconciling), run_successfully(running)
            case "run first":
                ended, _ = run_successfully(running), run_successfully(reconciling)
            case _:
                with ThreadPoolExecutor(2) as both:
                    _, ended = both.map(run_successfully, (reconciling, running))
                # of a job that both settled, each may leave the marker to the other: the next reconcile deletes it
                run_successfully(self.world.process(settings=SHORT_LEASE, work="reconcile"))
        return {item["image"]: item for item in ended.report["items"]}

    def check(self, lost: set[str], outcomes: dict[str, Any]) -> None:
        """Check that each image was billed once and has its one result, or is unknown and reported as such."""
        bills, records = self.world.bills(), self.world.records()
        assert max(bills.values(), default=0) <= 1, bills
        assert {record.image.name for record in records.values()} == {p.name for p in self.world.pictures}
        for picture in self.world.pictures:
            item = outcomes[picture.uri]
            if picture.name in lost:
                self._check_unknown(picture, item)
            else:
                assert bills[picture.sha256] == 1
                assert self.world.task_ids(picture) == {records[picture.sha256].task_id}
                self._check_ended(picture, item)
        unknown = {record.key for record in records.values() if record.image.name in lost}
        assert self.world.open_markers() == unknown

    def _check_unknown(self, picture: UploadedImage, item: dict[str, Any]) -> None:
        assert item["outcome"] == "unknown"
        assert "possibly charged" in item["reason"]
        assert self.world.states()[picture.name] is JobState.UNKNOWN
        assert self.world.published_suffixes(picture) == []

    def _check_ended(self, picture: UploadedImage, item: dict[str, Any]) -> None:
        if picture.name == BAD:
            assert item["outcome"] == "refused"
            assert self.world.published_suffixes(picture) == ["refused.json"]
        else:
            assert item["outcome"] in {"stored", "cached"}
            manifest = self.world.read_published(picture)
            assert {manifest["task_id"]} == self.world.task_ids(picture)


def run_successfully(spec: ProcessSpec) -> ProcessResult:
    """Run a process and check that it ended without an error."""
    ended = run_process(spec)
    assert (ended.code, ended.error) == (0, ""), ended.log
    return ended
