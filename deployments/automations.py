"""The automations: two mark dead flow runs Crashed, four send messages.

An automation is found by its name, so names never change. Users decide whether it is enabled. They also decide what an
alert does, unless `--notify` names a notification block; without one, a new alert only shows in the event feed.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import DeploymentTriggerTypes
from prefect.events.actions import ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from pydantic import TypeAdapter

from deployments import Change, SetupResult
from deployments.sync_deployments import DesiredDeployment
from i2v.advised_commands import command

ALERT_INTERVAL = timedelta(minutes=10)
"""An alert is sent at most once in this time."""
JOB_UNKNOWN = "i2v.job.unknown"
"""Emitted with the resource `i2v.job.<key>`."""
START_TIMEOUT = timedelta(minutes=10)
"""A flow run's process starts within seconds, and within a minute on a very busy machine."""
BUDGET_NEAR = "i2v.budget.near"
"""Emitted at 80 % of a limit with the resource `i2v.ledger.<bucket>`, whose label `i2v.limit` names the limit."""
RUN_FINISHED = "i2v.run.finished"
"""Emitted with the resource `i2v.run.<flow run id>`, whose label `i2v.images` is the number of images."""
RUN_FAILED = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"}
NOT_STARTED = {f"prefect.flow-run.{state}" for state in ("Pending", "Submitting", "InfrastructurePending")}


def dead_runs(flows: list[str], heartbeat_seconds: int) -> AutomationCore:
    """Mark a flow run Crashed after three missed heartbeats. A self-hosted server does not do this by itself."""
    return AutomationCore(
        name="i2v: dead runs are marked Crashed",
        description="Without this automation a run whose process was killed stays Running forever.",
        trigger=_silence(flows, after={"prefect.flow-run.heartbeat"}, within=timedelta(seconds=3 * heartbeat_seconds)),
        actions=[_crash("The run missed three heartbeats. reconcile settles its open jobs.")],
    )


def lost_runs(flows: list[str]) -> AutomationCore:
    """Mark a flow run Crashed if a worker took it and it did not start: the worker died."""
    return AutomationCore(
        name="i2v: runs that never began are marked Crashed",
        description="Without this automation a run whose worker was killed stays Pending and occupies a slot of its "
        "work queue.",
        trigger=_silence(flows, after=NOT_STARTED, within=START_TIMEOUT),
        actions=[
            _crash(
                "The worker died before the run started. Nothing was charged; nightly or a new run makes the videos."
            )
        ],
    )


