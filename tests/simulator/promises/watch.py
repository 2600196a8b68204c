"""What is checked at the moment it happens: each submit when its first byte is sent, and each write."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.simulator.models.provider import Post, is_transient
from tests.simulator.patches import wall_clock
from tests.simulator.promises import published, reading
from tests.simulator.promises.reading import JobView

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World

BRAKE_SECONDS = 10.0
"""A pause or a SIGTERM takes hold within this time; a submit that is at its claim then may still be sent."""


class Watch:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.paused_at: float | None = None
        self._final: set[str] = set()
        self._records: dict[str, tuple[JobView, datetime]] = {}
        """Each record as it was last written, and when, by S3's clock."""
        self._owners: dict[str, str] = {}
        """Whose video is published under a name."""
        world.bucket.on_write = self._note_write

    def note_post(self, process: Process, key: str, price: Decimal) -> Post:
        """Check that a submit is claimed, marked, reserved and allowed, and return its line of the bill."""
        world, number = self.world, len(self.world.provider.posts) + 1
        job = reading.job(world.bucket, key)
        own = [one for one in job.attempts if one.run_id == process.run_id and not one.task_ids] if job else []
        attempt = next((one for one in reversed(own) if not one.end), None)
        post = Post(
            number=number,
            process=process.name,
            run_id=process.run_id,
            job=key,
            attempt=attempt.number if attempt else 0,
            claim=attempt.claim if attempt else "",
            day=wall_clock().date().isoformat(),
            sent_at=world.loop.time(),
            price=price,
        )
        what = f"POST #{number} of {process.name} for {key[:8]}/{post.attempt}"
        world.tell(process.name, f"{what} is sent")
        if attempt is None:
            self._accuse("claim", f"{what} without a claim")
        if not reading.has_marker(world.bucket, key, post.attempt):
            self._accuse("marker", f"{what} without an open marker")
        self._check_allowed(post, what)
        self._check_reserved(post, what)
        self._check_brakes(process, what)
        self._check_first(process, key, what)
        if job:
            world.erased.check_post(process, job, what)
            published.check_post(process, job.image, what)
        return post

    def _accuse(self, rule: str, message: str) -> None:
        self.world.accuse(rule, message)

    def _check_allowed(self, post: Post, what: str) -> None:
        world = self.world
        earlier = [one for one in world.provider.posts if one.job == post.job and one.is_exposed]
        if post.claim and any(one.claim == post.claim for one in earlier):
            self._accuse("paid once", f"{what}: the attempt may have been paid before")
        failed = sum(
            is_transient(task.fail_code)
            for task in world.provider.tasks.values()
            if task.post.job == post.job and task.fail_code and task.end_was_seen
        )
        persons = world.resubmits[post.job] + world.forgets[post.job]
        if len(earlier) + 1 > 1 + failed + persons:
            self._accuse("allowed", f"{what}: {len(earlier)} earlier, {failed} failed for now, {persons} by persons")
        if len(earlier) + 1 > world.settings.max_attempts + persons:
            self._accuse("attempts", f"{what}: more than {world.settings.max_attempts} attempts")

    def _check_reserved(self, post: Post, what: str) -> None:
        own = [one for one in self.world.provider.posts if one.run_id == post.run_id and one.is_exposed]
        needed = sum((one.price for one in own if one.day == post.day), post.price)
        reserved = reading.reserved(self.world.bucket, post.day).get(post.run_id, Decimal(0))
        if needed > reserved:
            self._accuse("reserved", f"{what}: ${reserved} reserved on {post.day}, ${needed} needed")

    def _check_first(self, process: Process, key: str, what: str) -> None:
        """Check that a bucket that the provider has not been seen to fetch from gets few submits."""
        world, limit = self.world, self.world.settings.first_submits
        if not limit or any(task.end_was_seen and not task.fail_code for task in world.provider.tasks.values()):
            return
        jobs = {one.job for one in world.provider.posts if one.process == process.name and one.is_exposed} | {key}
        if len(jobs) > limit:
            self._accuse("first submits", f"{what}: {len(jobs)} jobs, and nothing was rendered yet")

    def _check_brakes(self, process: Process, what: str) -> None:
        now, most = self.world.loop.time(), BRAKE_SECONDS + self.world.settings.lease_seconds / 5
        if self.paused_at is not None and now - self.paused_at > most:
            self._accuse("pause", f"{what}: {now - self.paused_at:.0f} s after the pause")
        stopped = process.terminated_at
        if stopped is not None and now - stopped > most:
            self._accuse("SIGTERM", f"{what}: {now - stopped:.0f} s after SIGTERM")

    def _note_write(self, key: str, body: bytes | None) -> None:
        if key == "jobs/ledger.json":
            if not reading.ledger_info(self.world.bucket)["paused"]:
                self.paused_at = None
            elif self.paused_at is None:
                self.paused_at = self.world.loop.time()
        elif reading.record_key(key) and body and key != f"jobs/{reading.GARBAGE}.json":
            self._note_record(reading.parse_record(body))
        elif key.startswith("published/") and key.endswith(".json"):
            self._note_published(key)
        elif key.startswith("jobs/runs/") and key.endswith(".json"):
            self._note_run(key)

    def _note_record(self, new: JobView) -> None:
        """Check that a write loses nothing, and that no claim is given up before its lease is over."""
        now = self.world.bucket.time()
        old, written = self._records.get(new.key, (None, now))
        self._records[new.key] = new, now
        if old and old.state != "forgotten" and new.state == "forgotten":
            self.world.forgets[new.key] += 1
        for before in old.attempts if old else ():
            after = next((one for one in new.attempts if one.claim == before.claim), None)
            name = f"{new.key[:8]}/{before.number}"
            if after is None or not before.task_ids <= after.task_ids:
                self._accuse("record", f"{name} or its task id was lost by a write")
            elif after.reason == "lease_over" and not before.end:
                age = (now - written).total_seconds()
                if age < self.world.settings.lease_seconds:
                    self._accuse("lease", f"{name} was given up after {age:.0f} s")

    def _note_published(self, key: str) -> None:
        """Check that a name stays with its image until that is erased."""
        old, new = self._owners.get(key), published.owner(self.world, key)
        self._owners[key] = new
        if old and new and old != new:
            self._accuse("shared name", f"{key} was of {old}, and is of {new}")

    def _note_run(self, key: str) -> None:
        run_id = key.removeprefix("jobs/runs/").removesuffix(".json")
        found = reading.run_record(self.world.bucket, run_id)
        if found.get("ended_at"):
            self._final.add(run_id)
        elif run_id in self._final and len(self.world.processes_by_run[run_id]) == 1:
            self._accuse("run record", f"the end of {run_id} was overwritten")
