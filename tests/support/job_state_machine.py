"""Hypothesis state machine of one job: what can happen to it (rules), and what must hold after each step (invariants).

The processes, the bucket and the provider it drives are in `simulated_world.py`.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from i2v.errors import AccountRejected, AnswerLost, BadAnswer, Busy, NothingSent, Rejected, TaskRejected
from i2v.ledger.job import Delivery, JobRecord, JobState
from i2v.pipeline.generate import process_order
from i2v.recovery.resolve import Resolver
from i2v.s3_uri import S3Uri
from tests.support.interleaving import S3Fault, VirtualTimeLoop
from tests.support.reconciling import reconcile
from tests.support.simulated_world import CALLBACKS, ORDER, PRICE, STEPS, SimulatedProcess, SimulatedWorld

NO_TASK = {
    "429": Busy("POST: 429", code="429"),
    "no connection": NothingSent("POST: refused", code="ConnectError"),
    "402": AccountRejected("POST: 402", code="402"),
    "400": Rejected("POST: 400", code="400"),
    "fail code": TaskRejected("POST: a fail code", code="GENERATION_FAILED"),
    "lost": AnswerLost("POST: read timeout", code="ReadTimeout"),
}
FREE = {"429", "no connection", "402", "400"}
ENDS = {
    "success": {"state": "success", "resultJson": '{"resultUrls": ["https://file.example/v.mp4"]}'},
    "transient": {"state": "failed", "failCode": "Timeout", "failMsg": ""},
    "content": {"state": "failed", "failCode": "NSFW", "failMsg": ""},
    "unheard of": {"state": "failed", "failCode": "Gremlins", "failMsg": ""},
}
DIAGRAM = {
    "ready": "claimed submitted",
    "claimed": "submitted ready refused failed unknown",
    "submitted": "stored refused failed ready",
    "unknown": "submitted ready failed",
    "refused": "ready",
    "failed": "ready submitted",
    "stored": "",
}
LEASE = 300.0
MOST_ALIVE = 4
POWER_CUT = 0.4
EVENTS = (
    ["process_continues"] * 5
    + ["step_fails"] * 3
    + ["process_starts"] * 2
    + ["process_dies", "time_passes", "callback_arrives"]
)
RECORD = S3Uri("b-1", f"jobs/{ORDER.key}.json")


async def generate_video(process: SimulatedProcess) -> None:
    """Do what a run does."""
    await process_order(process.run, process.world.order, STEPS)


async def run_reconcile(process: SimulatedProcess) -> None:
    """Do what the scheduled reconcile does."""
    await reconcile(process.run, steps=STEPS)


def settle_from_callback(attempt: int, task_id: str) -> Any:
    """Return the work that the door starts when a callback arrives."""

    async def settle(process: SimulatedProcess) -> None:
        await reconcile(process.run, entries=[f"{ORDER.key}/{attempt}/{task_id}"], steps=STEPS)

    return settle


def resolve_by_hand(what: str, task_id: str) -> Any:
    """Return the work of `i2v jobs resolve`."""

    async def resolve(process: SimulatedProcess) -> None:
        resolver, key = Resolver(process.run.storage, process.run.settings), ORDER.key
        if what == "resubmit":
            await resolver.resubmit(key)
        elif what == "drop":
            await resolver.drop(key)
        else:
            await resolver.adopt(key, task_id, process.run.client)

    return resolve


class JobStateMachine(RuleBasedStateMachine):
    """One image, one bucket, one provider; up to four processes at once."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self.loop = loop
        self.last: JobRecord | None = None
        self.manual_actions: set[str] = set()

    @initialize(
        most=st.integers(1, 3),
        cap=st.sampled_from([None, None, 1, 2, 3]),
        seed=st.integers(0, 99),
        steps_ahead=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        delivery=st.sampled_from(["poll", "callback"]),
    )
    def begin(self, most: int, cap: int | None, seed: int, steps_ahead: list[int], delivery: Delivery = "poll") -> None:
        """Start one to three runs and advance each by its number of steps."""
        self.dice = random.Random(seed)  # noqa: S311 - it ends tasks, and keeps no secret
        variables: dict[str, Any] = {"I2V_MAX_ATTEMPTS": most, **CALLBACKS}
        if cap is not None:
            variables["I2V_DAILY_CAP_USD"] = cap * PRICE
        self.world = SimulatedWorld(variables, delivery=delivery)
        self.max_attempts = most
        self.cap = None if cap is None else cap * PRICE
        self.world.bucket.on_put = self.check_put
        for run in [self.start(generate_video) for _ in steps_ahead]:
            for _ in range(steps_ahead[run.number]):
                if self.next_step(run) not in {"POST", ""}:
                    run.resume()
                    self.run_until_blocked()

    def start(self, work: Any) -> SimulatedProcess:
        """Start a process and run it to its first pause."""

        async def begin() -> SimulatedProcess:
            process = self.world.start(work)
            await self.world.run_until_blocked()
            return process

        return self.loop.run_until_complete(begin())

    def advance_to(self, process: SimulatedProcess, kind: str, at: str = "") -> None:
        """Resume a process without faults until it pauses before this kind of call; empty means to its end."""
        while not (self.next_step(process) == kind and (process.turn is None or process.turn.at.startswith(at))):
            assert self.next_step(process) not in {"", "POST"}
            self.end_tasks("success")
            process.resume()
            self.run_until_blocked()

    def run_alone(self, work: Any) -> None:
        """Run a new process to its end while all others are paused."""
        self.advance_to(self.start(work), "")

    def expire_lease(self) -> None:
        """Let the lease expire and reconcile run; the job is then unknown."""
        self.world.bucket.wait(LEASE + 1)
        self.run_alone(run_reconcile)
        assert self.state is JobState.UNKNOWN

    @property
    def state(self) -> JobState | None:
        """The job's state in the ledger."""
        record = self.world.record()
        return record.state if record else None

    def run_until_blocked(self) -> None:
        """Run until every process is paused."""
        self.loop.run_until_complete(self.world.run_until_blocked())

    def next_step(self, process: SimulatedProcess) -> str:
        """Return the kind of call that a process is paused before, or empty if it has ended."""
        return process.turn.kind if process.turn and not process.done else ""

    @rule(what=st.sampled_from(EVENTS), data=st.data())
    def something_happens(self, what: str, data: st.DataObject) -> None:
        """Draw the next event. One rule for all, since Hypothesis may disable rules, and most bugs need several."""
        getattr(self, what)(data)

    def process_starts(self, data: st.DataObject) -> None:
        """Start another run, reconcile, or `i2v jobs resolve`."""
        if len(self.world.alive) >= MOST_ALIVE:
            return
        who = data.draw(st.sampled_from(["run", "run", "run", "reconcile", "reconcile", "resubmit", "drop", "adopt"]))
        self.manual_actions |= {who} - {"run", "reconcile"}
        task_id = ""
        if who == "adopt":
            task_id = data.draw(st.sampled_from(["", *self.world.tasks])) or self.world.bill_early()
        self.start({"run": generate_video, "reconcile": run_reconcile}.get(who) or resolve_by_hand(who, task_id))

    def callback_arrives(self, data: st.DataObject) -> None:
        """Deliver a callback for a task that may or may not have ended."""
        if not self.world.attempt_of or len(self.world.alive) >= MOST_ALIVE:
            return
        task_id = data.draw(st.sampled_from(sorted(self.world.attempt_of)))
        self.end_tasks(data.draw(st.sampled_from(["", "success", "transient"])))
        self.start(settle_from_callback(self.world.attempt_of[task_id], task_id))

    def process_continues(self, data: st.DataObject) -> None:
        """Resume a process for some steps, at most to its next POST, without S3 faults; tasks may fail."""
        process = self.choose_process(data)
        for step in range(data.draw(st.integers(1, 12))):
            match self.next_step(process):
                case "":
                    return
                case "POST":
                    if step:
                        return
                    self.answer(process, "task")
                case "status":
                    self.end_tasks(data.draw(st.sampled_from(["", "success", "transient", *ENDS])))
                    process.resume()
                case _:
                    process.resume()
            self.run_until_blocked()

    def step_fails(self, data: st.DataObject) -> None:
        """Fail one S3 operation, status call or POST; a POST whose answer is lost may have been billed."""
        process = self.choose_process(data)
        match self.next_step(process):
            case "POST":
                kind = data.draw(st.sampled_from([*NO_TASK, "lost"]))
                self.answer(process, kind, billed=data.draw(st.booleans()))
            case "status":
                process.resume(BadAnswer("GET: 500", code="500"))
            case _:
                process.resume(data.draw(st.sampled_from(S3Fault)))
        self.run_until_blocked()

    def process_dies(self, data: st.DataObject) -> None:
        """Kill a process."""
        self.kill(self.choose_process(data), billed=data.draw(st.booleans()))

    def time_passes(self, data: st.DataObject) -> None:
        """Advance S3's clock, and apply a write that its process had given up if its condition still holds."""
        self.world.bucket.wait(data.draw(st.sampled_from([1, 100, LEASE + 1])))
        if self.world.late:
            self.world.apply_late_write()

    def choose_process(self, data: st.DataObject) -> SimulatedProcess:
        """Choose a living process; start a run if there is none."""
        if not self.world.alive:
            self.start(generate_video)
        return data.draw(st.sampled_from(self.world.alive))

    def answer(self, process: SimulatedProcess, kind: str, *, billed: bool = False) -> None:
        """Answer a POST."""
        if kind not in FREE:
            self.world.maybe_paid += 1
        if kind == "lost" and billed:
            self.world.bill(process)
        process.resume(self.world.bill_for(process) if kind == "task" else NO_TASK[kind])

    def end_tasks(self, end: str) -> None:
        """End all running tasks this way."""
        for status in self.world.tasks.values():
            if status["state"] == "processing" and end:
                status.update(ENDS[end])

    def check_put(self, uri: S3Uri, body: bytes) -> None:
        """Check each write of the job's record."""
        if uri == RECORD:
            self.check_write(JobRecord.model_validate_json(body))

    def check_write(self, new: JobRecord) -> None:
        """Check that a write is a legal transition, raises the revision and keeps every task id and stored video."""
        old, self.last = self.last, new
        if old is None:
            assert (new.state, new.revision) == (JobState.CLAIMED, 1)
            return
        assert new.state == old.state or new.state in DIAGRAM[old.state].split()
        assert (new.key, new.request) == (old.key, old.request)
        assert new.revision == old.revision + 1
        assert new.writer != old.writer
        assert new.last_attempt >= old.last_attempt
        assert task_ids(old) <= task_ids(new)
        if old.state is JobState.STORED:
            assert (new.video, new.task_id) == (old.video, old.task_id)
        if new.state is JobState.SUBMITTED:
            assert new.task_id
        if not self.manual_actions:
            for attempt in new.attempts:
                assert all(
                    self.world.attempt_of.get(task, attempt.number) == attempt.number for task in attempt.task_ids
                )
        self.count_allowed(old, new)

    def count_allowed(self, old: JobRecord, new: JobRecord) -> None:
        """Count what allows another payment: a manual resubmit or a transient failure."""
        if new.state is not JobState.READY or old.state in {JobState.READY, JobState.CLAIMED}:
            return
        if old.state is JobState.SUBMITTED:
            assert old.task_id
            assert self.world.tasks[old.task_id] == ENDS["transient"]
            self.world.allowed += 1
        elif len(new.attempts) == len(old.attempts):
            self.world.allowed += 1

    @invariant()
    def no_more_is_paid_than_allowed(self) -> None:
        """Payments stay within the record's attempts, the reservations and the cap."""
        record = self.world.record()
        if record:
            assert self.world.maybe_paid <= self.max_attempts + record.extra_attempts
        assert self.world.maybe_paid <= self.world.allowed
        assert self.world.reserved() >= self.world.maybe_paid * PRICE
        assert self.cap is None or max(self.world.days(), default=0) <= self.cap

    @invariant()
    def no_task_is_dropped(self) -> None:
        """Every task id that a process received is in the record by the time it ends."""
        for process in self.world.processes:
            if process.task.done() and not process.killed and process.received:
                record = self.world.record()
                assert record is not None
                assert set(process.received) <= task_ids(record)

    def teardown(self) -> None:
        """Let all processes finish, or kill them all, and then check that the job is settled or waits for a person."""
        try:
            if self.dice.random() < POWER_CUT:
                self.kill_all()
            self.settle_everything()
        finally:
            self.kill_all()

    def kill(self, process: SimulatedProcess, *, billed: bool = False) -> None:
        """Kill a process; a POST under way may have been billed."""
        if self.next_step(process) == "POST":
            self.world.maybe_paid += 1
            if billed:
                self.world.bill(process)
        process.kill()
        self.run_until_blocked()

    def kill_all(self) -> None:
        """Kill every living process."""
        for process in self.world.alive:
            self.kill(process)

    def settle_everything(self) -> None:
        """Finish all processes without faults, then deliver callbacks and reconcile until nothing changes."""
        self.run_all_to_end()
        self.deliver_callbacks()
        for _ in range(3):
            self.world.bucket.wait(LEASE + 1)
            self.start(run_reconcile)
            self.run_all_to_end()
        self.no_more_is_paid_than_allowed()
        self.no_task_is_dropped()
        record = self.world.record()
        if record is None:
            return
        assert record.state not in {JobState.CLAIMED, JobState.SUBMITTED}, f"{record.state} for ever"
        if record.state is JobState.UNKNOWN:
            assert self.open_markers(), "an unknown job without an open marker"
        if not self.manual_actions:
            self.check_nothing_is_thrown_away(record)

    def deliver_callbacks(self) -> None:
        """Deliver a callback for every task; afterwards no job is unknown if its attempt has a task."""
        for task_id, attempt in self.world.attempt_of.items() if self.world.delivery == "callback" else ():
            self.start(settle_from_callback(attempt, task_id))
            self.run_all_to_end()
        record = self.world.record()
        if record and record.attempt and record.state is JobState.UNKNOWN and self.world.delivery == "callback":
            assert record.attempt.number not in self.world.attempt_of.values()

    def check_nothing_is_thrown_away(self, record: JobRecord) -> None:
        """Check that, without manual actions, every video is stored and only transient failures are retried."""
        ended = {task: self.world.tasks[task] for task in task_ids(record)}
        if ENDS["success"] in ended.values():
            assert record.state is JobState.STORED
        if record.state is JobState.READY:
            assert all(end == ENDS["transient"] for end in ended.values())

    def open_markers(self) -> list[S3Uri]:
        """Return the open markers."""
        return [uri for uri in self.world.bucket.objects if "/open/" in uri.key]

    def run_all_to_end(self) -> None:
        """Run every process to its end."""
        for _ in range(400):
            if not self.world.alive:
                return
            self.end_tasks(self.dice.choice(["success", "success", *ENDS]))
            process = self.world.alive[0]
            if self.next_step(process) == "POST":
                self.answer(process, "task")
            else:
                process.resume()
            self.world.bucket.wait(2)
            self.run_until_blocked()
        raise AssertionError("a process does not end")


def task_ids(record: JobRecord) -> set[str]:
    """Return all task ids in a record."""
    return {task for attempt in record.attempts for task in attempt.task_ids}
