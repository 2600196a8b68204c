"""Report what was spent, day by day: sum the ledger, and compare it with the provider's balance."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from i2v.apixo.client import ApixoClient
from i2v.reports.spend import sum_spend
from i2v.s3.storage import Storage
from i2v.settings import Settings
from prefect_support.flow_states import run_flow
from prefect_support.spend_artifact import publish_spend


def run_name() -> str:
    """Return `spend of the last day`, or of how many."""
    days = runtime.flow_run.parameters["days"]
    return "spend of the last day" if days == 1 else f"spend of the last {days} days"


@flow(name="report", flow_run_name=run_name, validate_parameters=True)
async def report_spend(
    days: Annotated[int, Field(gt=0, le=366)] = 1,
) -> State[Any]:
    """Sum what was stored, is at risk, and was saved by the cache: by day, mode, folder, label and outcome.

    The artifact `i2v-spend` shows it, with a chart of the last 30 days.

    Args:
        days: How many days of 24 hours the run's message sums, counted back from now.
    """

    async def body(settings: Settings, storage: Storage) -> State[Any]:
        with storage:
            settings.require_bucket()
            async with ApixoClient(settings) as client:
                report = await sum_spend(storage, settings, days=days, client=client)
            await publish_spend(storage, settings, report)
        return Completed(message=report.summary, data=report.for_json())

    return await run_flow(body)
