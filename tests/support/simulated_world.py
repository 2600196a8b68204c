"""One job's world for `job_state_machine.py`: simulated processes that run the real steps over a bucket in memory.

Each `SimulatedProcess` pauses before every S3 operation and every call to the provider until the test decides how that
call ends. Time is virtual, so sleeps return at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any, TypeVar, cast

from i2v.apixo.models import SubmitBody, TaskStatus
from i2v.errors import BadAnswer, I2vError
from i2v.ledger import keys, transitions
from i2v.ledger.budget import DailySpend
from i2v.ledger.job import Delivery, JobImage, JobRecord, StoredVideo
from i2v.ledger.ledger import VersionedRecord
from i2v.media.images import ImageFacts
from i2v.net.limiter import AdaptiveLimiter
from i2v.pipeline.generate import Steps
from i2v.pipeline.run import Run
from i2v.pipeline.submit import Order
from i2v.reports.run_report import Report
from i2v.request import Request
from i2v.s3_uri import S3Uri
from tests.support.interleaving import PROCESS_TASKS, SteppedStorage
from tests.support.memory_storage import MemoryBucket, memory_run

T = TypeVar("T")
PRICE = Decimal("0.192")
REQUEST = Request(prompt="a slow zoom")
FACTS = ImageFacts(sha256="5" * 64, size=100, format="JPEG", width=640, height=480)
IMAGE = JobImage(label="s3://b-1/images/a.jpg", name="a.jpg", at=S3Uri("b-1", "images/a.jpg"), etag="e", facts=FACTS)
ORDER = Order(IMAGE, REQUEST, PRICE)
CALLBACKS = {
    "I2V_CALLBACK_BASE_URL": "https://door.example",
    "I2V_CALLBACK_SECRET": "a-secret-of-the-model-that-is-long",
    "I2V_CALLBACK_PATIENCE_SECONDS": 1e-9,
}


@dataclass
class PendingStep:
    """What a process is about to do, or waits for."""

    kind: str
    at: str
    """The key that it is about, if it is one in the bucket."""
    resume: asyncio.Future[Any]


class SteppedClient:
    """A process's own way to the provider. Its calls end as the model says."""

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process
        self.gate = AdaptiveLimiter(8)

    async def submit(self, body: SubmitBody, *, timeout: float) -> str:  # noqa: ASYNC109 - the client's own name
        """The paid call: the model gives a task id or an error."""
        del timeout
        self._process.world.check_post(self._process, body)
        answer = await self._process.wait_for_turn("POST")
        if isinstance(answer, I2vError):
            raise answer
        self._process.received.append(answer)
        return str(answer)

    async def status(self, task_id: str) -> TaskStatus:
        """The free call: the task as it stands, or an error."""
        if error := await self._process.wait_for_turn("status"):
            raise cast("I2vError", error)
        return self._process.world.status(task_id)


class SimulatedProcess:
    """One process: alive until its work ends or it is killed."""

    def __init__(self, world: SimulatedWorld, number: int, work: Callable[[SimulatedProcess], Awaitable[None]]) -> None:
        self.world = world
        self.number = number
        self.turn: PendingStep | None = None
        self.killed = False
        self.late = world.late
        self.received: list[str] = []
        self.attempt = 0
        """Of its last POST."""
        self.run = memory_run(
            SteppedStorage(world.bucket, self), self.name, client=SteppedClient(self), **world.variables
        )
        self.run.budget.jobs_expected = 1
        self.task = asyncio.ensure_future(self._live(work))
        self.tasks = {self.task}
        self.heartbeats: set[asyncio.Task[Any]] = set()
        """It beats without taking turns."""

    @property
    def name(self) -> str:
        """Its run's id."""
        return f"run-{self.number}"

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.killed or self.task.done()

    async def _live(self, work: Callable[[SimulatedProcess], Awaitable[None]]) -> None:
        PROCESS_TASKS.set(self.tasks)
        try:
            with suppress(I2vError):
                await self.run.start()
                self.heartbeats = self.tasks - {self.task}
                await work(self)
            await self.run.end(Report())
        finally:
            await self.run.close()
            self.world.transition.set()

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> Any:
        """Wait for the turn and learn how it ends; a killed process goes no further."""
        if self.killed:
            raise asyncio.CancelledError
        if asyncio.current_task() in self.heartbeats:
            return None
        self.turn = PendingStep(kind, uri.key if uri else "", asyncio.get_running_loop().create_future())
        self.world.transition.set()
        try:
            return await self.turn.resume
        finally:
            self.turn = None

    def resume(self, how: object = None) -> None:
        """Let it do what it stopped at."""
        assert self.turn is not None
        self.turn.resume.set_result(how)
        self.turn = None

    def kill(self) -> None:
        """End it as kill -9 does: where it stands, with nothing more done."""
        self.killed = True
        for task in self.tasks:
            task.add_done_callback(lambda _: self.world.transition.set())
            task.cancel()


