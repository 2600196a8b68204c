"""Images become videos: validate, submit, poll, store, for one image or a thousand, all waits in one process.

What runs here is the order of the steps and nothing else: each step is a task, and what it does is in the library.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

from i2v.errors import I2vError
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RequestOptions, check_templates
from i2v.inputs.sources import find_items
from i2v.pipeline import preflight
from i2v.pipeline.generate import generate
from i2v.pipeline.run import open_run
from i2v.request import Duration, Mode
from prefect_support.credentials import read_run_settings
from prefect_support.flow_states import final_state, format_logs, graceful_sigterm, send_library_logs, stopped_state
from prefect_support.late_runs import skipped_if_late
from prefect_support.run_artifact import publish_progress
from prefect_support.run_names import name_run
from tasks import STEPS

Images = str | BatchRow | list[str | BatchRow]


def run_name() -> str:
    """`images/cats/ · standard 6 s`, and `dry run` where it is one."""
    given = runtime.flow_run.parameters
    images = given["images"] if isinstance(given["images"], list) else [given["images"]]
    what = f"{len(images)} named" if len(images) > 1 else str(getattr(images[0], "image", images[0])).split("?")[0]
    seconds = 6 if given["mode"] == "pro" else given["duration"]
    return " · ".join([what, f"{given['mode']} {seconds} s", *(["dry run"] if given["dry_run"] else [])])


@flow(name="generate", flow_run_name=run_name, validate_parameters=True)
async def generate_videos(
    images: Images,
    prompt: str | None = None,
    mode: Mode = Mode.STANDARD,
    duration: Duration = 6,
    take: Annotated[int, Field(ge=1)] = 1,
    max_spend_usd: Annotated[Decimal | None, Field(ge=0)] = None,
    partial: bool = False,
    delivery: Literal["poll", "callback"] = "poll",
    dry_run: bool = False,
    label: str | None = None,
) -> State[Any]:
    """Make a video of each image, store it beside, and never pay twice for one.

    The result is the report of `i2v run --json`; the run fails where an image failed, is unknown or was not tried,
    after everything else was done.

    Args:
        images: s3://bucket/key, s3://bucket/prefix/, an https URL, or a manifest (.csv, .jsonl); one or a list.
        prompt: What shall happen, for images that bring no prompt of their own; knows {stem}, {key} and {folder}.
        mode: standard is 768p, pro is 1080p and always 6 s.
        duration: Seconds of video, 6 or 10.
        take: Above 1 for another video of the same image and prompt.
        max_spend_usd: The most that this run may spend, in US dollars.
        partial: Go as far as the money goes, instead of not starting where it does not cover all.
        delivery: poll waits here for the videos; callback ends once all is submitted, and the provider calls the door.
        dry_run: Validate and price everything, and pay nothing.
        label: Names the purpose in the ledger and the report.
    """
    send_library_logs()
    if skipped := await skipped_if_late():
        return skipped
    default = RequestOptions(prompt=prompt, mode=mode, duration=duration, take=take)
    try:
        settings, storage = await read_run_settings()
        format_logs(settings)
        await preflight.check_delivery(delivery, settings)
        check_templates(prompt, settings)
        run_id = str(runtime.flow_run.id)
        opened = open_run(settings, run_id, max_spend_usd=max_spend_usd, label=label, storage=storage, dry_run=dry_run)
        async with opened as run, publish_progress(run):
            items = await find_items(images, run.storage, settings)
            await name_run(items, default, label=label, dry_run=dry_run)
            with graceful_sigterm(run):
                report, stopped = await generate(run, items, default, STEPS, partial=partial, delivery=delivery)
            return stopped_state(stopped, report) if stopped else final_state(report)
    except I2vError as error:
        return stopped_state(error)
