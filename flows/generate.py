"""Generate videos from images: validate, submit, poll, store, for one image or a thousand in one process.

The order of an image's steps is `Steps`; each step is a Prefect task, and its logic is in the library.
"""

from typing import Annotated, Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

import prefect_support.library_version  # noqa: F401 - before the library is used
from i2v.batches.plan import batch_of
from i2v.inputs.prompts import RunOptions, check_options
from i2v.inputs.sources import find_items, refuse_signed_urls
from i2v.pipeline.generate import generate
from i2v.pipeline.preflight import check_delivery
from i2v.pipeline.run import open_run
from i2v.request import Duration, Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from prefect_support.flow_states import final_state, stopped_state
from prefect_support.parameters import Dollars, Images, Text
from prefect_support.run_artifact import publish_progress
from prefect_support.run_flow import run_flow
from prefect_support.run_names import is_started_by_door, name_by_images, name_run
from prefect_support.sigterm import graceful_sigterm
from prefect_support.task_states import as_steps
from tasks.poll import poll
from tasks.store import store
from tasks.submit import submit
from tasks.validate import validate


@flow(name="generate", flow_run_name=name_by_images, validate_parameters=True)
async def generate_videos(
    images: Images,
    prompt: Text = None,
    mode: Mode = Mode.STANDARD,
    duration: Duration = 6,
    take: Annotated[int, Field(ge=1)] = 1,
    max_spend_usd: Dollars = None,
    partial: bool = False,
    delivery: Literal["poll", "callback"] = "poll",
    dry_run: bool = False,
    label: Text = None,
    override_prompts: bool = False,
    skip_bad_rows: bool = False,
    shard: Text = None,
) -> State[Any]:
    """Generate a video from each image and store it in the bucket. No video is charged twice.

    The result is the report of `i2v run --json`. If an image failed, is unknown or was not tried, the run fails, but
    only after it has processed all other images.

    Args:
        images: s3://bucket/key, s3://bucket/prefix/, an https URL that is not signed, or a batch file (.csv, .jsonl);
            one entry or several.
        prompt: Default prompt, for images without their own; may use {stem}, {key} and {folder}.
        mode: standard is 768p, pro is 1080p and always 6 s.
        duration: Seconds of video, 6 or 10.
        take: 2 or more for another version of the video, charged again.
        max_spend_usd: Spending limit of this run, in US dollars.
        partial: Spend up to the limit, even if that is not enough for all images.
        delivery: poll waits for the videos; callback ends after submitting, and the provider calls the door.
        dry_run: Validate and price everything. No charges, no videos.
        label: Purpose of the run, for the ledger and the reports.
        override_prompts: Use the prompt, mode, duration and take above even for images with options of their own in
            object metadata or a sidecar file; rows keep theirs.
        skip_bad_rows: Go on without the rows of a batch file that cannot be used; the report names them.
        shard: Set by the flow generate-batch, whose shards share its limit; leave it empty.
    """
    default = RunOptions(prompt=prompt, mode=mode, duration=duration, take=take, override_prompts=override_prompts)
    steps = as_steps(validate, submit, poll, store)

    async def body(settings: Settings, storage: Storage) -> State[Any]:
        refuse_signed_urls(images)
        await check_delivery(delivery, settings)
        check_options(default, settings)
        opened = open_run(
            settings,
            shard or str(runtime.flow_run.id),
            max_spend_usd=max_spend_usd,
            label=label,
            storage=storage,
            dry_run=dry_run,
            batch=batch_of(shard) if shard else None,
        )
        async with opened as run, publish_progress(run):
            named = not is_started_by_door()
            items = await find_items(images, run.storage, settings, skip_bad_rows=skip_bad_rows, by_name=named)
            if not shard:
                await name_run(items, default, label=label, dry_run=dry_run)
            with graceful_sigterm(run):
                report, stopped = await generate(
                    run, items, default, steps, partial=partial or bool(shard), delivery=delivery
                )
        return stopped_state(stopped, report) if stopped else final_state(report)

    return await run_flow(body)
