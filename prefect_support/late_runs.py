"""Late scheduled runs: a run that starts after the next one is already due ends as `Skipped`.

After a downtime, Prefect starts all missed runs at once; one of them is enough. A run that a person starts or retries
is never skipped.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import SCHEDULE_TYPES
from prefect.context import FlowRunContext
from prefect.server.schemas.schedules import SCHEDULE_TYPES as SERVER_SCHEDULE_TYPES
from prefect.states import Completed
from pydantic import TypeAdapter

SKIPPED = "Skipped"
ONE_SECOND = timedelta(seconds=1)


async def skipped_if_late(now: datetime | None = None) -> State[Any] | None:
    """Return the last state of a run that is too late, or `None` if the run should continue."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or not run.auto_scheduled or run.run_count > 1:
        return None
    now = now or datetime.now(UTC)
    scheduled = run.expected_start_time or now
    due = await _next_after(run, scheduled)
    if due is None or due > now:
        return None
    return Completed(name=SKIPPED, message=_message(scheduled, now, due))


async def _next_after(run: FlowRun, scheduled: datetime) -> datetime | None:
    """Return when the next run was due, by the schedule that created this one or else by the earliest active one."""
    if run.deployment_id is None:
        return None
    async with get_client() as client:
        schedules = await client.read_deployment_schedules(run.deployment_id)
    own = run.created_by.id if run.created_by else None
    candidates = [each for each in schedules if each.id == own] or [each for each in schedules if each.active]
    dates = [date for each in candidates if (date := await _date_after(each.schedule, scheduled))]
    return min(dates, default=None)


async def _date_after(schedule: SCHEDULE_TYPES, scheduled: datetime) -> datetime | None:
    """Return the next date, as Prefect calculates it; only the server's schedule types can do that."""
    server_schedule: Any = TypeAdapter(SERVER_SCHEDULE_TYPES).validate_python(schedule.model_dump())
    dates = await server_schedule.get_dates(n=1, start=scheduled + ONE_SECOND)
    return dates[0] if dates else None


def _message(scheduled: datetime, now: datetime, due: datetime) -> str:
    times = [time.astimezone(UTC) for time in (scheduled, now, due)]
    words = "%H:%M" if len({time.date() for time in times}) == 1 else "%Y-%m-%d %H:%M"
    first, second, third = (time.strftime(words) for time in times)
    return f"scheduled for {first}, started {second}: the next one was due at {third} (UTC)"
