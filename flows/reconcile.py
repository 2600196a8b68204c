"""Settle open jobs and, with `generate`, generate missing videos. To settle a job: poll it, then store or close it.

Without `generate` it never submits anything. It is safe to run at any time, even in parallel.
"""

from typing import Annotated, Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

import prefect_support.library_version  # noqa: F401 - before the library is used
from i2v.inputs.prompts import RequestOptions
from i2v.pipeline.run import open_run
from i2v.recovery.backfill import backfill_options, reconcile_and_backfill
from i2v.request import Duration, Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from prefect_support.flow_states import raise_for_retry, reconciled_state
from prefect_support.parameters import Dollars, JobKeys, Text, Time
from prefect_support.run_artifact import publish_progress
from prefect_support.run_flow import run_flow
from prefect_support.run_names import first_name
from prefect_support.sigterm import graceful_sigterm
from prefect_support.status_artifact import publish_status
from prefect_support.task_states import as_steps
from tasks.poll import poll
from tasks.store import store
from tasks.submit import submit
from tasks.validate import validate


def run_name() -> str:
    """Return `open jobs and missing videos since 2026-11-22` or `3 jobs`; a dry run adds `dry run`."""
    given = runtime.flow_run.parameters
    what = f"{len(given['jobs'])} jobs" if given["jobs"] is not None else "open jobs"
    more = f" and missing videos since {str(given['since'])[:10]}" if given["generate"] else ""
    return first_name(" · ".join([what + more, *(["dry run"] if given["dry_run"] else [])]))


@flow(name="reconcile", flow_run_name=run_name, validate_parameters=True)
async def reconcile_videos(
    generate: bool = False,
    since: Time = None,
    limit: Annotated[int, Field(gt=0)] = 100,
    max_spend_usd: Dollars = None,
    prompt: Text = None,
    mode: Mode = Mode.STANDARD,
    duration: Duration = 6,
    jobs: JobKeys = None,
    dry_run: bool = False,
) -> State[Any]:
    """Settle every open job whose run has ended; with `generate`, also generate missing videos.

    A video is missing if the current version of its image has no video, refusal, failure or open job. Settling never
    submits anything. Missing videos are generated oldest image first, up to the limits.

    Args:
        generate: Also generate missing videos; since and max_spend_usd are then required.
        since: Skip images last written before this time; a time without a zone is UTC.
        limit: Settle at most this many jobs and generate at most this many videos, oldest first.
        max_spend_usd: Spending limit of this run, in US dollars.
        prompt: Default prompt, for images without their own; may use {stem}, {key} and {folder}.
        mode: Default mode. standard is 768p, pro is 1080p and always 6 s.
        duration: Default seconds of video, 6 or 10.
        jobs: Keys of the jobs to settle, even if another run works on them; all open jobs if not given.
        dry_run: Report what is open and what is missing, and change nothing.
    """
    default = RequestOptions(prompt=prompt, mode=mode, duration=duration)
    steps = as_steps(validate, submit, poll, store)

    async def body(settings: Settings, storage: Storage) -> State[Any]:
        options = backfill_options(settings, default, generate=generate, since=since, max_spend_usd=max_spend_usd)
        run_id = str(runtime.flow_run.id)
        opened = open_run(settings, run_id, max_spend_usd=max_spend_usd, storage=storage, dry_run=dry_run)
        async with opened as run, publish_progress(run):
            with graceful_sigterm(run):
                result = await reconcile_and_backfill(run, options, entries=jobs, limit=limit, steps=steps)
            if jobs is None and not dry_run:
                await publish_status(run)
        return reconciled_state(result)

    return raise_for_retry(await run_flow(body))
