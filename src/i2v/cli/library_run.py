"""A run of the library in this process, without Prefect: ended cleanly at a Ctrl-C, as the flow is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeVar
from uuid import uuid4

from i2v.cli import end_at_signals, flow_run
from i2v.cli.progress import Progress
from i2v.pipeline.run import WATCHER, Run, open_run
from i2v.reports.run_report import Report
from i2v.settings import Settings

T = TypeVar("T")


class Watch(flow_run.Watch):
    """Follows a run of which Prefect knows nothing."""

    def ended(self, report: Report) -> None:
        """Keep the report."""
        self.report = report
        self._progress.ended(report)


def run_library(
    work: Callable[[Run], Awaitable[T]],
    settings: Settings,
    progress: Progress,
    *,
    name: str,
    max_spend_usd: Decimal | None,
    dry_run: bool,
) -> tuple[T, int]:
    """What the work gave, and the number of the signal that interrupted it, 0 for none.

    Raises:
        I2vError: what the work, or opening the run, raised.
    """
    watch = Watch(progress)

    async def opened() -> T:
        WATCHER.set(watch)
        run_id = f"{name}-{uuid4()}"
        async with open_run(settings, run_id, max_spend_usd=max_spend_usd, dry_run=dry_run) as run:
            return await work(run)

    given = asyncio.run(opened())
    end_at_signals("interrupted")
    return given, watch.signal
