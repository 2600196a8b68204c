"""What every flow does before its own work: `run_flow`, which then runs the flow's body."""

from collections.abc import Awaitable, Callable
from typing import Any

from prefect.client.schemas.objects import State

from i2v.errors import I2vError
from i2v.s3.storage import Storage
from i2v.settings import Settings
from prefect_support.credentials import read_run_settings
from prefect_support.flow_states import stopped_state
from prefect_support.late_runs import skipped_if_late
from prefect_support.logging_setup import format_logs, send_library_logs
from prefect_support.run_names import tag_run


async def run_flow(body: Callable[[Settings, Storage], Awaitable[State[Any]]]) -> State[Any]:
    """Set up logging, skip a late scheduled run, read settings and credentials, and run the body of a flow.

    The body closes the storage.
    """
    send_library_logs()
    await tag_run()
    if skipped := await skipped_if_late():
        return skipped
    try:
        settings, storage = await read_run_settings()
        format_logs(settings)
        return await body(settings, storage)
    except I2vError as error:
        return stopped_state(error)
