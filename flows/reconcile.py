"""What was left behind is caught up with: open jobs are settled, and with `generate` missing videos are made.

Without `generate` it never pays. Safe at any time, in any number, beside running flows.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

from i2v.errors import I2vError
from i2v.inputs.prompts import RequestOptions
from i2v.pipeline.run import open_run
from i2v.recovery.backfill import backfill_options, reconcile_and_backfill
from i2v.request import Duration, Mode
from prefect_support.credentials import read_run_settings
from prefect_support.flow_states import (
    format_logs,
    graceful_sigterm,
    raise_for_retry,
    reconciled_state,
    send_library_logs,
    stopped_state,
)
from prefect_support.late_runs import skipped_if_late
from prefect_support.run_artifact import publish_progress
from prefect_support.status_artifact import publish_status
from tasks import STEPS


def run_name() -> str:
    """`open jobs and missing videos since 2026-11-22`, or how many were named, and `dry run` where it is one."""
    given = runtime.flow_run.parameters
    what = f"{len(given['jobs'])} jobs" if given["jobs"] is not None else "open jobs"
    more = f" and missing videos since {str(given['since'])[:10]}" if given["generate"] else ""
    return " · ".join([what + more, *(["dry run"] if given["dry_run"] else [])])


@flow(name="reconcile", flow_run_name=run_name, validate_parameters=True)
async def reconcile_videos(
    generate: bool = False,
    since: datetime | None = None,
    limit: Annotated[int, Field(gt=0)] = 100,
    max_spend_usd: Annotated[Decimal | None, Field(ge=0)] = None,
    prompt: str | None = None,
    mode: Mode = Mode.STANDARD,
    duration: Duration = 6,
    jobs: list[str] | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Take over every open job whose run is gone; with `generate`, then make the videos that images still lack.

    An image lacks one where no video, refusal or failure answers to it as it is now, and no job for it is open.
    Settling never pays. What is generated is paid as by `generate`, oldest image first, as far as the money goes.

    Args:
        generate: Also make videos of images without an answer; then since and max_spend_usd must be given.
        since: Images last written before are left alone; a time without a zone is UTC's.
        limit: Jobs to settle at most, those with the oldest mark first; and images to generate at most.
        max_spend_usd: The most that this run may spend, in US dollars.
        prompt: What shall happen, for images that bring no prompt of their own; knows {stem}, {key} and {folder}.
        mode: standard is 768p, pro is 1080p and always 6 s; for images that say nothing else.
        duration: Seconds of video, 6 or 10; for images that say nothing else.
        jobs: Keys of the jobs to settle, whoever works on them; none for all that are open.
        dry_run: Name what is open and what is missing, and change nothing.
    """
    send_library_logs()
    if skipped := await skipped_if_late():
        return skipped
    default = RequestOptions(prompt=prompt, mode=mode, duration=duration)
    try:
        settings, storage = await read_run_settings()
        format_logs(settings)
        wanted = backfill_options(settings, default, generate=generate, since=since, max_spend_usd=max_spend_usd)
        run_id = str(runtime.flow_run.id)
        opened = open_run(settings, run_id, max_spend_usd=max_spend_usd, storage=storage, dry_run=dry_run)
        async with opened as run, publish_progress(run):
            with graceful_sigterm(run):
                ended = await reconcile_and_backfill(run, wanted, keys=jobs, limit=limit, steps=STEPS)
            if jobs is None and not dry_run:
                await publish_status(run)
        state = reconciled_state(ended)
    except I2vError as error:
        state = stopped_state(error)
    return raise_for_retry(state)
