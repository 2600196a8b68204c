"""Step 2, the one that pays: take a job up, and pay for it only where nobody has."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from i2v.pipeline import submit as library
from i2v.pipeline.run import Run
from i2v.pipeline.submit import Order
from prefect_support.flow_states import to_state
from prefect_support.task_states import submitted


@task(name="submit", task_run_name="submit {order.name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
async def submit(run: Run, order: Order) -> State[Any]:
    """Attach to the order's job, or pay for one attempt. Prefect never repeats this step: the ledger decides."""
    return await to_state(library.submit(run, order), lambda held: submitted(run, held))
