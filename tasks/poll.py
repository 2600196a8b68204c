"""Step 3, free: wait until the provider has rendered the video; one task run, however often it polls."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline import poll as pipeline
from i2v.pipeline.context import RunContext
from prefect_support.task_states import RETRIES, polled, to_state


@task(
    name="poll",
    task_run_name="poll {job.record.image.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **RETRIES,
)
async def poll(run: RunContext, job: VersionedRecord) -> State[Any]:
    """Wait until the job's task has ended or the deadline has passed."""
    return await to_state(pipeline.poll(run, job), polled)
