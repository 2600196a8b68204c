"""`i2v run`: images become videos, by the flow in this process."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from i2v.cli import options
from i2v.errors import I2vError, Stopped, UsageError

if TYPE_CHECKING:
    from i2v.cli.flow_run import Ending
    from i2v.cli.local.files import Named
    from i2v.cli.local.uploads import UploadCandidate
    from i2v.cli.progress import Progress
    from i2v.inputs.prompts import RequestOptions
    from i2v.settings import Settings

EPILOG = """
[bold]What it costs[/]: standard $0.192 for 6 s and $0.320 for 10 s, pro $0.33. What is already there, or is refused, \
costs nothing; try --dry-run first.

[bold]Examples[/]

  i2v run s3://my-bucket/images/ --prompt "slow push in" --max-spend 5

  i2v run photos/ --prompt "a breeze moves {stem}" --dry-run

  i2v run wishes.csv --json > report.json

[bold]Exit codes[/]: 0 all stored, cached, refused or awaited by callback, or a dry run; 1 something failed, is \
unknown, was not tried or is still open; 2 wrong usage or settings; \
3 stopped before the first submit (budget, balance, ledger, no valid image); \
130 Ctrl-C.
"""
PARAMETERS_MAX_BYTES = 200_000
"""Prefect takes 512 KB of parameters; rows beyond this go into a manifest."""
STILL_OPEN = "Run the same again to take up what is still open: it is paid, and is not paid twice. See: i2v jobs"
AWAITED = (
    "What is submitted is paid and awaited by callback: it is stored when the provider calls the door, or, where no "
    "call comes, by reconcile. See: i2v jobs"
)


def run(  # noqa: PLR0913 - a command's parameters are its options
    images: options.Images,
    *,
    prompt: options.Prompt = None,
    mode: options.ModeOption = options.Mode.STANDARD,
    duration: options.Duration = options.Seconds.SIX,
    take: options.Take = 1,
    max_spend: options.MaxSpend = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Go as far as the money goes, instead of not starting.")
    ] = False,
    delivery: Annotated[
        Literal["poll", "callback"], typer.Option(help="callback: submit and end; the provider calls the door.")
    ] = "poll",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and price everything; pay and put nothing.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Names the purpose in ledger and manifests.")
    ] = None,
    as_json: options.Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what Prefect and the steps log.")] = False,
) -> None:
    """Make a video of each image and store it beside; nothing is ever paid twice.

    Local files are put under the images prefix first; an image that is there already is never overwritten.
    Without PREFECT_API_URL Prefect runs inside this command; with it the run is seen in your Prefect UI.
    Ctrl-C ends cleanly and says what is still open.
    """
    from i2v.cli.flow_run import Ending
    from i2v.cli.local import files
    from i2v.cli.output.console import show_logs, stderr
    from i2v.cli.progress import Progress
    from i2v.pipeline.preflight import check_delivery
    from i2v.reports.run_report import Report
    from i2v.settings import read_settings

    settings = read_settings()
    settings.require_bucket()
    asyncio.run(check_delivery(delivery, settings))
    if not dry_run and not settings.key_block:
        settings.require_key()
    default = options.asked(prompt, mode, duration, take, settings)
    console = stderr()
    show_logs(console, verbose=verbose)
    choices = {
        "prompt": prompt,
        "mode": mode.value,
        "duration": int(duration),
        "take": take,
        "max_spend_usd": max_spend,
        "partial": partial,
        "delivery": delivery,
        "dry_run": dry_run,
        "label": label,
    }
    try:
        with Progress(console) as progress:
            ending = _run(files.find(images, settings), default, settings, choices, progress, verbose=verbose)
    except UsageError:
        raise
    except I2vError as error:  # all that is raised here comes before the first submit
        ending = Ending(Report(), Stopped(error.message, error.hint))
    sys.exit(_finish(ending, settings, dry_run=dry_run, as_json=as_json))


def _run(
    named: Named,
    default: RequestOptions,
    settings: Settings,
    choices: dict[str, Any],
    progress: Progress,
    *,
    verbose: bool,
) -> Ending:
    """Local images first, then the flow with all that it can take up; no flow where nothing is left for one."""
    from i2v.cli.estimate import preview
    from i2v.cli.flow_run import Ending, run_flow
    from i2v.cli.local.remote_images import bring_local, hidden_queries
    from i2v.reports.run_report import Report

    dry_run = choices["dry_run"]
    goods, told = asyncio.run(bring_local(named.local, default, settings, progress, put=not dry_run))
    if dry_run and goods:
        told += asyncio.run(preview(settings, (), goods, default, progress)).items
    with hidden_queries(named.remote) as remote:
        images = [*remote, *([] if dry_run else _images(goods, settings))]
        if not images:
            return Ending(Report(items=tuple(told)))
        ending = run_flow({"images": images, **choices}, progress, verbose=verbose)
    report = ending.report or Report()
    return replace(ending, report=report.model_copy(update={"items": (*report.items, *told)}))


def _images(goods: list[UploadCandidate], settings: Settings) -> list[Any]:
    """Local images as the flow takes them; more than Prefect takes as a parameter go into a manifest."""
    from i2v.cli.local.uploads import keep_rows
    from i2v.s3.storage import Storage

    rows = [good.row for good in goods]
    if sum(len(row.model_dump_json()) for row in rows) <= PARAMETERS_MAX_BYTES:
        return list(rows)
    with Storage() as storage:
        return [asyncio.run(keep_rows(storage, settings, rows))]


def _finish(ending: Ending, settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """Say how it ended; the exit code."""
    from i2v.cli.output.console import stderr
    from i2v.cli.output.report_table import print_report, tell, tell_nothing_valid
    from i2v.reports.run_report import Outcome

    if isinstance(ending.error, UsageError):
        raise ending.error
    assert ending.report is not None  # noqa: S101 - for the type checker: `_run` always gives one
    console = stderr()
    if ending.address:
        console.print(f"In Prefect: {ending.address}", soft_wrap=True)
    if ending.error:
        tell(ending.error)
    print_report(ending.report, settings, as_json=as_json)
    if ending.report.count(Outcome.SUBMITTED):
        console.print(AWAITED if ending.report.awaits_callbacks else STILL_OPEN, soft_wrap=True)
    if ending.signal:
        return 128 + ending.signal
    if ending.error:
        return ending.error.exit_code
    if code := tell_nothing_valid(ending.report):
        return code
    return 0 if dry_run or ending.report.succeeded else 1
