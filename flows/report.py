"""Report the spending by day: sum the ledger, compare it with the balance, and bring the tables up to date."""

from typing import Annotated, Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

import prefect_support.library_version  # noqa: F401 - before the library is used
from i2v.apixo.client import ApixoClient
from i2v.export.write import update_tables
from i2v.reports.spend import sum_spend
from i2v.s3.storage import Storage
from i2v.settings import Settings
from prefect_support.run_flow import run_flow
from prefect_support.spend_artifact import publish_spend


def run_name() -> str:
    """Return `spend of the last day` or `spend of the last 7 days`."""
    days = runtime.flow_run.parameters["days"]
    return "spend of the last day" if days == 1 else f"spend of the last {days} days"


@flow(name="report", flow_run_name=run_name, validate_parameters=True)
async def report_spend(
    days: Annotated[int, Field(gt=0, le=366)] = 1,
) -> State[Any]:
    """Sum the cost of stored videos, the amount at risk, and the savings of the cache.

    The artifact `i2v-spend` shows them by day, mode, folder, label and outcome, with a chart of the last 30 days.
    Before that, the tables of `i2v export` beside the ledger are brought up to date, if pyarrow is installed.

    Args:
        days: The number of 24-hour days, back from now, that the run's message covers.
    """

    async def body(settings: Settings, storage: Storage) -> State[Any]:
        with storage:
            settings.require_bucket()
            await update_tables(storage, settings, days=days)
            async with ApixoClient(settings) as client:
                report = await sum_spend(storage, settings, days=days, client=client)
            await publish_spend(storage, settings, report)
        return Completed(message=report.summary, data=report.for_json())

    return await run_flow(body)
