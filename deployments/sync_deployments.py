"""The deployments of prefect.yaml: load them, compare them with the server, and update what differs.

prefect.yaml wins, except for what users set: whether a schedule is active, schedules of their own, whether a deployment
is paused, `since` of `nightly`, and environment variables that we do not set.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
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
    """A deployment as prefect.yaml describes it; `fields` are named as in Prefect's API."""

    name: str
    flow: str
    fields: dict[str, Any]
    schedules: list[DeploymentScheduleCreate]
    triggers: list[dict[str, Any]]

    @property
    def full_name(self) -> str:
        """The name by which Prefect's API finds it."""
        return f"{self.flow}/{self.name}"


def read_config(path: Path = ROOT / "prefect.yaml") -> dict[str, Any]:
    """Return prefect.yaml, or another file. Raise `UsageError` if it is not YAML or cannot be read."""
    try:
        return dict(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise UsageError(f"{path.name} is not valid YAML: {error}", "Correct it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "Check the path") from None


def load_deployments(config: dict[str, Any], environment: Mapping[str, str]) -> list[DesiredDeployment]:
    """Return the deployments, whose runs get `environment` unless prefect.yaml says otherwise.

    Raise `UsageError` if a flow cannot be imported, or a deployment lacks a field.
    """
    pull = config.get("pull") or [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    try:
        return [_load_deployment(each, pull, environment) for each in config["deployments"]]
    except (KeyError, TypeError) as error:
        hint = "Compare it with the other deployments; a schedule needs a slug and a cron"
        raise UsageError(f"prefect.yaml: a deployment lacks {error}", hint) from None


def _load_deployment(
    each: dict[str, Any], pull: list[dict[str, Any]], environment: Mapping[str, str]
) -> DesiredDeployment:
    flow, pool = _load_flow(each["entrypoint"]), each["work_pool"]
    job_variables = pool.get("job_variables", {})
    fields = {name: each[name] for name in ("entrypoint", "description", "tags")} | {
        "parameters": each.get("parameters", {}),
        "parameter_openapi_schema": _form_schema(flow),
        "enforce_parameter_schema": False,  # the flow validates, which accepts more than its form offers
        "work_pool_name": pool["name"],
        "work_queue_name": pool["work_queue_name"],
        "job_variables": job_variables | {"env": {**environment, **job_variables.get("env", {})}},
        "pull_steps": each.get("pull") or pull,
    }
    schedules = [_load_schedule(schedule) for schedule in each.get("schedules", [])]
    return DesiredDeployment(each["name"], flow.name, fields, schedules, each.get("triggers", []))


def _form_schema(flow: Flow[..., Any]) -> dict[str, Any]:
    """Return the schema of the run form; a field whose default is `None` is empty."""
    schema = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
    for field in schema["properties"].values():
        if field.get("default", ...) is None:
            del field["default"]
    return schema


def _load_flow(entrypoint: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(f"{ROOT}/{entrypoint}", use_placeholder_flow=False)
    except Exception as error:  # noqa: BLE001 - importing user code can raise anything
        reason = error.__cause__ or error
        message = f"prefect.yaml: {entrypoint} cannot be loaded: {type(reason).__name__}: {reason}"
        raise UsageError(message, "Fix it and deploy again") from None


def _load_schedule(schedule: dict[str, Any]) -> DeploymentScheduleCreate:
    cron = CronSchedule(cron=schedule["cron"], timezone=schedule.get("timezone", "UTC"))
    return DeploymentScheduleCreate(schedule=cron, active=schedule.get("active", True), slug=schedule["slug"])


async def set_up_deployment(client: PrefectClient, desired: DesiredDeployment) -> SetupResult:
    """Create one deployment, or update the fields and schedules that differ."""
    target = f"deployment {desired.full_name}"
    now = datetime.now(UTC)
    try:
        found = await client.read_deployment_by_name(desired.full_name)
    except ObjectNotFound:
        fields = _with_since(desired.fields, {}, now)
        flow_id = await client.create_flow_from_name(desired.flow)
        await client.create_deployment(flow_id, desired.name, schedules=desired.schedules, **fields)
        detail = "" if fields == desired.fields else f"processes images from {now:%Y-%m-%d %H:%M} UTC on"
        return SetupResult(Change.CREATED, target, detail)
    updated = await _update_fields(
        client, found, _with_since(_with_environment(desired.fields, found.job_variables or {}), found.parameters, now)
    )
    updated += [slug for each in desired.schedules if (slug := await _update_schedule(client, found, each))]
    return SetupResult(Change.UPDATED if updated else Change.UNCHANGED, target, ", ".join(updated))


def _with_since(fields: dict[str, Any], found: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Set `since` of a deployment that generates: the user's value, else the time of the first deploy."""
    parameters = fields["parameters"]
    if not parameters.get("generate") or SINCE in parameters:
        return fields
    since = found.get(SINCE) or now.isoformat(timespec="seconds")
    return fields | {"parameters": parameters | {SINCE: since}}


def _with_environment(fields: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Keep the environment variables that users added to a deployment."""
    job_variables = fields["job_variables"]
    return fields | {"job_variables": job_variables | {"env": {**(found.get("env") or {}), **job_variables["env"]}}}


async def _update_fields(client: PrefectClient, found: DeploymentResponse, fields: dict[str, Any]) -> list[str]:
    """Update the fields that differ, and return their names."""
    current = found.model_dump(mode="json", include=set(fields))
    differing = [name for name, value in fields.items() if current[name] != value]
    if differing:
        await client.update_deployment(found.id, DeploymentUpdate(**{name: fields[name] for name in differing}))
    # name the parameters, because some limit spending
    old, new = current["parameters"], fields["parameters"]
    parameters = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return [f"parameters ({', '.join(parameters)})" if name == "parameters" else name for name in differing]


async def _update_schedule(
    client: PrefectClient, found: DeploymentResponse, desired: DeploymentScheduleCreate
) -> str | None:
    """Update a schedule's time, never whether it is active; return a description of the change."""
    # `prefect deploy` creates schedules without a slug; compare those by their time
    same = (s for s in found.schedules if s.slug == desired.slug or (s.slug is None and s.schedule == desired.schedule))
    existing = next(same, None)
    if existing is None:
        await client.create_deployment_schedules(found.id, [desired])
    elif existing.schedule != desired.schedule or existing.slug != desired.slug:
        await client.update_deployment_schedule(found.id, existing.id, schedule=desired.schedule, slug=desired.slug)
    else:
        return None
    return f"schedule {desired.slug}"
