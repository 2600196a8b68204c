"""Keep the runs of a batch's shards going: start them, at most so many at once, until each has ended: `Supervisor`.

A run that crashed, or that the end of its worker interrupted, is started again a few times: its shard keeps its name in
the ledger, so the next run attaches to what the last one paid. `ShardRuns` is what starts, reads and cancels runs.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from i2v.batches.worker_wait import WorkerWait
from i2v.errors import I2vError
from i2v.ledger.attempt import Reason
from i2v.pipeline.submit_brake import LIMIT

log = logging.getLogger(__name__)
MAX_ATTEMPTS = 3
"""How often the run of a shard is started if it crashes."""
CANCEL_SECONDS = 12.0
"""How long a cancelled batch waits for its shards: Prefect kills it 30 s after SIGTERM."""
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.5, 10.0


class ShardState(StrEnum):
    """What Prefect says of a shard's run."""

    WAITING = "waiting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"
    """Completed or Failed, both with a report."""
    CANCELLED = "cancelled"
    CRASHED = "crashed"

    @property
    def is_final(self) -> bool:
        """Whether the run does nothing more."""
        return self not in {ShardState.WAITING, ShardState.RUNNING, ShardState.CANCELLING}


@dataclass(frozen=True, slots=True)
class ShardRun:
    """The newest run of a shard: its id in Prefect, and which attempt it is."""

    number: int
    attempt: int
    id: str
    state: ShardState
    state_name: str = ""
    message: str = ""
    url: str | None = None


class ShardRuns(Protocol):
    """The runs in Prefect. Raise an `I2vError` that is retryable if it does not respond."""

    async def find(self, numbers: Sequence[int]) -> list[ShardRun]:
        """Return the newest existing run of each of these shards."""

    async def start(self, number: int, attempt: int) -> ShardRun:
        """Start a run, or return the one that this attempt has already started."""

    async def read(self, runs: Sequence[ShardRun]) -> list[ShardRun]:
        """Return the runs as they are now, with one request for many."""

    async def cancel(self, runs: Sequence[ShardRun]) -> None:
        """Cancel runs."""