@dataclass
class SimulatedWorld:
    """The bucket, the provider's tasks and the processes of one example."""

    variables: dict[str, Any]
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    processes: list[SimulatedProcess] = field(default_factory=list)
    tasks: dict[str, dict[str, str]] = field(default_factory=dict)
    late: list[Callable[[], Any]] = field(default_factory=list)
    maybe_paid: int = 0
    """POSTs that were accepted, or may have been."""
    delivery: Delivery = "poll"
    attempt_of: dict[str, int] = field(default_factory=dict)
    """For which attempt a task was billed, where that is known."""
    early_tasks: dict[str, str] = field(default_factory=dict)
    """Tasks of POSTs whose answer is still out."""
    allowed: int = 1
    """Payments that a person or a transient failure allows; the first is free to come."""
    transition: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: Any = field(default_factory=count)

    @property
    def order(self) -> Order:
        """What every run wants."""
        return replace(ORDER, delivery=self.delivery)

    @property
    def posting(self) -> list[SimulatedProcess]:
        """Who waits for the answer to a POST."""
        return [process for process in self.alive if process.turn and process.turn.kind == "POST"]

    @property
    def alive(self) -> list[SimulatedProcess]:
        """Processes that have not ended."""
        return [process for process in self.processes if not process.done]

    def start(self, work: Callable[[SimulatedProcess], Awaitable[None]]) -> SimulatedProcess:
        """Start a process; it runs to its first stop when the loop does."""
        process = SimulatedProcess(self, next(self.numbers), work)
        self.processes.append(process)
        return process

    async def run_until_blocked(self) -> None:
        """Run until every living process stands at a stop."""
        while self._anybody_moves():
            self.transition.clear()
            await self.transition.wait()
        for process in self.processes:
            if not process.killed and process.task.done():
                process.task.result()

    def _anybody_moves(self) -> bool:
        return any(
            any(not task.done() for task in one.tasks) if one.killed else not one.task.done() and one.turn is None
            for one in self.processes
        )

    def apply_late_write(self) -> None:
        """Do one of the writes that were given up; what is conditional may lose."""
        with suppress(I2vError):
            self.late.pop(0)()

    def check_post(self, process: SimulatedProcess, body: SubmitBody) -> None:
        """A POST begins: it must be claimed, reserved, and not one too many; who is called back is told the attempt."""
        record = self.record()
        assert record is not None, "a POST without a record"
        process.attempt = max(one.number for one in record.attempts if one.run_id == process.name)
        called = f"https://door.example/apixo/{ORDER.key}/{process.attempt}/"
        assert (body.callback_url or "").startswith(called if self.delivery == "callback" else "")
        claims = [attempt for attempt in record.attempts if attempt.run_id == process.name and not attempt.task_ids]
        assert claims, "a POST without a claim in the ledger"
        under_way = self.maybe_paid + len(self.posting) + 1
        assert under_way <= self.allowed, f"{under_way} payments where {self.allowed} are allowed"
        assert self.reserved() >= under_way * PRICE, "a POST that was not reserved"

    def record(self) -> JobRecord | None:
        """The job as the bucket has it."""
        found = self.bucket.objects.get(S3Uri("b-1", f"jobs/{ORDER.key}.json"))
        return JobRecord.model_validate_json(found.body) if found else None

    def days(self) -> list[Decimal]:
        """What each day's page holds, in US dollars; there are two where midnight passes meanwhile."""
        pages = [one.body for uri, one in self.bucket.objects.items() if "/days/" in uri.key]
        return [DailySpend.model_validate_json(page).total_usd for page in pages]

    def reserved(self) -> Decimal:
        """All that the day pages hold, in US dollars."""
        return sum(self.days(), Decimal(0))

    def status(self, task_id: str) -> TaskStatus:
        """What the provider says of a task."""
        if task_id not in self.tasks:
            raise BadAnswer(f"no task {task_id}", code="404")
        now = round(datetime.now(UTC).timestamp() * 1000)
        return TaskStatus.model_validate({"taskId": task_id, "createTime": now, **self.tasks[task_id]})

    def bill(self, process: SimulatedProcess | None = None) -> str:
        """One more task, which runs; of this process's POST."""
        task_id = f"task_{next(self.numbers)}"
        self.tasks[task_id] = {"state": "processing"}
        if process:
            self.attempt_of[task_id] = process.attempt
        return task_id

    def bill_early(self) -> str:
        """The task that a person finds at the provider: of a POST that waits for its answer, else of who knows what."""
        task_id = self.bill(self.posting[0] if self.posting else None)
        if self.posting:
            self.early_tasks[self.posting[0].name] = task_id
        return task_id

    def bill_for(self, process: SimulatedProcess) -> str:
        """The task of a POST that is answered now."""
        return self.early_tasks.pop(process.name, "") or self.bill(process)


async def model_store(run: Run, held: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    """What `i2v.pipeline.store.store` does to bucket and ledger, without a film."""
    del status
    mp4, jpg, text = (
        keys.output_uri(run.settings, IMAGE.name, IMAGE.etag, REQUEST.digest12, ending)
        for ending in (".mp4", ".jpg", ".json")
    )
    video = StoredVideo(uri=mp4, poster=jpg, manifest=text, sha256="0" * 64, size=1, width=1344, height=768, seconds=6)
    for uri in (video.uri, video.poster, video.manifest):
        await run.storage.put(uri, b"x")
    task_id, now = held.record.task_id or "", datetime.now(UTC)
    stored = await run.ledger.change(held, lambda record: transitions.store(record, task_id, video, now))
    if stored:
        await run.ended_marks.add(stored.record)
    return stored or await run.ledger.read_existing(held.record.key)


STEPS = Steps(store=model_store)
