"""The deployments of prefect.yaml, compared with what is there and changed only where they differ.

prefect.yaml counts, but for what people set and would miss: whether a schedule is active, schedules of their own,
whether a deployment is paused, and from when on `nightly` takes images.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from deployments import Change, SetupResult
from i2v.errors import UsageError

ROOT = Path(__file__).parents[1]
SINCE = "since"


class DesiredDeployment(NamedTuple):
    """A deployment as prefect.yaml says; `fields` by the names that Prefect's API has for them."""

    name: str
    flow: str
    fields: dict[str, Any]
    schedules: list[DeploymentScheduleCreate]


def load_deployments(config: dict[str, Any]) -> list[DesiredDeployment]:
    """Load every flow, so that what cannot be imported is never deployed.

    Raises:
        UsageError: a flow cannot be imported, or a deployment lacks something.
    """
    pull = config.get("pull") or [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    try:
        return [_wanted(each, pull) for each in config["deployments"]]
    except (KeyError, TypeError) as error:
        hint = "See those that are there; a schedule has a slug, and a cron"
        raise UsageError(f"prefect.yaml: a deployment lacks {error}", hint) from None


def read_config() -> dict[str, Any]:
    """Read prefect.yaml.

    Raises:
        UsageError: it is no YAML.
    """
    try:
        config: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"prefect.yaml cannot be read: {error}", "Correct it") from None
    return config


def _wanted(each: dict[str, Any], pull: list[dict[str, Any]]) -> DesiredDeployment:
    flow = _load(each["entrypoint"])
    fields = {
        "entrypoint": each["entrypoint"],
        "description": each["description"],
        "tags": each["tags"],
        "parameters": each.get("parameters", {}),
        "parameter_openapi_schema": parameter_schema(flow).model_dump(mode="json", exclude_unset=True),
        "enforce_parameter_schema": True,
        "work_pool_name": each["work_pool"]["name"],
        "work_queue_name": each["work_pool"]["work_queue_name"],
        "job_variables": each["work_pool"].get("job_variables", {}),
        "pull_steps": each.get("pull") or pull,
    }
    return DesiredDeployment(
        each["name"], flow.name, fields, [_schedule(schedule) for schedule in each.get("schedules", [])]
    )


def _load(entrypoint: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(f"{ROOT}/{entrypoint}", use_placeholder_flow=False)
    except Exception as error:  # noqa: BLE001 - importing a person's code can raise whatever it likes
        reason = error.__cause__ or error
        raise UsageError(
            f"prefect.yaml: {entrypoint} cannot be loaded: {type(reason).__name__}: {reason}", "Correct it, then deploy"
        ) from None


def _schedule(given: dict[str, Any]) -> DeploymentScheduleCreate:
    cron = CronSchedule(cron=given["cron"], timezone=given.get("timezone", "UTC"))
    return DeploymentScheduleCreate(schedule=cron, active=given.get("active", True), slug=given["slug"])


async def set_up_deployment(
    client: PrefectClient, wanted: DesiredDeployment, *, now: datetime | None = None
) -> SetupResult:
    """Make or change one deployment.

    Args:
        client: the server.
        wanted: the deployment.
        now: from when on `nightly` takes images, where it is new.
    """
    what = f"deployment {wanted.flow}/{wanted.name}"
    now = now or datetime.now(UTC)
    try:
        found = await client.read_deployment_by_name(f"{wanted.flow}/{wanted.name}")
    except ObjectNotFound:
        fields = _with_since(wanted.fields, {}, now)
        flow_id = await client.create_flow_from_name(wanted.flow)
        await client.create_deployment(flow_id, wanted.name, schedules=wanted.schedules, **fields)
        return SetupResult(
            Change.MADE, what, "" if fields == wanted.fields else f"takes images from {now:%Y-%m-%d %H:%M} UTC on"
        )
    differing = await _update(client, found, _with_since(wanted.fields, found.parameters, now))
    differing += [slug for each in wanted.schedules if (slug := await _update_schedule(client, found, each))]
    return SetupResult(Change.CHANGED, what, ", ".join(differing)) if differing else SetupResult(Change.UNCHANGED, what)


def _with_since(fields: dict[str, Any], found: dict[str, Any], now: datetime) -> dict[str, Any]:
    """What generates by itself takes images from the first deploy on, or from when a person said."""
    parameters = fields["parameters"]
    if not parameters.get("generate") or SINCE in parameters:
        return fields
    since = found.get(SINCE) or now.isoformat(timespec="seconds")
    return fields | {"parameters": parameters | {SINCE: since}}


async def _update(client: PrefectClient, found: DeploymentResponse, fields: dict[str, Any]) -> list[str]:
    there = found.model_dump(mode="json", include=set(fields))
    differing = [name for name, value in fields.items() if there[name] != value]
    if differing:
        await client.update_deployment(found.id, DeploymentUpdate(**{name: fields[name] for name in differing}))
    return [_detailed(name, there[name], fields[name]) for name in differing]


def _detailed(name: str, there: Any, wanted: Any) -> str:
    """Of parameters also which, since some are money."""
    if name != "parameters":
        return name
    which = sorted(each for each in {*there, *wanted} if there.get(each) != wanted.get(each))
    return f"parameters ({', '.join(which)})"


async def _update_schedule(
    client: PrefectClient, found: DeploymentResponse, wanted: DeploymentScheduleCreate
) -> str | None:
    """Change the time of a schedule and never whether it is active; what it changed, in words."""
    same = next((each for each in found.schedules if _is_same(each, wanted)), None)
    if same is None:
        await client.create_deployment_schedules(found.id, [wanted])
    elif same.schedule != wanted.schedule or same.slug != wanted.slug:
        await client.update_deployment_schedule(found.id, same.id, schedule=wanted.schedule, slug=wanted.slug)
    else:
        return None
    return f"schedule {wanted.slug}"


def _is_same(found: DeploymentSchedule, wanted: DeploymentScheduleCreate) -> bool:
    """By name; one that `prefect deploy` once made without a name, by its time."""
    return found.slug == wanted.slug or (found.slug is None and found.schedule == wanted.schedule)
