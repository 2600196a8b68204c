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
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps
from i2v.pipeline.order import Order
from i2v.pipeline.run import close_run, end_run
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
    """The call before which a process is paused."""

    kind: str
    at: str
    """The S3 key, or empty."""
    resume: asyncio.Future[Any]


class SteppedClient:
    """The provider's client of one process; the state machine decides how each call ends."""

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process
        self.limiter = AdaptiveLimiter(8)

    async def submit(self, body: SubmitBody, *, timeout: float) -> str:  # noqa: ASYNC109 - the client's own name
        """Pause before the paid call, then return a task id or raise an error."""
        del timeout
        self._process.world.check_post(self._process, body)
        answer = await self._process.wait_for_turn("POST")
        if isinstance(answer, I2vError):
            raise answer
        self._process.received.append(answer)
        return str(answer)

    async def status(self, task_id: str) -> TaskStatus:
        """Pause before the free call, then return the task's status or raise an error."""
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
        """The attempt of its last POST."""
        self.run = memory_run(
            SteppedStorage(world.bucket, self), self.name, client=SteppedClient(self), **world.variables
        )
        self.run.budget.jobs_expected = 1
        self.task = asyncio.ensure_future(self._live(work))
        self.tasks = {self.task}
        self.heartbeats: set[asyncio.Task[Any]] = set()
        """The heartbeat's tasks, which do not pause."""

    @property
    def name(self) -> str:
        """The id of its run."""
        return f"run-{self.number}"

    @property
    def done(self) -> bool:
        """Whether it has ended or was killed."""
        return self.killed or self.task.done()

    async def _live(self, work: Callable[[SimulatedProcess], Awaitable[None]]) -> None:
        PROCESS_TASKS.set(self.tasks)
        try:
            with suppress(I2vError):
                await self.run.heartbeat.start()
                self.heartbeats = self.tasks - {self.task}
                await work(self)
            await end_run(self.run, Report())
        finally:
            await close_run(self.run)
            self.world.progressed.set()

    async def wait_for_turn(self, kind: str, uri: S3Uri | None = None) -> Any:
        """Pause until `resume`, and return how the call ends; a killed process never resumes."""
        if self.killed:
            raise asyncio.CancelledError
        if asyncio.current_task() in self.heartbeats:
            return None
        self.turn = PendingStep(kind, uri.key if uri else "", asyncio.get_running_loop().create_future())
        self.world.progressed.set()
        try:
            return await self.turn.resume
        finally:
            self.turn = None

    def resume(self, how: object = None) -> None:
        """Let the paused call continue."""
        assert self.turn is not None
        self.turn.resume.set_result(how)
        self.turn = None

    def kill(self) -> None:
        """End it as kill -9 does, without any further call."""
        self.killed = True
        for task in self.tasks:
            task.add_done_callback(lambda _: self.world.progressed.set())
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
    """How many POSTs were accepted, or may have been."""
    delivery: Delivery = "poll"
    attempt_of: dict[str, int] = field(default_factory=dict)
    """The attempt that each task was billed for, if known."""
    early_tasks: dict[str, str] = field(default_factory=dict)
    """Tasks of POSTs that have no answer yet, by process."""
    allowed: int = 1
    """How many payments are allowed: one, plus one per transient failure or manual resubmit."""
    progressed: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: Any = field(default_factory=count)

    @property
    def order(self) -> Order:
        """The order of every run."""
        return replace(ORDER, delivery=self.delivery)

    @property
    def posting(self) -> list[SimulatedProcess]:
        """The processes that wait for the answer to a POST."""
        return [process for process in self.alive if process.turn and process.turn.kind == "POST"]

    @property
    def alive(self) -> list[SimulatedProcess]:
        """The processes that have not ended."""
        return [process for process in self.processes if not process.done]

    def start(self, work: Callable[[SimulatedProcess], Awaitable[None]]) -> SimulatedProcess:
        """Start a process; it runs to its first pause once the loop runs."""
        process = SimulatedProcess(self, next(self.numbers), work)
        self.processes.append(process)
        return process

    async def run_until_blocked(self) -> None:
        """Run until every living process is paused."""
        while self._anybody_moves():
            self.progressed.clear()
            await self.progressed.wait()
        for process in self.processes:
            if not process.killed and process.task.done():
                process.task.result()

    def _anybody_moves(self) -> bool:
        return any(
            any(not task.done() for task in one.tasks) if one.killed else not one.task.done() and one.turn is None
            for one in self.processes
        )

    def apply_late_write(self) -> None:
        """Apply the oldest write that its process had given up; a conditional one may fail."""
        with suppress(I2vError):
            self.late.pop(0)()

    def check_post(self, process: SimulatedProcess, body: SubmitBody) -> None:
        """Check that a POST is claimed, reserved and allowed, and that its callback URL names the attempt."""
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
        """Return the job's record in the bucket."""
        found = self.bucket.objects.get(S3Uri("b-1", f"jobs/{ORDER.key}.json"))
        return JobRecord.model_validate_json(found.body) if found else None

    def days(self) -> list[Decimal]:
        """Return the total of each day's page in US dollars; there are two if midnight has passed."""
        pages = [one.body for uri, one in self.bucket.objects.items() if "/days/" in uri.key]
        return [DailySpend.model_validate_json(page).total_usd for page in pages]

    def reserved(self) -> Decimal:
        """Return the total of all day pages in US dollars."""
        return sum(self.days(), Decimal(0))

    def status(self, task_id: str) -> TaskStatus:
        """Return a task's status."""
        if task_id not in self.tasks:
            raise BadAnswer(f"no task {task_id}", code="404")
        now = round(datetime.now(UTC).timestamp() * 1000)
        return TaskStatus.model_validate({"taskId": task_id, "createTime": now, **self.tasks[task_id]})

    def bill(self, process: SimulatedProcess | None = None) -> str:
        """Create a running task, for this process's POST, and return its id."""
        task_id = f"task_{next(self.numbers)}"
        self.tasks[task_id] = {"state": "processing"}
        if process:
            self.attempt_of[task_id] = process.attempt
        return task_id

    def bill_early(self) -> str:
        """Create a task before its POST is answered, or an unrelated one if no POST is waiting; return its id."""
        task_id = self.bill(self.posting[0] if self.posting else None)
        if self.posting:
            self.early_tasks[self.posting[0].name] = task_id
        return task_id

    def bill_for(self, process: SimulatedProcess) -> str:
        """Return the task id with which a POST is answered."""
        return self.early_tasks.pop(process.name, "") or self.bill(process)


async def model_store(run: RunContext, held: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    """Do to bucket and ledger what the real store step does, without a video."""
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
        await run.stored_markers.add(stored.record)
    return stored or await run.ledger.read_existing(held.record.key)


STEPS = Steps(store=model_store)
