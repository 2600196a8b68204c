"""The steps as Prefect tasks, in their order: validate, submit, poll, store.

A task here is Prefect's policy (name, tags, cache) and one call into the library. Logic belongs into `i2v`, and the
order of the steps into `flows`.
"""

from __future__ import annotations

from i2v.apixo.models import TaskStatus
from i2v.ledger.ledger import VersionedRecord
from i2v.pipeline.generate import Steps
from i2v.pipeline.run import Run
from i2v.pipeline.submit import Order
from i2v.pipeline.validate import ResolvedImage, ValidationResult
from prefect_support.flow_states import run_step
from tasks.poll import poll
from tasks.store import store
from tasks.submit import submit
from tasks.validate import validate


async def _validate(run: Run, seen: ResolvedImage) -> ValidationResult:
    return ValidationResult.model_validate(await run_step(validate, run, seen))


async def _submit(run: Run, order: Order) -> VersionedRecord:
    held: VersionedRecord = await run_step(submit, run, order)
    return held


async def _poll(run: Run, held: VersionedRecord) -> tuple[VersionedRecord, TaskStatus | None]:
    ended: tuple[VersionedRecord, TaskStatus | None] = await run_step(poll, run, held)
    return ended


async def _store(run: Run, held: VersionedRecord, status: TaskStatus) -> VersionedRecord:
    stored: VersionedRecord = await run_step(store, run, held, status)
    return stored


STEPS = Steps(_validate, _submit, _poll, _store)
"""The library's steps, each as a Prefect task."""
