"""Step 2, the one that pays: attach to an existing job, or pay for one attempt if none is in progress."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from i2v.pipeline import submit as pipeline
from i2v.pipeline.context import RunContext
from i2v.pipeline.video_order import Order
from prefect_support.task_states import submitted, to_state


@task(name="submit", task_run_name="submit {order.image.name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
async def submit(run: RunContext, order: Order) -> State[Any]:
    """Attach to the order's job, or pay for one attempt. Prefect never retries this step: the ledger decides."""
    return await to_state(pipeline.submit(run, order), lambda job: submitted(run, job))
