"""Run the library in this process, without Prefect."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeVar
from uuid import uuid4

from i2v.cli.output.progress import Progress
from i2v.cli.run_monitor import RunMonitor
from i2v.cli.signals import end_at_signals
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
    max_spend_usd: Decimal | None = None,
    dry_run: bool,
) -> tuple[T, int]:
    """Return the result of the work, and the number of the signal that interrupted it, 0 for none."""
    monitor = RunMonitor(progress)

    async def opened() -> T:
        LISTENER.set(monitor)
        async with open_run(settings, f"{name}-{uuid4()}", max_spend_usd=max_spend_usd, dry_run=dry_run) as run:
            return await work(run)

    result = asyncio.run(opened())
    end_at_signals("interrupted")
    return result, monitor.signal
