"""Generate videos of more images than one run should have: split them into shards, and start a run for each.

The shards are runs of the deployment `generate`, on any worker of the pool; this run starts them, waits for them and
merges their reports.
"""

from typing import Annotated, Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

import prefect_support.library_version  # noqa: F401 - before the library is used
from i2v.inputs.prompts import RunOptions, check_options
from i2v.inputs.sources import refuse_signed_urls
from i2v.pipeline.preflight import check_delivery
from i2v.pipeline.run import open_run
from i2v.request import Duration, Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from prefect_support.batches.run_batch import BatchOptions, run_batch
from prefect_support.parameters import Dollars, Images, Text
from prefect_support.run_flow import run_flow
from prefect_support.run_names import name_by_images
from prefect_support.sigterm import graceful_sigterm


@flow(name="generate-batch", flow_run_name=name_by_images, validate_parameters=True)
async def generate_batch(
    images: Images,
    prompt: Text = None,
    mode: Mode = Mode.STANDARD,
    duration: Duration = 6,
    take: Annotated[int, Field(ge=1)] = 1,
    max_spend_usd: Dollars = None,
    partial: bool = False,
    delivery: Literal["poll", "callback"] = "poll",
    label: Text = None,
    override_prompts: bool = False,
    skip_bad_rows: bool = False,
    shard_size: Annotated[int, Field(ge=1, le=1000)] = 250,
    max_parallel: Annotated[int, Field(ge=1, le=100)] = 4,
) -> State[Any]:
    """Generate a video from each image, in several runs on several workers. No video is charged twice.

    If this run dies, retry it: it finds its shards and their runs. Cancelling it cancels its shards.

    Args:
        images: s3://bucket/key, s3://bucket/prefix/, an https URL that is not signed, or a batch file (.csv, .jsonl);
            one entry or several.
        prompt: Default prompt, for images without their own; may use {stem}, {key} and {folder}.
        mode: standard is 768p, pro is 1080p and always 6 s.
        duration: Seconds of video, 6 or 10.
        take: 2 or more for another version of the video, charged again.
        max_spend_usd: Spending limit of all shards together, in US dollars.
        partial: Spend up to the limit, even if that is not enough for all images.
        delivery: poll waits for the videos; callback ends after submitting, and the provider calls the door.
        label: Purpose of the run, for the ledger and the reports.
        override_prompts: Use the prompt, mode, duration and take above even for images with options of their own in
            object metadata or a sidecar file; rows keep theirs.
        skip_bad_rows: Go on without the rows of a batch file that cannot be used; the report names them.
        shard_size: Images per shard.
        max_parallel: Shards that run at the same time.
    """
    default = RunOptions(prompt=prompt, mode=mode, duration=duration, take=take, override_prompts=override_prompts)
    options = BatchOptions(
        partial=partial,
        delivery=delivery,
        skip_bad_rows=skip_bad_rows,
        shard_size=shard_size,
        max_parallel=max_parallel,
    )

    async def body(settings: Settings, storage: Storage) -> State[Any]:
        refuse_signed_urls(images)
        await check_delivery(delivery, settings)
        check_options(default, settings)
        run_id = str(runtime.flow_run.id)
        opened = open_run(settings, run_id, max_spend_usd=max_spend_usd, label=label, storage=storage, batch=run_id)
        async with opened as run:
            with graceful_sigterm(run):
                return await run_batch(run, images, default, options)

    return await run_flow(body)
