"""`i2v reconcile`: what a run that is gone left open is settled, by hand; the deployment `reconcile` does the same."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from i2v.cli import options

if TYPE_CHECKING:
    from i2v.cli.progress import Progress
    from i2v.report import Report
    from i2v.settings import Settings


def reconcile(
    *,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Settle so many jobs at most, the oldest first.")
    ] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name what is open, and change nothing.")] = False,
    as_json: options.Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the steps log.")] = False,
) -> None:
    """Settle every open job whose run is gone: store its video, write down its end, or show it as unknown.

    It never pays, and is safe at any time, in any number, beside running flows. Exit code 1 where a job failed, could
    not be settled, or is unknown and waits for you: i2v jobs resolve.
    """
    from i2v.cli.console import show_logs, stderr
    from i2v.cli.progress import Progress
    from i2v.cli.show import print_report
    from i2v.report import Outcome
    from i2v.settings import read_settings

    settings = read_settings()
    console = stderr()
    show_logs(console, verbose=verbose)
    with Progress(console) as progress:
        report = asyncio.run(_reconcile(settings, progress, limit=limit, dry_run=dry_run))
    if not report.items and not as_json:
        sys.stdout.write("nothing is open\n")
        return
    print_report(report, settings, as_json=as_json)
    if report.count(Outcome.FAILED) or report.count(Outcome.UNKNOWN):
        raise typer.Exit(1)


async def _reconcile(settings: Settings, progress: Progress, *, limit: int, dry_run: bool) -> Report:
    from uuid import uuid4

    from i2v import reconcile as library
    from i2v.runs import WATCHER, open_run

    WATCHER.set(progress)
    async with open_run(settings, f"reconcile-{uuid4()}", dry_run=dry_run) as run:
        return await library.reconcile(run, limit=limit)
