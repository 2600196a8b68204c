"""Step 3: wait for a task by the vendor's schedule, in one task run however often it asks."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline import poll as library
from i2v.pipeline.run import Run
from prefect_support.flow_states import to_state
from prefect_support.task_states import polled


@task(
    name="poll", task_run_name="poll {held.record.image.name}", cache_policy=NO_CACHE, persist_result=False, retries=0
)
async def poll(run: Run, held: VersionedRecord) -> State[Any]:
    """Wait until the job's task has ended or the deadline has passed."""
    return await to_state(library.poll(run, held), lambda ended: polled(run, *ended))
