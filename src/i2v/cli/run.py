"""`i2v run`: upload local images, then generate videos with the flow in this process."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from i2v.cli import options
from i2v.errors import ExitCode, I2vError, Stopped, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from i2v.cli.flow_run import Ending
    from i2v.cli.images.local_files import NamedImages
    from i2v.cli.images.uploads import UploadCandidate
    from i2v.cli.progress import Progress
    from i2v.inputs.batch_files import BatchRow
    from i2v.inputs.prompts import RequestOptions
    from i2v.settings import Settings

EPILOG = f"""
[bold]What it costs[/]: standard $0.192 for 6 s and $0.320 for 10 s, pro $0.33. Existing videos and refused images \
cost nothing. Try --dry-run first.

[bold]Examples[/]

  i2v run s3://my-bucket/images/ --prompt "slow push in" --max-spend 5

  i2v run photos/ --prompt "a breeze moves {{stem}}" --dry-run

  i2v run wishes.csv --json > report.json

{options.EXIT_CODES}
"""
STILL_OPEN = "Rerun to resume the open jobs; they are not charged again. See: i2v jobs"
AWAITING_CALLBACK = (
    "Submitted videos are charged, and stored when the provider calls back; if no callback comes, reconcile stores "
    "them. See: i2v jobs"
)


def run(  # noqa: PLR0913 - a command's parameters are its options
    images: options.Images,
    *,
    prompt: options.Prompt = None,
    mode: options.ModeOption = "standard",
    duration: options.Duration = "6",
    take: options.Take = 1,
    max_spend: options.MaxSpend = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Spend up to the limit, instead of not starting if it is too low.")
    ] = False,
    delivery: Annotated[
        Literal["poll", "callback"],
        typer.Option(help="poll: wait for the videos; callback: end after submitting, the provider calls the door."),
    ] = "poll",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and price the images; no charges, no uploads.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Purpose of the run, for the ledger and the manifests.")
    ] = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Generate a video of each image and store it in the bucket. No video is charged twice.

    Local files are uploaded under the images prefix first; existing objects are never overwritten.
    Without PREFECT_API_URL, Prefect runs inside this command; with it, the run appears in your Prefect UI.
    Ctrl-C stops cleanly and lists what is still open.
    """
    from i2v.cli.flow_run import Ending
    from i2v.cli.images.local_files import find
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
    default = options.request_options(prompt, mode, duration, take, settings)
    console = stderr()
    show_logs(console, verbose=verbose)
    parameters = {
        "prompt": prompt,
        "mode": mode,
        "duration": int(duration),
        "take": take,
        "max_spend_usd": max_spend,
        "partial": partial,
        "delivery": delivery,
        "label": label,
    }
    try:
        with Progress(console) as progress:
            named = find(images, settings)
            if dry_run:
                ending = _preview(named, default, settings, progress)
            else:
                ending = _run(named, default, settings, parameters, progress, verbose=verbose)
    except UsageError:
        raise
    except I2vError as error:  # everything raised here happens before the first submit
        ending = Ending(Report(), Stopped(error.message, error.hint))
    sys.exit(_finish(ending, settings, dry_run=dry_run, as_json=as_json))


def _preview(named: NamedImages, default: RequestOptions, settings: Settings, progress: Progress) -> Ending:
    """Validate and price all images with the library alone; no Prefect, no uploads, no charges."""
    from i2v.cli.flow_run import Ending
    from i2v.cli.images.uploads import validate
    from i2v.cli.library_run import run_library
    from i2v.inputs.sources import find_items
    from i2v.pipeline.context import RunContext
    from i2v.pipeline.generate import Steps, generate
    from i2v.reports.run_report import Report

    local, refused = asyncio.run(validate(named.local, default, settings, progress))
    orders = [candidate.order(settings) for candidate in local]

    async def work(run: RunContext) -> Report:
        remote = await find_items(named.remote, run.storage, settings) if named.remote else []
        report, _ = await generate(run, [*remote, *orders, *refused], default, Steps())
        return report

    report, signal = run_library(work, settings, progress, name="estimate", max_spend_usd=None, dry_run=True)
    return Ending(report, signal=signal)


def _run(
    named: NamedImages,
    default: RequestOptions,
    settings: Settings,
    parameters: dict[str, Any],
    progress: Progress,
    *,
    verbose: bool,
) -> Ending:
    """Upload the valid local images, then run the flow, unless no image is left for it."""
    from i2v.cli.flow_run import Ending, run_flow
    from i2v.cli.images.flow_parameter import without_signed_urls
    from i2v.cli.images.uploads import validate
    from i2v.reports.run_report import Report

    local, refused = asyncio.run(validate(named.local, default, settings, progress))
    rows = asyncio.run(_upload(local, settings, progress)) if local else []
    with without_signed_urls(named.remote) as remote:
        images = [*remote, *rows]
        if not images:
            return Ending(Report(items=tuple(refused)))
        ending = run_flow({"images": images, **parameters}, progress, verbose=verbose)
    report = ending.report or Report()
    return replace(ending, report=report.model_copy(update={"items": (*report.items, *refused)}))


async def _upload(local: Sequence[UploadCandidate], settings: Settings, progress: Progress) -> list[str | BatchRow]:
    """Upload the images and return them as values of the flow's parameter."""
    from i2v.cli.images.flow_parameter import within_limit
    from i2v.cli.images.uploads import upload
    from i2v.s3.storage import Storage

    with Storage() as storage:
        await upload(storage, local, progress)
        return await within_limit([candidate.row for candidate in local], storage, settings)


def _finish(ending: Ending, settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """Print how the run ended and return the exit code."""
    from i2v.cli.output.console import print_error, stderr
    from i2v.cli.output.report_table import no_valid_image, print_report
    from i2v.reports.run_report import Outcome

    if isinstance(ending.error, UsageError):
        raise ending.error
    assert ending.report is not None  # noqa: S101 - for the type checker: a run always has a report
    console = stderr()
    if ending.address:
        console.print(f"In Prefect: {ending.address}", soft_wrap=True)
    print_report(ending.report, settings, as_json=as_json)
    error = ending.error or (None if ending.signal else no_valid_image(ending.report))
    if error:
        print_error(error)
    if ending.report.count(Outcome.SUBMITTED):
        console.print(AWAITING_CALLBACK if ending.report.awaits_callbacks else STILL_OPEN, soft_wrap=True)
    if ending.signal:
        return 128 + ending.signal
    if error:
        return error.exit_code
    return ExitCode.OK if dry_run or ending.report.succeeded else ExitCode.FAILED
