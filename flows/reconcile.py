"""What was left open is settled, and never paid: safe at any time, in any number, beside running flows."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from pydantic import Field

from i2v.errors import I2vError
from i2v.reconcile import reconcile
from i2v.runs import open_run
from i2v.settings import read_settings
from tasks import STEPS
from tasks.ends import heed_termination, reconciled_state, show_library_logs, stopped_state


def run_name() -> str:
    """`open jobs`, or how many were named, and `dry run` where it is one."""
    given = runtime.flow_run.parameters
    what = f"{len(given['jobs'])} jobs" if given["jobs"] is not None else "open jobs"
    return " · ".join([what, *(["dry run"] if given["dry_run"] else [])])


@flow(name="reconcile", flow_run_name=run_name, validate_parameters=True)
async def reconcile_videos(
    limit: Annotated[int, Field(gt=0)] = 100,
    jobs: list[str] | None = None,
    dry_run: bool = False,
) -> State[Any]:
    """Take over every open job whose run is gone: store its video, write down its end, or show it as unknown.

    Args:
        limit: Jobs to settle at most, those with the oldest mark first.
        jobs: Keys of the jobs to settle, whoever works on them; none for all that are open.
        dry_run: Name what is open, and change nothing.
    """
    show_library_logs()
    try:
        settings = read_settings()
        async with open_run(settings, str(runtime.flow_run.id), dry_run=dry_run) as run:
            with heed_termination(run):
                report = await reconcile(run, keys=jobs, limit=limit, steps=STEPS)
            return reconciled_state(report)
    except I2vError as error:
        return stopped_state(error)
