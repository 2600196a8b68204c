"""`i2v estimate`: what a run would make and cost, by the library alone; it pays nothing, puts nothing, needs no key."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from i2v.cli import options
from i2v.errors import I2vError, Stopped, UsageError

if TYPE_CHECKING:
    from i2v.cli.local.uploads import UploadCandidate
    from i2v.cli.progress import Progress
    from i2v.inputs.batch_files import BatchRow
    from i2v.inputs.prompts import RequestOptions
    from i2v.reports.run_report import Report
    from i2v.settings import Settings


def estimate(
    images: options.Images,
    *,
    prompt: options.Prompt = None,
    mode: options.ModeOption = options.Mode.STANDARD,
    duration: options.Duration = options.Seconds.SIX,
    take: options.Take = 1,
    as_json: options.Json = False,
) -> None:
    """Validate images and say what their videos would cost. Nothing is paid or put, and no key is needed.

    What the ledger has already is told as it is, and costs nothing. Exit 0; 2 wrong usage; 3 no valid image.
    """
    from i2v.cli.output.console import show_logs, stderr
    from i2v.cli.output.report_table import print_report, tell, tell_nothing_valid
    from i2v.cli.progress import Progress
    from i2v.reports.run_report import Report
    from i2v.settings import read_settings

    settings = read_settings()
    settings.require_bucket()
    default = options.asked(prompt, mode, duration, take, settings)
    console = stderr()
    show_logs(console, verbose=False)
    try:
        with Progress(console) as progress:
            report = asyncio.run(_estimate(images, default, settings, progress))
    except UsageError:
        raise
    except I2vError as error:
        tell(error)
        print_report(Report(), settings, as_json=as_json)
        sys.exit(Stopped.exit_code)
    print_report(report, settings, as_json=as_json)
    sys.exit(tell_nothing_valid(report))


async def _estimate(images: list[str], default: RequestOptions, settings: Settings, progress: Progress) -> Report:
    from i2v.cli.local import files
    from i2v.cli.local.remote_images import bring_local

    named = files.find(images, settings)
    goods, refused = await bring_local(named.local, default, settings, progress, put=False)
    report = await preview(settings, named.remote, goods, default, progress)
    return report.model_copy(update={"items": (*report.items, *refused)})


async def preview(
    settings: Settings,
    remote: Sequence[str | BatchRow],
    goods: Sequence[UploadCandidate],
    default: RequestOptions,
    progress: Progress,
) -> Report:
    """What a run would make of images in S3 or by URL, and of local ones were they put.

    Raises:
        UsageError: something named is no image, no prefix and no good manifest.
        NoImages: nothing at all was found.
        StorageError: S3 could not list or read.
    """
    from uuid import uuid4

    from i2v.cli.local import uploads
    from i2v.inputs.sources import find_items
    from i2v.pipeline.generate import Steps, generate
    from i2v.pipeline.run import WATCHER, open_run
    from i2v.reports.run_report import Report

    WATCHER.set(progress)
    async with open_run(settings, str(uuid4()), dry_run=True) as run:
        items = await find_items(remote, run.storage, settings) if remote else []
        report, _ = await generate(run, items, default, Steps())
        local = await asyncio.gather(*(uploads.preview(run, good) for good in goods))
    return Report(items=(*report.items, *local))
