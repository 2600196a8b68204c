"""The automations: runs that died or never began are marked Crashed, and three things that a person wants to hear of.

An automation is known by its name. Whether it is enabled is a person's, and so is what an alert does, unless `--notify`
names a block: without one it does nothing but show in the server's feed of events.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import DeploymentTriggerTypes
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from pydantic import TypeAdapter

from deployments import Change, SetupResult
from deployments.prefect_yaml import DesiredDeployment
from deployments.work_pool import HEARTBEAT_SECONDS

QUIET = timedelta(minutes=10)
"""So long an alert is not repeated."""
JOB_UNKNOWN = "i2v.job.unknown"
"""Emitted with the resource `i2v.job.<key>`."""
BEGINS_WITHIN = timedelta(minutes=10)
"""A process takes seconds to begin, and on a machine that is very busy a minute."""
BUDGET_NEAR = "i2v.budget.near"
"""Emitted with the resource `i2v.ledger.<bucket>` and `spent_usd` and `cap_usd` in its payload, at 80 % of the cap."""
RUN_FAILED = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"}


def dead_runs(flows: list[str]) -> AutomationCore:
    """A run that was heard of and then is silent for three heartbeats is dead; self-hosted servers never look."""
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},  # any word of it: also states with names of our own, such as Skipped
        match_related=_of(flows),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=3 * HEARTBEAT_SECONDS),
    )
    message = "its process has said nothing for three heartbeats; reconcile settles what it left open"
    return AutomationCore(
        name="i2v: dead runs are marked Crashed",
        description="Without it a run whose process was killed stays Running for ever.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def lost_runs(flows: list[str]) -> AutomationCore:
    """A run that a worker took and did not begin: the worker died, and the run holds a place in its queue for ever."""
    trigger = EventTrigger(
        after={f"prefect.flow-run.{name}" for name in ("Pending", "Submitting", "InfrastructurePending")},
        expect={"prefect.flow-run.*"},
        match_related=_of(flows),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=BEGINS_WITHIN,
    )
    message = "its worker died before it began; nothing was paid, and nightly or a new run makes its videos"
    return AutomationCore(
        name="i2v: runs that never began are marked Crashed",
        description="Without it a run whose worker was killed stays Pending, and takes one of its queue's places.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _of(flows: list[str]) -> ResourceSpecification:
    return ResourceSpecification.model_validate({"prefect.resource.role": "flow", "prefect.resource.name": flows})


def alerts(flows: list[str], block: UUID | None) -> list[AutomationCore]:
    """The three alerts; `block` is the notification block that sends them."""
    failed = EventTrigger(
        expect=RUN_FAILED,
        match_related=_of(flows),
        for_each={"related:flow:prefect.resource.id"},
        within=QUIET,
    )
    unknown = EventTrigger(expect={JOB_UNKNOWN}, within=QUIET)
    near = EventTrigger(expect={BUDGET_NEAR}, for_each={"prefect.resource.id"}, within=timedelta(hours=6))
    return [
        _alert(
            "i2v: a run failed",
            failed,
            block,
            "{{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}\n"
            "{{ flow_run | ui_url or '' }}",
        ),
        _alert(
            "i2v: a job is unknown",
            unknown,
            block,
            "A paid submit lost its answer: {{ event.resource.id }}. See: i2v jobs --state unknown",
        ),
        _alert(
            "i2v: the budget is nearly spent",
            near,
            block,
            "{{ event.resource.id }}: ${{ event.payload.spent_usd }} of today's ${{ event.payload.cap_usd }} are spent",
        ),
    ]


def _alert(name: str, trigger: EventTrigger, block: UUID | None, body: str) -> AutomationCore:
    send: list[ActionTypes] = (
        [SendNotification(block_document_id=block, subject=name, body=body)] if block else [DoNothing()]
    )
    described = f"Would tell: {body}" if block is None else ""
    return AutomationCore(name=name, description=described, trigger=trigger, actions=send)


async def triggers(
    client: PrefectClient, wanted: DesiredDeployment, given: list[dict[str, Any]]
) -> list[AutomationCore]:
    """The automations that prefect.yaml has as a deployment's triggers."""
    if not given:
        return []
    found = await client.read_deployment_by_name(f"{wanted.flow}/{wanted.name}")
    made = [TypeAdapter[DeploymentTriggerTypes](DeploymentTriggerTypes).validate_python(each) for each in given]
    for trigger in made:
        trigger.set_deployment_id(found.id)
    return [trigger.as_automation() for trigger in made]


async def set_up_automation(client: PrefectClient, wanted: AutomationCore) -> SetupResult:
    """Make or change one automation; one that a person disabled stays so."""
    what = f"automation {wanted.name!r}"
    there = await client.read_automations_by_name(wanted.name)
    if not there:
        await client.create_automation(wanted)
        return SetupResult(Change.MADE, what)
    if len(there) > 1:
        return SetupResult(Change.LEFT, what, f"it is there {len(there)} times; delete all but one, in the UI")
    found = there[0]
    wanted = _keeping(wanted, found)
    if _plain(found) == _plain(wanted):
        return SetupResult(Change.UNCHANGED, what, "" if found.enabled else "disabled, as a person left it")
    await client.update_automation(found.id, _changeable(wanted))
    return SetupResult(Change.CHANGED, what)


def _changeable(automation: AutomationCore) -> AutomationCore:
    """As an update can be sent: the server refuses to be told of the owner, which it keeps.

    Every field is set anew, since the client sends no defaults: an action without its `type` would become another one.
    """
    return AutomationCore.model_validate(automation.model_dump(mode="json", exclude={"owner_resource"}))


def _keeping(wanted: AutomationCore, found: Automation) -> AutomationCore:
    silent = all(isinstance(action, DoNothing) for action in wanted.actions)
    kept: dict[str, Any] = {"actions": found.actions, "description": found.description} if silent else {}
    return wanted.model_copy(update={"enabled": found.enabled, **kept})


def _plain(automation: AutomationCore) -> dict[str, Any]:
    """What we decide of it, as JSON and without ids and order."""
    said = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    return {name: _sorted(value) for name, value in said.items()}


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {name: _sorted(inner) for name, inner in value.items() if name != "id"}
        case [*texts] if all(isinstance(text, str) for text in texts):
            return sorted(texts)
        case list():
            return [_sorted(inner) for inner in value]
        case _:
            return value
