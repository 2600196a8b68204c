"""`i2v reconcile`: what was left behind is caught up with, by hand as by the deployments `reconcile` and `nightly`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from i2v.cli import options
from i2v.cli.jobs import moment
from i2v.errors import UsageError

if TYPE_CHECKING:
    from i2v.recovery.backfill import ReconcileResult
    from i2v.settings import Settings

EPILOG = """
[bold]Examples[/]

  i2v reconcile                                                   settle what is open; it never pays

  i2v reconcile --generate --since 2d --max-spend 5 --dry-run     name the images of two days that lack a video

  i2v reconcile --generate --since 2026-11-22 --max-spend 5 --prompt "slow push in"

[bold]Exit codes[/]: 0 all is well, or a dry run; 1 something failed or is unknown, or an image was not tried or is \
still open; 2 wrong usage or settings; 3 stopped before the first submit (budget, balance, ledger); 130 Ctrl-C.
"""


def reconcile(  # noqa: PLR0913 - a command's parameters are its options
    *,
    generate: Annotated[
        bool, typer.Option("--generate", help="Then make the videos that images lack; needs --since and --max-spend.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="D", show_default=False, help="Only images last written since: 2d, 12h or 2026-11-22 (UTC)."
        ),
    ] = None,
    max_spend: options.MaxSpend = None,
    prompt: options.Prompt = None,
    mode: options.ModeOption = options.Mode.STANDARD,
    duration: options.Duration = options.Seconds.SIX,
    limit: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Settle so many jobs and generate so many images at most, oldest first."),
    ] = 100,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Name what is open and what is missing, and change nothing.")
    ] = False,
    as_json: options.Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the steps log.")] = False,
) -> None:
    """Settle every open job whose run is gone: store its video, write down its end, or show it as unknown.

    With --generate also make the videos that are missing: of each image, newer than --since, that has no video,
    refusal or failure as it is now, and no open job. Images of the last two minutes are left to what watches the
    bucket. Without --generate it never pays. It is safe at any time, in any number, beside running flows.
    """
    from i2v.cli.library_run import run_library
    from i2v.cli.output.console import show_logs, stderr
    from i2v.cli.progress import Progress
    from i2v.recovery.backfill import backfill_options, reconcile_and_backfill
    from i2v.settings import read_settings

    _check_choices(generate=generate, since=since, max_spend=max_spend, prompt=prompt)
    settings = read_settings()
    default = options.asked(prompt, mode, duration, 1, settings)
    after = moment(since) if since else None
    wanted = backfill_options(settings, default, generate=generate, since=after, max_spend_usd=max_spend)
    console = stderr()
    show_logs(console, verbose=verbose)
    with Progress(console) as progress:
        ended, signal = run_library(
            lambda run: reconcile_and_backfill(run, wanted, limit=limit),
            settings,
            progress,
            name="reconcile",
            max_spend_usd=max_spend,
            dry_run=dry_run,
        )
    code = _finish(ended, settings, dry_run=dry_run, as_json=as_json)
    sys.exit(128 + signal if signal else code)


def _check_choices(*, generate: bool, **others: object) -> None:
    """Tell who forgot --generate, before it looks as if nothing were missing."""
    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if given and not generate:
        raise UsageError(f"{' and '.join(given)} say what is generated", "Add --generate, or leave them out")


def _finish(ended: ReconcileResult, settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """Say how it ended; the exit code."""
    from i2v.cli.output.report_table import print_report, tell
    from i2v.reports.run_report import Outcome

    if ended.stopped:
        tell(ended.stopped)
    if ended.report.items or as_json:
        print_report(ended.report, settings, as_json=as_json)
    else:
        sys.stdout.write(f"{ended.summary}\n")
    if ended.stopped:
        return ended.stopped.exit_code
    return 0 if dry_run or (ended.succeeded and not ended.settled.count(Outcome.UNKNOWN)) else 1
