"""Runs of a batch's shards in this process, without Prefect: `LocalShards`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from i2v.batches.plan import BatchPlan
from i2v.batches.shard_runs import ShardRun, ShardState
from i2v.inputs.prompts import RunOptions
from i2v.inputs.sources import find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.run import open_run
from i2v.settings import Settings

DEFAULT = RunOptions(prompt="it moves", duration=6, take=1)


@dataclass
class LocalShards:
    """Each run is an asyncio task.

    By shard and attempt, `crashes` tells when to end one as if it were killed, and `terminations` when to end it as
    SIGTERM does, which Prefect also calls a crash.
    """

    plan: BatchPlan
    settings: Settings
    max_spend_usd: Decimal | None = None
    crashes: dict[tuple[int, int], Callable[[], bool]] = field(default_factory=dict)
    terminations: dict[tuple[int, int], Callable[[], bool]] = field(default_factory=dict)
    tasks: dict[tuple[int, int], asyncio.Task[None]] = field(default_factory=dict)
    crashed: set[tuple[int, int]] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)

    async def find(self, numbers: Sequence[int]) -> list[ShardRun]:
        """Return the newest run of each shard."""
        newest = dict(sorted(self.tasks))
        return [self._run(number, newest[number]) for number in numbers if number in newest]

    async def start(self, number: int, attempt: int) -> ShardRun:
        """Start a run once."""
        if (number, attempt) not in self.tasks:
            self.tasks[number, attempt] = asyncio.create_task(self._generate(number, attempt))
        return self._run(number, attempt)

    async def read(self, runs: Sequence[ShardRun]) -> list[ShardRun]:
        """Return the runs as they are now."""
        return [self._run(run.number, run.attempt) for run in runs]

    async def cancel(self, runs: Sequence[ShardRun]) -> None:
        """Let the runs end as SIGTERM does."""
        self.cancelled |= {run.number for run in runs}

    def _run(self, number: int, attempt: int) -> ShardRun:
        state = ShardState.RUNNING
        if self.tasks[number, attempt].done():
            state = ShardState.CRASHED if (number, attempt) in self.crashed else ShardState.ENDED
        return ShardRun(number, attempt, f"{number}-{attempt}", state, state.value.title())

    async def _generate(self, number: int, attempt: int) -> None:
        shard = self.plan.shard(number)
        opened = open_run(self.settings, shard, max_spend_usd=self.max_spend_usd, batch=self.plan.run_id)
        async with opened as run, self._watched(run, number, attempt):
            items = await find_items(str(self.plan.rows_uri(self.settings, number)), run.storage, self.settings)
            await generate(run, items, DEFAULT, Steps(), partial=True)

    @asynccontextmanager
    async def _watched(self, run: RunContext, number: int, attempt: int) -> AsyncIterator[None]:
        """Crash or interrupt the run when its time has come."""
        task = asyncio.current_task()

        async def watch() -> None:
            while task:
                if number in self.cancelled:
                    run.brake.interrupt()
                if self.terminations.get((number, attempt), bool)():
                    self.crashed.add((number, attempt))
                    run.brake.interrupt()
                if self.crashes.get((number, attempt), bool)():
                    self.crashed.add((number, attempt))
                    task.cancel()
                    return
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
