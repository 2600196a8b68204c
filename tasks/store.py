"""Step 4: bring the video into the bucket, whole, and last its manifest."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from i2v.apixo.models import TaskStatus
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline import store as library
from i2v.pipeline.run import Run
from prefect_support.flow_states import to_state
from prefect_support.task_states import stored


@task(
    name="store", task_run_name="store {held.record.image.name}", cache_policy=NO_CACHE, persist_result=False, retries=0
)
async def store(run: Run, held: VersionedRecord, status: TaskStatus) -> State[Any]:
    """Download, check and publish the video of a task that has succeeded."""
    return await to_state(library.store(run, held, status), stored)
