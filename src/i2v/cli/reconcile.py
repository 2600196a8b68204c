"""`i2v reconcile`: settle open jobs and backfill missing videos, as the deployments `reconcile` and `nightly` do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from i2v.advised_commands import program
from i2v.cli import options
from i2v.cli.output.console import print_error, show_logs, stderr
from i2v.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from i2v.recovery.backfill import ReconcileResult
    from i2v.settings import Settings

EPILOG = f"""
\b
Examples:
{program()} reconcile    # settle open jobs; submits nothing
{program()} reconcile --generate --since 2d --max-spend 5 --dry-run
{program()} reconcile --generate --since 12h --max-spend 5 --prompt "wind"

{options.EXIT_CODES}
"""


def reconcile(  # noqa: PLR0913 - a command's parameters are its options
    *,
    generate: Annotated[
        bool, typer.Option("--generate", help="Also generate missing videos; requires --since and --max-spend.")
    ] = False,
    since: options.Since = None,
    max_spend: options.MaxSpend = None,
    prompt: options.Prompt = None,
    mode: options.ModeOption = "standard",
    duration: options.Duration = "6",
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Settle at most N jobs and generate at most N videos, oldest first.")
    ] = 100,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List open jobs and missing videos, and change nothing.")
    ] = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Settle the open jobs of runs that have ended.

    Each is polled: its video is stored, its failure is recorded, or it becomes unknown.

    With --generate, also generate missing videos: for each image written after
    --since that has no video, refusal, failure or open job in its current version.
    Images of the last two minutes are left to the bucket notifications.

    Without --generate, nothing is submitted. Safe to run at any time, even in parallel.
    """
    from i2v.cli.library_run import run_library
    from i2v.cli.output.progress import Progress
    from i2v.recovery.backfill import backfill_options, reconcile_and_backfill
    from i2v.settings import read_settings

    _require_generate(generate=generate, since=since, max_spend=max_spend, prompt=prompt)
    settings = read_settings()
    default = options.run_options(settings, prompt=prompt, mode=mode, duration=duration)
    backfill = backfill_options(settings, default, generate=generate, since=since, max_spend_usd=max_spend)
    console = stderr()
    show_logs(console, verbose=verbose)
    with Progress(console) as progress:
        result, signal = run_library(
            lambda run: reconcile_and_backfill(run, backfill, limit=limit),
            settings,
            progress,
            name="reconcile",
            max_spend_usd=max_spend,
            dry_run=dry_run,
        )
    code = _finish(result, settings, dry_run=dry_run, as_json=as_json)
    sys.exit(128 + signal if signal else code)


def _require_generate(*, generate: bool, **others: object) -> None:
    """Raise `UsageError` if options that need --generate are used without it."""
    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if given and not generate:
        raise UsageError(f"{' and '.join(given)} can only be used with --generate", "Add --generate, or leave them out")


def _finish(result: ReconcileResult, settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """Print the result and return the exit code."""
    from i2v.cli.output.report_table import print_report
    from i2v.reports.run_report import Outcome

    if result.stopped:
        print_error(result.stopped)
    if result.report.items or as_json:
        print_report(result.report, settings, as_json=as_json)
    else:
        sys.stdout.write(f"{result.summary}\n")
    if result.stopped:
        return result.stopped.exit_code
    is_ok = dry_run or (result.succeeded and not result.settled.count(Outcome.UNKNOWN))
    return ExitCode.OK if is_ok else ExitCode.FAILED
