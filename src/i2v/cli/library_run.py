"""Run the library in this process, without Prefect. Ctrl-C ends it cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeVar
from uuid import uuid4

from i2v.cli import end_at_signals
from i2v.cli.flow_run import RunMonitor
from i2v.cli.progress import Progress
from i2v.pipeline.context import RunContext
from i2v.pipeline.events import LISTENER
from i2v.pipeline.run import open_run
from i2v.settings import Settings

T = TypeVar("T")


def run_library(
    work: Callable[[RunContext], Awaitable[T]],
    settings: Settings,
    progress: Progress,
    *,
    name: str,
    max_spend_usd: Decimal | None,
    dry_run: bool,
) -> tuple[T, int]:
    """Return the result of the work, and the number of the signal that interrupted it, 0 for none."""
    monitor = RunMonitor(progress)

    async def opened() -> T:
        LISTENER.set(monitor)
        run_id = f"{name}-{uuid4()}"
        async with open_run(settings, run_id, max_spend_usd=max_spend_usd, dry_run=dry_run) as run:
            return await work(run)

    result = asyncio.run(opened())
    end_at_signals("interrupted")
    return result, monitor.signal