class Supervisor:
    """Starts the runs of shards 1 to `shards` in order, at most `max_parallel` at once.

    `on_end` is awaited when a shard's run has ended, and returns whether it has reported and nothing interrupted it.
    `why_stop` returns why no further shard should start; if that is a limit, a crashed run's reservation may come back
    within `reserved_seconds`. `sleep` waits, and returns early once `is_cancelled`.
    """

    def __init__(
        self,
        runs: ShardRuns,
        shards: int,
        max_parallel: int,
        *,
        on_end: Callable[[int], Awaitable[bool]],
        why_stop: Callable[[], Awaitable[Reason | None]],
        reserved_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.newest: dict[int, ShardRun] = {}
        """The newest run of each shard that has one."""
        self._runs = runs
        self._shards = shards
        self._max_parallel = max_parallel
        self.left_by: Reason | None = None
        """Why no further shard was started."""
        self._on_end = on_end
        self._why_stop = why_stop
        self._reserved_seconds = reserved_seconds
        self._crashed_at = float("-inf")
        self._sleep = sleep
        self._is_cancelled = is_cancelled
        self._to_start = dict.fromkeys(range(1, shards + 1), 1)
        """The next attempt of each shard that has no run."""
        self._open: set[int] = set()
        self._unanswered: dict[int, int] = {}
        """Attempts of shards that Prefect may have started or may yet start: the answer to the request was lost."""
        self.worker_wait = WorkerWait()

    async def find_earlier(self) -> None:
        """Find the runs that an earlier try of this batch started."""
        while not (await self._try(self._find(range(1, self._shards + 1))) or self._is_cancelled()):
            await self._sleep(FIRST_POLL_SECONDS)

    async def _find(self, numbers: Sequence[int]) -> bool:
        for run in await self._runs.find(numbers):
            if run != self.newest.get(run.number):
                await self._note(run)
        return True

    async def run_all(self) -> None:
        """Run all shards to their ends, or until the batch is cancelled; then cancel what is open."""
        pause = FIRST_POLL_SECONDS
        while (self._to_start or self._open) and not self._is_cancelled():
            changed = await self._try(self._start_more())
            changed = await self._try(self._update()) or changed
            if self.worker_wait.update(is_waiting=self._awaits_worker):
                log.warning("%s", str(self.worker_wait))
            pause = FIRST_POLL_SECONDS if changed else min(pause * 1.5, LAST_POLL_SECONDS)
            if self._to_start or self._open:
                await self._sleep(pause)
        if self._open or self._unanswered:
            await self._cancel_open()

    @property
    def open_runs(self) -> list[ShardRun]:
        """The runs that have not ended."""
        return [self.newest[number] for number in sorted(self._open)]

    @property
    def _awaits_worker(self) -> bool:
        return bool(self._open) and all(run.state is ShardState.WAITING for run in self.open_runs)

    async def _start_more(self) -> bool:
        started = False
        while self._to_start and len(self._open) < self._max_parallel and not self._is_cancelled():
            if reason := await self._why_stop():
                self._leave_the_rest(reason)
                return started
            number, attempt = next(iter(self._to_start.items()))
            self._unanswered[number] = attempt
            await self._note(await self._runs.start(number, attempt))
            started = True
        return started

    def _leave_the_rest(self, reason: Reason) -> None:
        """Start no further shard, unless one that is open or has just crashed may give something back."""
        may_change = self._open or time.monotonic() - self._crashed_at <= self._reserved_seconds
        if reason.code == LIMIT and may_change:
            return
        log.warning("%d shards are not started: %s", len(self._to_start), reason.message)
        self.left_by = reason
        self._to_start.clear()

    async def _update(self) -> bool:
        before = self.open_runs
        after = await self._runs.read(before) if before else []
        for run in after:
            await self._note(run)
        return before != after

    async def _note(self, run: ShardRun) -> None:
        """Keep the newest run of a shard, and decide whether its shard has ended."""
        self.newest[run.number] = run
        self._to_start.pop(run.number, None)
        if run.attempt >= self._unanswered.get(run.number, 0):
            self._unanswered.pop(run.number, None)
        if not run.state.is_final:
            self._open.add(run.number)
            return
        self._open.discard(run.number)
        if run.state is ShardState.CRASHED:
            self._crashed_at = time.monotonic()
        is_done = await self._on_end(run.number)
        if run.state is ShardState.CRASHED and run.attempt < MAX_ATTEMPTS and not is_done:
            log.warning("shard %d crashed and is started again: %s", run.number, run.message)
            self._to_start = {run.number: run.attempt + 1, **self._to_start}

    async def _try(self, step: Awaitable[bool]) -> bool:
        """Await a step; one that fails because Prefect does not respond is repeated later.

        Raise another error only before the first run was started: later, wait for those that were.
        """
        try:
            return await step
        except I2vError as error:
            if not (error.retryable or self.newest):
                raise
            log.warning("%s", error)
            if not error.retryable:
                self._to_start.clear()
            return False

    async def _cancel_open(self) -> None:
        """Cancel what is open until Prefect says so.

        Until time is up, look for runs whose start was not answered: a busy server may start one late.
        """
        deadline = time.monotonic() + CANCEL_SECONDS
        self._to_start.clear()
        while (self._open or self._unanswered) and time.monotonic() < deadline:
            await self._try(self._cancel())
            await asyncio.sleep(FIRST_POLL_SECONDS)
            await self._try(self._update())
            if self._unanswered:
                await self._try(self._find(sorted(self._unanswered)))
        self._to_start.clear()

    async def _cancel(self) -> bool:
        await self._runs.cancel([run for run in self.open_runs if run.state is not ShardState.CANCELLING])
        return True
