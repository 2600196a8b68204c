"""The connection to the Prefect server of `PREFECT_API_URL` or of a Prefect profile, and what a run sends to it."""

import asyncio
import time
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import prefect
from packaging.version import Version
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings

from i2v.cli.prefect.server_errors import describe_server_error, is_unreachable, shown_api_url
from i2v.errors import Stopped

HEARTBEAT_SECONDS = 60
"""How often a run sends a heartbeat. With Prefect's default of 180 s it takes ten minutes to detect a dead run."""
CONNECT_SECONDS = 15
RECORD_SECONDS = 10.0
RECORD_SECONDS_PER_TASK_RUN = 0.02
"""How long the end of a run waits for the server to record it: `RECORD_SECONDS`, plus this for each task run."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


class FlowRunFacts(NamedTuple):
    """What the server must have recorded when a run ends."""

    id: UUID
    task_runs: int


def configured_api() -> str | None:
    """Return the API URL of the environment or the active profile, if there is one."""
    url: str | None = PREFECT_API_URL.value()
    return url


def run_settings() -> dict[Any, Any]:
    """Return the settings of a run in this process: our heartbeat interval, unless a user has set one."""
    is_set = "heartbeat_frequency" in get_current_settings().flows.model_fields_set
    return {} if is_set else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}


def current_flow_run() -> FlowRunFacts | None:
    """Return the flow run that this code runs in, and how many task runs it has started."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    counters = [key for key in context.task_run_dynamic_keys.values() if isinstance(key, int)]
    return FlowRunFacts(context.flow_run.id, sum(counters) + len(counters))


async def check_api(*, wait_seconds: float = 0) -> str:
    """Return the server's version; wait so long for a server that is starting.

    Raise `Stopped` if it does not respond, rejects us, or has another major version.
    """
    found = await _read_version(time.monotonic() + wait_seconds)
    if Version(found).major != Version(prefect.__version__).major:
        raise Stopped(
            f"The Prefect server at {shown_api_url()} has version {found}, but this is Prefect {prefect.__version__}",
            "Install the same major version on both sides",
        )
    return found


async def _read_version(deadline: float) -> str:
    while True:
        try:
            async with asyncio.timeout(CONNECT_SECONDS), get_client() as client:
                return str(await client.api_version())
        except Exception as error:  # noqa: BLE001 - Prefect's client raises many kinds of errors for a wrong URL
            if not is_unreachable(error) or time.monotonic() >= deadline:
                raise Stopped(*describe_server_error(error)) from None
        await asyncio.sleep(1)


async def flush(flow_run: FlowRunFacts | None, *, until_recorded: bool) -> None:
    """Send buffered logs and events. With `until_recorded`, wait until the server has stored all task runs.

    An embedded server ends with this process, so it must record everything first. Errors are ignored.
    """
    with suppress(Exception):
        await APILogHandler.aflush()
        drained: Any = EventsWorker.drain_all()
        await drained
        if flow_run and until_recorded:
            await _wait_until_recorded(flow_run)


async def _wait_until_recorded(flow_run: FlowRunFacts) -> None:
    ended_task_runs = {
        "flow_runs": {"id": {"any_": [str(flow_run.id)]}},
        "task_runs": {"state": {"type": {"any_": ENDED}}},
    }
    seconds = RECORD_SECONDS + flow_run.task_runs * RECORD_SECONDS_PER_TASK_RUN
    async with asyncio.timeout(seconds), get_client() as client:
        while True:
            response = await client.request("POST", "/task_runs/count", json=ended_task_runs)
            if response.json() >= flow_run.task_runs:
                return
            await asyncio.sleep(0.2)