def _silence(flows: list[str], *, after: set[str], within: timedelta) -> EventTrigger:
    """Return a trigger that fires if a run emits nothing for so long after one of these events."""
    return EventTrigger(
        after=after,
        expect={"prefect.flow-run.*"},  # any event of the run, because states can have custom names, e.g. Skipped
        match_related=_flows_resource(flows),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _crash(message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=StateType.CRASHED, message=message)


def _flows_resource(flows: list[str]) -> ResourceSpecification:
    return ResourceSpecification.model_validate({"prefect.resource.role": "flow", "prefect.resource.name": flows})


SELF_HOSTED_LINK = "{{ (flow_run | ui_url or '') | replace('/v2/runs/', '/runs/') | replace('/runs/', '/v2/runs/') }}"
"""The run's page in the current UI, which a self-hosted server has below `/v2`; Prefect's filter leaves that out."""
CLOUD_LINK = "{{ flow_run | ui_url or '' }}"
FINISHED_TEXT = (
    "{{ event.payload.images }} images: {{ event.payload.sentence }}\n"
    "{% if event.payload.needs_person_count %}Needs a person: {{ event.payload.needs_person_count }}\n{% endif %}"
    "{% for one in event.payload.needs_person or [] %}"
    "- {{ one.outcome }}: {{ one.image }}: {{ one.reason }}\n"
    "{% endfor %}"
)


def alerts(flows: list[str], block: UUID | None, *, is_cloud: bool = False) -> list[AutomationCore]:
    """Return the messages about runs, jobs and money; `block` is the notification block that sends them."""

    def alert(name: str, description: str, text: str, trigger: EventTrigger) -> AutomationCore:
        sends = SendNotification(block_document_id=block, subject=name, body=text) if block else DoNothing()
        return AutomationCore(name=name, description=description, trigger=trigger, actions=[sends])

    link = CLOUD_LINK if is_cloud else SELF_HOSTED_LINK
    return [
        alert(
            "i2v: a batch is done",
            "Text: counts and cost of a run of more than one image, what needs a person, and a link to the run.",
            FINISHED_TEXT + link,
            EventTrigger(
                expect={RUN_FINISHED},
                match=ResourceSpecification({"prefect.resource.id": ["i2v.run.*"], "i2v.images": ["!1"]}),
                for_each={"prefect.resource.id"},
                within=timedelta(0),
            ),
        ),
        alert(
            "i2v: a run failed",
            "Alert text: the flow run's name, state and message, with a link to the run.",
            "{{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}\n" + link,
            EventTrigger(
                expect=RUN_FAILED,
                match_related=_flows_resource(flows),
                for_each={"related:flow:prefect.resource.id"},
                within=ALERT_INTERVAL,
            ),
        ),
        alert(
            "i2v: a job is unknown",
            "Alert text: the job whose submit response was lost, and the command that lists such jobs.",
            "The response to a submit was lost, and it may have been charged: {{ event.resource.id }}. "
            f"Run: {command('jobs', '--state', 'unknown')}",
            EventTrigger(expect={JOB_UNKNOWN}, within=ALERT_INTERVAL),
        ),
        alert(
            "i2v: the budget is nearly spent",
            "Alert text: the ledger, the amount spent, the limit and its name.",
            "{{ event.resource.id }}: ${{ event.payload.spent_usd }} of ${{ event.payload.cap_usd }} are spent, the "
            "limit of this {{ event.payload.period }} by {{ event.payload.limit }}",
            EventTrigger(
                expect={BUDGET_NEAR}, for_each={"prefect.resource.id", "i2v.limit"}, within=timedelta(hours=6)
            ),
        ),
    ]


async def event_automations(client: PrefectClient, desired: DesiredDeployment) -> list[AutomationCore]:
    """Return the automations for a deployment's triggers."""
    if not desired.triggers:
        return []
    deployment = await client.read_deployment_by_name(desired.full_name)
    parsed = TypeAdapter[list[DeploymentTriggerTypes]](list[DeploymentTriggerTypes]).validate_python(desired.triggers)
    for trigger in parsed:
        trigger.set_deployment_id(deployment.id)
    return [trigger.as_automation() for trigger in parsed]


async def set_up_automation(client: PrefectClient, desired: AutomationCore) -> SetupResult:
    """Create or update one automation; a disabled one stays disabled."""
    target = f"automation {desired.name!r}"
    existing = await client.read_automations_by_name(desired.name)
    if not existing:
        await client.create_automation(desired)
        return SetupResult(Change.CREATED, target)
    if len(existing) > 1:
        return SetupResult(Change.KEPT, target, f"it exists {len(existing)} times; delete the duplicates in the UI")
    found = existing[0]
    does_nothing = all(isinstance(action, DoNothing) for action in desired.actions)
    actions = found.actions if does_nothing else desired.actions
    desired = desired.model_copy(update={"enabled": found.enabled, "actions": actions})
    if _comparable(found) == _comparable(desired):
        return SetupResult(Change.UNCHANGED, target, "" if found.enabled else "disabled by a user")
    # The server rejects the owner. Validating sets every field: the client omits defaults, e.g. an action's type.
    complete = AutomationCore.model_validate(desired.model_dump(mode="json", exclude={"owner_resource"}))
    await client.update_automation(found.id, complete)
    return SetupResult(Change.UPDATED, target)


def _comparable(automation: AutomationCore) -> Any:
    """Return the fields that we configure, without ids and order."""
    return _normalize(automation.model_dump(mode="json", include={"description", "trigger", "actions"}))


def _normalize(value: Any) -> Any:
    match value:
        case dict():
            return {name: _normalize(inner) for name, inner in value.items() if name != "id"}
        case list():
            return sorted((_normalize(inner) for inner in value), key=str)
        case _:
            return value
