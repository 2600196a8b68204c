"""What `i2v run` does: preview the images with the library alone, or upload local ones and run the flow."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

from i2v.advised_commands import command
from i2v.cli.images.flow_parameter import in_bucket, within_limit, without_signed_urls
from i2v.cli.images.local_files import NamedImages, find_named_images
from i2v.cli.images.uploads import UploadCandidate, upload, validate
from i2v.cli.images.validate_ahead import ValidatedAhead
from i2v.cli.library_run import run_library
from i2v.cli.output.console import print_error, print_json, show_logs, stderr
from i2v.cli.output.progress import Progress
from i2v.cli.output.report_table import no_valid_image, print_report
from i2v.cli.prefect.embedded_server import EmbeddedServer
from i2v.cli.run_monitor import Ending
from i2v.errors import BadRows, ExitCode, I2vError, Stopped, UsageError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RunOptions
from i2v.inputs.sources import FoundItems, find_items
from i2v.media.decoder import DECODER
from i2v.pipeline.context import RunContext
from i2v.pipeline.generate import Steps, generate
from i2v.pipeline.video_order import Order
from i2v.reports.limit_usage import read_usage
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.s3.storage import Storage
from i2v.settings import Settings

Upload = Callable[[], Coroutine[Any, Any, Sequence[str | BatchRow]]]
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
    batch: bool = False,
    embedded: EmbeddedServer | None = None,
) -> Ending:
    """Preview the named images, or upload local ones and run the flow, or a batch, with these other parameters.

    `embedded` is the server of the flow run if the environment names none.
    """
    console = stderr()
    show_logs(console, verbose=verbose)
    try:
        with Progress(console) as progress:
            skip_bad_rows = parameters["skip_bad_rows"]
            named = find_named_images(names, settings, skip_bad_rows=skip_bad_rows)
            if not batch:
                DECODER.start()
            local, refused = asyncio.run(validate(named.local, default, settings, progress))
            if dry_run:
                orders = [candidate.order(settings) for candidate in local]
                ordered: list[Order | ItemReport] = [*orders, *refused]
                return _preview(named, ordered, default, settings, progress, parameters["label"], skip_bad_rows)
            parameters = default.model_dump(exclude={"prompt_source", "extra"}) | parameters
            with nullcontext(named.remote) if batch else without_signed_urls(named.remote) as remote:
                upload = partial(_upload, local, remote, settings, progress)
                if not local and not remote:
                    ending = Ending(Report())
                elif batch:
                    ending = _run_batch(asyncio.run(upload()), parameters, settings, progress)
                else:
                    ahead = ValidatedAhead(remote, default, settings, progress, skip_bad_rows=skip_bad_rows)
                    ending = _run(parameters, upload, ahead, embedded, progress, verbose=verbose)
    except UsageError:
        raise
    except I2vError as error:  # everything raised here happens before the first submit
        return Ending(Report(), Stopped(error.message, error.hint))
    more = {"items": (*ending.report.items, *refused), "bad_rows": (*named.bad_rows, *ending.report.bad_rows)}
    return replace(ending, report=ending.report.model_copy(update=more))


@contextmanager
def bad_rows_in_json(*, as_json: bool) -> Iterator[None]:
    """Print all bad rows of a batch file on stdout before their error is raised, as the report of a run has them."""
    try:
        yield
    except BadRows as error:
        if as_json:
            print_json(Report(bad_rows=error.rows).for_json())
        raise


def _preview(
    named: NamedImages,
    local: Sequence[Order | ItemReport],
    default: RunOptions,
    settings: Settings,
    progress: Progress,
    label: str | None,
    skip_bad_rows: bool,
) -> Ending:
    """Validate and price all images with the library alone; no Prefect, no uploads, no charges."""

    async def work(run: RunContext) -> Report:
        items = FoundItems()
        if named.remote:
            items = await find_items(named.remote, run.storage, settings, skip_bad_rows=skip_bad_rows)
        report, _ = await generate(run, [*items, *local], default, Steps())
        bad_rows = (*named.bad_rows, *items.bad_rows)
        usages = await read_usage(run.storage, settings)
        limits = tuple(usage for usage in usages if usage.limit.covers(label or ""))
        return report.model_copy(update={"other_files": items.others, "bad_rows": bad_rows, "limits": limits})

    report, signal = run_library(work, settings, progress, name="estimate", dry_run=True)
    return Ending(report, signal=signal)


async def _upload(
    local: Sequence[UploadCandidate], remote: Sequence[str | BatchRow], settings: Settings, progress: Progress
) -> list[str | BatchRow]:
    """Upload the local images and return all as values of the flow's parameter."""
    rows = [image for image in remote if isinstance(image, BatchRow)] + [candidate.row for candidate in local]
    names = [image for image in remote if isinstance(image, str)]
    if not rows:
        return list(names)
    with Storage() as storage:
        await upload(storage, local, progress)
        return [*names, *await within_limit(rows, storage, settings)]


def _run(
    parameters: dict[str, Any],
    upload: Upload,
    ahead: ValidatedAhead,
    embedded: EmbeddedServer | None,
    progress: Progress,
    *,
    verbose: bool,
) -> Ending:
    progress.doing("loading Prefect")
    with redirect_stdout(sys.stderr):
        from i2v.cli.prefect.flow_run import run_flow

        return run_flow(parameters, upload, ahead, embedded, progress, verbose=verbose)


def _run_batch(
    images: Sequence[str | BatchRow], parameters: dict[str, Any], settings: Settings, progress: Progress
) -> Ending:
    """Run the images as a batch on the workers of the configured Prefect server."""
    progress.doing("loading Prefect")
    with redirect_stdout(sys.stderr):
        from i2v.cli.prefect.batch_run import run_batch

        limit = parameters["max_spend_usd"]
        parameters |= {"max_spend_usd": None if limit is None else str(limit)}
        return run_batch(parameters | {"images": asyncio.run(_in_bucket(images, settings))}, settings, progress)


async def _in_bucket(images: Sequence[str | BatchRow], settings: Settings) -> list[str | dict[str, Any]]:
    with Storage() as storage:
        return await in_bucket(images, storage, settings)


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
