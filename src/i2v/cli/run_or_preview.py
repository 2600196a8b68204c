"""What `i2v run` does: preview the images with the library alone, or upload local ones and run the flow."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

from i2v.advised_commands import command
from i2v.cli.images.flow_parameter import within_limit, without_signed_urls
from i2v.cli.images.local_files import find_named_images
from i2v.cli.images.uploads import UploadCandidate, upload, validate
from i2v.cli.library_run import Ending, run_library
from i2v.cli.output.console import print_error, show_logs, stderr
from i2v.cli.output.report_table import no_valid_image, print_report
from i2v.cli.progress import Progress
from i2v.errors import ExitCode, I2vError, Stopped, UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RunOptions
from i2v.inputs.sources import FoundItems, find_items
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.video_order import Order
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.s3.storage import Storage
from i2v.settings import Settings

STILL_OPEN = "Submitted videos are charged. Rerun to resume them, at no extra charge. List them with:"
AWAITING_CALLBACK = (
    "Submitted videos are charged, and are stored when the provider calls back; if no callback comes, reconcile "
    "stores them. List them with:"
)


def preview_or_run(
    names: Sequence[str],
    default: RunOptions,
    settings: Settings,
    parameters: dict[str, Any],
    *,
    dry_run: bool,
    verbose: bool,
) -> Ending:
    """Preview the named images, or upload local ones and run the flow with these other parameters."""
    console = stderr()
    show_logs(console, verbose=verbose)
    try:
        with Progress(console) as progress:
            named = find_named_images(names, settings)
            local, refused = asyncio.run(validate(named.local, default, settings, progress))
            if dry_run:
                orders = [candidate.order(settings) for candidate in local]
                return _preview(named.remote, [*orders, *refused], default, settings, progress)
            rows = asyncio.run(_upload(local, settings, progress)) if local else []
            with without_signed_urls(named.remote) as remote:
                parameters = {
                    "images": [*remote, *rows],
                    **default.model_dump(exclude={"prompt_source", "extra"}),
                    **parameters,
                }
                ending = _run(parameters, progress, verbose=verbose) if remote or rows else Ending(Report())
    except UsageError:
        raise
    except I2vError as error:  # everything raised here happens before the first submit
        return Ending(Report(), Stopped(error.message, error.hint))
    items = (*ending.report.items, *refused)
    return replace(ending, report=ending.report.model_copy(update={"items": items}))


def _preview(
    remote: Sequence[str | BatchRow],
    local: Sequence[Order | ItemReport],
    default: RunOptions,
    settings: Settings,
    progress: Progress,
) -> Ending:
    """Validate and price all images with the library alone; no Prefect, no uploads, no charges."""

    async def work(run: RunContext) -> Report:
        items = await find_items(remote, run.storage, settings) if remote else FoundItems()
        report, _ = await generate(run, [*items, *local], default, Steps())
        return report.model_copy(update={"other_files": items.others})

    report, signal = run_library(work, settings, progress, name="estimate", dry_run=True)
    return Ending(report, signal=signal)


async def _upload(local: Sequence[UploadCandidate], settings: Settings, progress: Progress) -> list[str | BatchRow]:
    """Upload the images and return them as values of the flow's parameter."""
    with Storage() as storage:
        await upload(storage, local, progress)
        return await within_limit([candidate.row for candidate in local], storage, settings)


def _run(parameters: dict[str, Any], progress: Progress, *, verbose: bool) -> Ending:
    progress.doing("loading Prefect")
    with redirect_stdout(sys.stderr):
        from i2v.cli.prefect.flow_run import run_flow

        return run_flow(parameters, progress, verbose=verbose)


def finish(ending: Ending, settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """Print how the run ended and return the exit code."""
    report = ending.report
    if isinstance(ending.error, UsageError):
        raise ending.error
    console = stderr()
    if ending.url:
        console.print(f"In Prefect: {ending.url}", soft_wrap=True)
    print_report(report, settings, as_json=as_json)
    error = ending.error or (None if ending.signal else no_valid_image(report))
    if error:
        print_error(error)
    if report.count(Outcome.SUBMITTED):
        text = AWAITING_CALLBACK if report.awaits_callbacks else STILL_OPEN
        console.print(f"{text} {command('jobs', '--state', 'submitted')}", soft_wrap=True)
    if ending.signal:
        return 128 + ending.signal
    if error:
        return error.exit_code
    return ExitCode.OK if dry_run or report.succeeded else ExitCode.FAILED
