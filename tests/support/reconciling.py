"""Reconcile without generating anything: `reconcile`."""

from __future__ import annotations

from collections.abc import Sequence

from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps
from i2v.recovery.backfill import reconcile_and_backfill
from i2v.reports.run_report import Report


async def reconcile(
    run: RunContext, *, entries: Sequence[str] | None = None, limit: int = 100, steps: Steps | None = None
) -> Report:
    """Settle open jobs, end the run, and return the report."""
    return (await reconcile_and_backfill(run, entries=entries, limit=limit, steps=steps)).settled
