"""One story: a bucket, a provider, a door and processes in virtual time, from the first start until all is at rest."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from i2v.s3_uri import S3Uri
from tests.simulator import works
from tests.simulator.door import Door
from tests.simulator.models.bucket import Bucket
from tests.simulator.models.provider import Provider
from tests.simulator.models.weather import Weather
from tests.simulator.process import Process
from tests.simulator.promises import at_rest, erasure, reading
from tests.simulator.promises.reading import GARBAGE
from tests.simulator.promises.watch import Watch
from tests.simulator.scenario import Plan, Start, Upload
from tests.simulator.story import Story
from tests.simulator.virtual_time import SimulatedLoop
from tests.support.settings import SealedSettings

DEADLINE_SECONDS = 3 * 86_400.0
MOST_ROUNDS = 10
TWIN_AFTER_SECONDS = 200.0
"""After this long, Prefect believes that a frozen run is dead."""


class World:
    """Everything of one story."""

    def __init__(self, plan: Plan, loop: SimulatedLoop, *, verbose: bool) -> None:
        self.plan = plan
        self.loop = loop
        self.verbose = verbose
        self.story = Story()
        self.chance = _chance("world", plan)
        self.library_random = _chance("library", plan)
        self.settings = SealedSettings(**plan.variables)
        self.weather = Weather(_chance("weather", plan), self.story, plan.theme)
        self.bucket = Bucket(lambda: self.now + timedelta(seconds=plan.s3_skew))
        self.provider = Provider(self)
        self.door = Door(self)
        self.watch = Watch(self)
        self.processes: list[Process] = []
        self.resubmits: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()
        self.adoptions: Counter[str] = Counter()
        self.forgets: Counter[str] = Counter()
        """How often each job was forgotten."""
        self.erased = erasure.Erased(self)
        self.removed: set[str] = set()
        """Jobs whose video a consumer has moved away."""
        self.late_writes = 0
        self.is_calm = False
        self.processes_by_run: defaultdict[str, list[Process]] = defaultdict(list)
        self.had_s3_faults = self.weather.s3_rate > 0
        self._starts: dict[str, tuple[Start, works.Work]] = {}
        self._changed = asyncio.Event()

    @property
    def now(self) -> datetime:
        """The true time."""
        return self.plan.begins + timedelta(seconds=self.loop.time())

    def tell(self, who: str, what: str) -> None:
        """Add a line to the story."""
        if self.verbose:
            self.story.tell(self.loop.time(), who, what)

    def count(self, what: str) -> None:
        """Count a fault or an end."""
        self.story.count(what)

    def accuse(self, rule: str, message: str) -> None:
        """Note a broken promise."""
        self.story.accuse(rule, message, self.loop.time())

    def described(self, key: str) -> str:
        """Return what a record says now, for the story."""
        if not self.verbose or not (job_key := reading.record_key(key)):
            return ""
        job = reading.job(self.bucket, job_key)
        attempts = (
            [f"{one.number}:{one.run_id}:{','.join(one.task_ids) or '-'}:{one.end}" for one in job.attempts]
            if job
            else []
        )
        return f" -> {job.state if job else 'gone'} [{' '.join(attempts)}]"

    def start(self, start: Start, work: works.Work, run_id: str) -> Process:
        """Start a process."""
        number = len(self.processes_by_run[run_id]) + 1
        name = run_id if number == 1 else f"{run_id}.{number}"
        mishaps = () if self.is_calm else start.mishaps
        process = Process(self, name, run_id, work, skew=start.skew, mishaps=mishaps)
        self.tell(name, f"starts {start.kind} {start.options}")
        self.count(f"started {start.kind}")
        self.processes.append(process)
        self.processes_by_run[run_id].append(process)
        self._starts[name] = (start, work)
        return process

    def has_ended(self, process: Process) -> None:
        """Note the end of a process, and start it again if it is to be."""
        self.tell(process.name, "killed" if process.dead else f"ends: {process.error or _summary(process)}")
        self._changed.set()
        start, work = self._starts[process.name]
        if process.dead and start.restart:
            run_id = process.run_id if start.restart == "same" else f"{process.run_id}-again"
            again = replace(start, mishaps=start.mishaps[1:], restart="")
            self.loop.call_later(start.restart_after, self.start, again, work, run_id)
            self.count(f"started again, {start.restart} run id")

    def has_frozen(self, process: Process, seconds: float) -> None:
        """Start a frozen run again, sometimes, as Prefect does with a run that it believes to be dead."""
        start, work = self._starts[process.name]
        if seconds >= TWIN_AFTER_SECONDS and start.restart == "same" and self.chance.random() < 0.5:
            again = replace(start, mishaps=(), restart="")
            self.loop.call_later(TWIN_AFTER_SECONDS, self.start, again, work, process.run_id)
            self.count("started again while frozen")

    async def play(self) -> None:
        """Play the plan, let everything come to rest, and judge."""
        self._schedule()
        await asyncio.sleep(self.plan.calm_at)
        self.weather.calm()
        self.is_calm = True
        self.loop.clock.deadline = self.loop.time() + DEADLINE_SECONDS
        self.tell("world", "is calm")
        for process in self.processes:
            process.spare()
        await self._wait_for_all()
        await self._settle()
        await self._erase_again()
        if self.plan.runs_once_more:
            await self._run_once_more()
        at_rest.check(self)

    def _schedule(self) -> None:
        if self.plan.has_garbage:
            for name in (f"jobs/{GARBAGE}.json", f"jobs/open/{'0' * 12}-{'0' * 12}-{GARBAGE}-1"):
                self.bucket.put(S3Uri("b-1", name), b"{ not JSON", "", {}, "")
        for day, label, usd in self.plan.spent_before:
            reading.put_spend(self.bucket, day, label, usd)
        for upload in self.plan.uploads:
            if upload.at < 0:
                self._upload(upload)
            else:
                self.loop.call_at(upload.at, self._upload, upload)
        for at in self.plan.removals:
            self.loop.call_at(at, self._remove_a_video)
        for start in self.plan.starts:
            self.loop.call_at(start.at, self.start, start, self._work(start), start.name)

    def _upload(self, upload: Upload) -> None:
        self.tell("world", f"uploads {upload.key}: {upload.body.decode()}")
        metadata = {"i2v-sku": upload.sku} if upload.sku else {}
        self.bucket.put(S3Uri("b-1", upload.key), upload.body, "", metadata, "")

    def _remove_a_video(self) -> None:
        """Do what a consumer does that moves a video away."""
        stored = [job for job in reading.jobs(self.bucket).values() if job.videos]
        if stored:
            job = self.chance.choice(stored)
            self.removed.add(job.key)
            self.count("video moved away")
            self.tell("consumer", f"moves {job.videos[0]}")
            video = job.videos[0]
            for key in (video, *(reading.stem(video) + ending for ending in (".jpg", ".json"))):
                self.bucket.delete(S3Uri("b-1", key))

    def _work(self, start: Start) -> works.Work:
        match start.kind:
            case "run":
                return works.run_work(**start.options)
            case "reconcile" | "backfill":
                return works.reconcile_work(**start.options)
            case "forget":
                return works.forget_work(**start.options)
            case "pause" | "resume":
                return works.pause_work(start.kind == "pause")
            case _:
                return works.BY_HAND[start.kind]

    async def _wait_for_all(self) -> None:
        while any(not process.over for process in self.processes):
            self._changed.clear()
            await self._changed.wait()

    async def _settle(self) -> None:
        """Reconcile until nothing changes any more."""
        await self._finish("resume-last", works.pause_work(False))
        patience = max(
            self.settings.lease_seconds, self.settings.callback_patience_seconds, self.settings.run_gone_seconds
        )
        before: Any = None
        for number in range(MOST_ROUNDS):
            rest = max(
                [
                    patience + 60,
                    *(
                        max(task.ends_at, task.known_from) + 400 - self.loop.time()
                        for task in self.provider.tasks.values()
                    ),
                ]
            )
            await asyncio.sleep(rest)
            await self._wait_for_all()
            await self._finish(f"rest-{number}-{self.loop.time():.0f}", works.reconcile_work())
            after = {
                uri.key: one.etag
                for uri, one in self.bucket.objects.items()
                if uri.key.startswith("jobs/open/") or reading.record_key(uri.key)
            }
            if after == before and not self.late_writes:
                return
            before = after
        self.accuse("rest", f"reconcile still changes the ledger after {MOST_ROUNDS} rounds")

    async def _finish(self, name: str, work: works.Work) -> None:
        self.start(Start(0.0, "reconcile", name), work, name)
        await self._wait_for_all()

    async def _erase_again(self) -> None:
        """Repeat each erasure, as the command asks for if anything is left, and look for what it was to erase."""
        for start in self.plan.starts:
            if start.kind == "forget":
                await self._finish("forget-last", works.forget_work(**start.options))
                erasure.check_nothing_is_left(self, start.options["key"])

    async def _run_once_more(self) -> None:
        work = works.run_work("s3://b-1/images/", "poll", None, True, 6)
        await self._finish("last", work)
        await self._settle()


def _chance(what: str, plan: Plan) -> random.Random:
    return random.Random(f"{what} {plan.seed}")  # noqa: S311 - a story, not a secret


def _summary(process: Process) -> str:
    return process.report.summary if process.report else "done"
