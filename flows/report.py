"""Where the money went, day by day: sums the ledger and says when the provider's balance differs."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from i2v.apixo.client import ApixoClient
from i2v.errors import I2vError
from i2v.reports.spend import sum_spend
from prefect_support.credentials import read_run_settings
from prefect_support.flow_states import format_logs, send_library_logs, stopped_state
from prefect_support.late_runs import skipped_if_late
from prefect_support.spend_artifact import publish_spend


def run_name() -> str:
    """`spend of the last day`, or of how many."""
    days = runtime.flow_run.parameters["days"]
    return "spend of the last day" if days == 1 else f"spend of the last {days} days"


@flow(name="report", flow_run_name=run_name, validate_parameters=True)
async def report_spend(
    days: Annotated[int, Field(gt=0, le=366)] = 1,
) -> State[Any]:
    """Sum what was stored, is at risk, and did not have to be paid, by day, mode, folder, label and outcome.

    The artifact `i2v-spend` shows it, with a picture of the last 30 days.

    Args:
        days: What the run's message sums: days of 24 hours, back from now.
    """
    send_library_logs()
    if skipped := await skipped_if_late():
        return skipped
    try:
        settings, storage = await read_run_settings()
        format_logs(settings)
        with storage:
            settings.require_bucket()
            async with ApixoClient(settings) as client:
                report = await sum_spend(storage, settings, days=days, client=client)
            await publish_spend(storage, settings, report)
        return Completed(message=report.summary, data=report.for_json())
    except I2vError as error:
        return stopped_state(error)
