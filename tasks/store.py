"""Step 4, free: download a rendered video, check that it is complete, and publish it with its manifest."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from i2v.apixo.models import TaskStatus
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline import store as pipeline
from i2v.pipeline.context import RunContext
from prefect_support.task_states import RETRIES, stored, to_state


@task(
    name="store",
    task_run_name="store {job.record.image.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **RETRIES,
)
async def store(run: RunContext, job: VersionedRecord, status: TaskStatus) -> State[Any]:
    """Download, check and publish the video of a successful task."""
    return await to_state(pipeline.store(run, job, status), stored)
