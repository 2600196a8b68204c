"""A batch in a flow run: `run_batch` writes its shards, starts and watches their runs, and returns its last state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from i2v.batches.merge import MergedBatch
from i2v.batches.plan import BatchPlan
from i2v.batches.process import BatchRun, find_or_write_shards, record_error
from i2v.errors import I2vError, RunFailed
from i2v.inputs.batch_files import BatchRow
from i2v.inputs.prompts import RunOptions
from i2v.ledger.attempt import Delivery
from i2v.pipeline.context import RunContext
from prefect_support.batches.artifact import BatchArtifact
from prefect_support.batches.deployed_shards import DeployedShards, find_deployment
from prefect_support.events import EventEmitter
from prefect_support.flow_states import stopped_state
from prefect_support.run_names import current_run


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """A batch's options, apart from its images and their requests."""

    partial: bool
    delivery: Delivery
    skip_bad_rows: bool
    shard_size: int
    max_parallel: int


async def run_batch(
    run: RunContext, images: Sequence[str | BatchRow], default: RunOptions, options: BatchOptions
) -> State[Any]:
    """Run all shards and return the batch's last state.

    Before any shard starts, raise as `find_deployment`, `write_shards` and `check_funds`.
    """
    try:
        async with get_client() as client:
            deployment = await find_deployment(client)
            plan = await find_or_write_shards(
                run, images, default, options.shard_size, skip_bad_rows=options.skip_bad_rows
            )
            shards = DeployedShards(
                client=client,
                plan=plan,
                settings=run.settings,
                parameters=_parameters(run, default, options),
                tags=[tag for tag in (default.mode, run.label) if tag],
                name=_name(plan),
                deployment=deployment,
            )
            return await _run_shards(run, BatchRun(run, plan, shards, options.max_parallel), options)
    except I2vError as error:
        await record_error(run, error)
        raise


async def _run_shards(run: RunContext, batch: BatchRun, options: BatchOptions) -> State[Any]:
    artifact = BatchArtifact(run, batch)
    async with artifact.live():
        merged = await batch.process(partial=options.partial)
    await artifact.publish(merged, awaits_callbacks=options.delivery == "callback")
    summary = merged.total.summary(batch.plan.inputs, awaits_callbacks=options.delivery == "callback")
    needs_person = [item for item in merged.problems if item.needs_person]
    EventEmitter(run).run_finished(summary, merged.total, needs_person)
    return _last_state(merged, batch.plan, options)


def _parameters(run: RunContext, default: RunOptions, options: BatchOptions) -> dict[str, Any]:
    """Return the parameters that all shards have."""
    return {
        **default.model_dump(mode="json", exclude={"prompt_source", "extra"}),
        "max_spend_usd": None if run.max_spend_usd is None else str(run.max_spend_usd),
        "partial": options.partial,
        "delivery": options.delivery,
        "label": run.label,
    }


def _name(plan: BatchPlan) -> str:
    flow_run = current_run()
    return flow_run.name if flow_run else plan.run_id


def _last_state(merged: MergedBatch, plan: BatchPlan, options: BatchOptions) -> State[Any]:
    total, awaits_callbacks = merged.total, options.delivery == "callback"
    if error := total.error:
        return stopped_state(error)
    summary = total.summary(plan.inputs, awaits_callbacks=awaits_callbacks)
    value = total.for_json(plan.inputs) | {"items": merged.items}
    if total.completed(awaits_callbacks=awaits_callbacks, is_partial=options.partial):
        return Completed(message=summary, data=value)
    return Failed(message=summary, data=RunFailed(summary, value))
