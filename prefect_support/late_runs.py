"""A scheduled run that comes later than its interval: the next one was already due, so it ends as `Skipped`.

After a downtime every run that was missed starts at once; one of them is enough. A run that a person starts, or starts
again, is never skipped.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import SCHEDULE_TYPES
from prefect.context import FlowRunContext
from prefect.server.schemas.schedules import SCHEDULE_TYPES as SCHEDULES_WITH_DATES
from prefect.states import Completed
from pydantic import TypeAdapter

SKIPPED = "Skipped"
A_MOMENT = timedelta(seconds=1)


async def skipped_if_late(now: datetime | None = None) -> State[Any] | None:
    """The last state of a run that comes too late; None where it is to run."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or not _is_scheduled(run):
        return None
    now = now or datetime.now(UTC)
    scheduled = run.expected_start_time or now
    due = await _next_after(run, scheduled)
    if due is None or due > now:
        return None
    return Completed(name=SKIPPED, message=_told(scheduled, now, due))


def _is_scheduled(run: FlowRun) -> bool:
    """Whether the schedule started it, and nobody has since started it again."""
    return run.auto_scheduled and run.run_count <= 1


async def _next_after(run: FlowRun, scheduled: datetime) -> datetime | None:
    """When the next run was due, by the schedule that made this one; of several active ones the first to come."""
    if run.deployment_id is None:
        return None
    async with get_client() as client:
        schedules = await client.read_deployment_schedules(run.deployment_id)
    own = run.created_by.id if run.created_by else None
    fitting = [each for each in schedules if each.id == own] or [each for each in schedules if each.active]
    dates = [date for each in fitting if (date := await _date_after(each.schedule, scheduled))]
    return min(dates, default=None)


async def _date_after(schedule: SCHEDULE_TYPES, scheduled: datetime) -> datetime | None:
    """Prefect's own reckoning, which only the server's twin of the schedule has."""
    twin: Any = TypeAdapter(SCHEDULES_WITH_DATES).validate_python(schedule.model_dump())
    dates = await twin.get_dates(n=1, start=scheduled + A_MOMENT)
    return dates[0] if dates else None


def _told(scheduled: datetime, now: datetime, due: datetime) -> str:
    times = [time.astimezone(UTC) for time in (scheduled, now, due)]
    words = "%H:%M" if len({time.date() for time in times}) == 1 else "%Y-%m-%d %H:%M"
    first, second, third = (time.strftime(words) for time in times)
    return f"scheduled for {first}, started {second}: the next one was due at {third} (UTC)"
