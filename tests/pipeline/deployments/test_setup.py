"""`make deploy`: what it creates, that it duplicates nothing, and which user choices it keeps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import PauseDeployment
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.settings import PREFECT_API_URL, Settings, temporary_settings
from pydantic import BaseModel

from deployments import Change, SetupResult, setup
from deployments.setup import main, set_up
from deployments.sync_deployments import load_deployments, read_config, set_up_deployment
from i2v.errors import UsageError
from sandbox.prefect_server import PrefectServer
from tests.support.paths import ROOT

SINCE = "2026-01-01T00:00:00+00:00"
ALERT = "i2v: a job is unknown"
EVENT = "i2v: new objects start on-image"
DEAD_RUNS = "i2v: dead runs are marked Crashed"


async def _set_up() -> list[SetupResult]:
    async with get_client() as client:
        return [result async for result in set_up(client)]


async def _counts() -> dict[str, int]:
    async with get_client() as client:
        return {
            "pools": len(await client.read_work_pools()),
            "queues": len(await client.read_work_queues(work_pool_name="i2v")),
            "block types": len(await client.read_block_types()),
            "deployments": len(await client.read_deployments()),
            "schedules": sum(len(each.schedules) for each in await client.read_deployments()),
            "automations": len(await client.read_automations()),
        }


async def test_a_second_setup_changes_nothing(prefect_server: PrefectServer) -> None:
    """A second setup reports every object of the first as unchanged and duplicates nothing."""
    first, counts = await _set_up(), await _counts()
    assert {"pools", "automations"} <= {name for name, count in counts.items() if count}

    again = await _set_up()

    assert [str(result) for result in again if result.change is not Change.UNCHANGED] == []
    assert [result.target for result in again] == [result.target for result in first]
    assert await _counts() == counts
    assert max(Counter(result.target for result in again).values()) == 1


async def _change(client: PrefectClient, found: Automation, **changes: Any) -> None:
    changed = found.model_copy(update=changes).model_dump(mode="json", include=set(AutomationCore.model_fields))
    changed.pop("owner_resource")
    await client.update_automation(found.id, AutomationCore.model_validate(changed))


async def _nightly(client: PrefectClient) -> DeploymentResponse:
    return await client.read_deployment_by_name("reconcile/nightly")


async def test_user_settings_are_kept(prefect_server: PrefectServer) -> None:
    """An active schedule, `since`, a paused deployment, a disabled automation and an alert's action are kept."""
    await _set_up()
    async with get_client() as client:
        nightly = await _nightly(client)
        assert not nightly.schedules[0].active
        await client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=True)
        await client.update_deployment(
            nightly.id, DeploymentUpdate(parameters=nightly.parameters | {"since": SINCE}, paused=True)
        )
        (dead,) = await client.read_automations_by_name(DEAD_RUNS)
        await client.pause_automation(dead.id)
        (alert,) = await client.read_automations_by_name(ALERT)
        pause = PauseDeployment(source="selected", deployment_id=nightly.id)
        await _change(client, alert, actions=[pause])

        again = await _set_up()

        nightly = await _nightly(client)
        (kept,) = await client.read_automations_by_name(ALERT)
        (still,) = await client.read_automations_by_name(DEAD_RUNS)
        await client.resume_automation(dead.id)
        await _change(client, alert)
        await client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
        await client.update_deployment(nightly.id, DeploymentUpdate(paused=False))
    assert {result.change for result in again} == {Change.UNCHANGED}
    assert (nightly.schedules[0].active, nightly.parameters["since"], nightly.paused) == (True, SINCE, True)
    assert (kept.actions[0].type, still.enabled) == ("pause-deployment", False)


async def test_a_named_block_sends_the_alerts(prefect_server: PrefectServer) -> None:
    """`--notify` sets the action of existing alerts, and a later setup without it keeps them."""
    await _set_up()
    async with get_client() as client:
        (before,) = await client.read_automations_by_name(ALERT)
        hook = CustomWebhookNotificationBlock(name="alerts", url="https://example.com/alerts")
        block = await hook.asave("alerts", client=client)

        changed = [result.target async for result in set_up(client, block) if result.change is Change.UPDATED]
        again = await _set_up()

        (alert,) = await client.read_automations_by_name(ALERT)
        for name in re.findall("'(.+)'", "\n".join(changed)):
            (each,) = await client.read_automations_by_name(name)
            await _change(client, each, actions=before.actions)
    assert len(changed) == 4
    assert ALERT in str(changed)
    assert {result.change for result in again} == {Change.UNCHANGED}
    (sent,) = [action.model_dump() for action in alert.actions]
    assert (sent["type"], sent["block_document_id"]) == ("send-notification", block)


async def test_differences_from_prefect_yaml_are_updated(prefect_server: PrefectServer) -> None:
    """Values changed on the server are reset to prefect.yaml, and the rest is not touched."""
    await _set_up()
    async with get_client() as client:
        found = await client.read_deployment_by_name("report/report")
        await client.update_deployment(found.id, DeploymentUpdate(tags=["other"], parameters={"days": 9}))
        (daily,) = found.schedules
        await client.update_deployment_schedule(found.id, daily.id, schedule=CronSchedule(cron="0 1 * * *"))
        (dead,) = await client.read_automations_by_name(DEAD_RUNS)
        slower = dead.trigger.model_copy(update={"within": timedelta(hours=9)})
        await _change(client, dead, trigger=slower)
        (event,) = await client.read_automations_by_name(EVENT)
        await _change(client, event, description="")

        again = await _set_up()

        now = await client.read_deployment_by_name("report/report")
    assert [str(result) for result in again if result.change is not Change.UNCHANGED] == [
        "updated    deployment report/report: tags, parameters (days), schedule daily",
        f"updated    automation {DEAD_RUNS!r}",
        f"updated    automation {EVENT!r}",
    ]
    assert (now.tags, now.parameters) == (found.tags, found.parameters)
    assert [(each.id, each.schedule) for each in now.schedules] == [(daily.id, daily.schedule)]


async def test_old_images_are_not_processed(prefect_server: PrefectServer) -> None:
    """`since` is the time at which the deployment was first created, and later deploys keep it."""
    (desired,) = [each for each in load_deployments(read_config(), {}) if each.name == "nightly"]
    desired = desired._replace(name="nightly-copy")
    async with get_client() as client:
        created = await set_up_deployment(client, desired)
        first = await client.read_deployment_by_name("reconcile/nightly-copy")
        await set_up_deployment(client, desired)
        second = await client.read_deployment_by_name("reconcile/nightly-copy")
        await client.delete_deployment(first.id)

    assert first.created
    assert abs(datetime.fromisoformat(first.parameters["since"]) - first.created) < timedelta(minutes=1)
    assert second.parameters == first.parameters
    assert "processes images from" in created.detail


async def test_a_schedule_added_by_a_user_is_kept(prefect_server: PrefectServer) -> None:
    """A schedule added in the UI, without a slug, is neither changed nor removed."""
    await _set_up()
    async with get_client() as client:
        found = await client.read_deployment_by_name("report/report")
        (own,) = await client.create_deployment_schedules(
            found.id, [DeploymentScheduleCreate(schedule=CronSchedule(cron="0 7 * * 1"))]
        )

        again = await _set_up()

        there = {each.id for each in await client.read_deployment_schedules(found.id)}
        await client.delete_deployment_schedule(found.id, own.id)
    assert {result.change for result in again} == {Change.UNCHANGED}
    assert own.id in there


def test_a_flow_that_cannot_be_loaded_is_not_deployed(tmp_path: Path) -> None:
    """A flow that cannot be imported is reported with the reason."""
    config = read_config()
    config["deployments"][0]["entrypoint"] = "flows/nothing.py:generate_videos"

    with pytest.raises(UsageError, match=r"flows/nothing\.py:generate_videos cannot be loaded"):
        load_deployments(config, {})


def test_an_unreachable_or_missing_server_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command exits 3 if the server does not respond and 2 if none is set, and both say what to do."""
    monkeypatch.setattr(setup, "START_SECONDS", 0)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main([]) == 3
    assert "http://127.0.0.1:9/api does not respond" in capsys.readouterr().err
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert main([]) == 2
    assert "export PREFECT_API_URL=" in capsys.readouterr().err


def test_notify_needs_an_existing_block(prefect_server: PrefectServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`--notify` with an unknown block exits 2 before anything is created, and says how to create one."""
    assert main(["--notify", "slack-webhook/missing"]) == 2

    captured = capsys.readouterr()
    assert "The block slack-webhook/missing does not exist" in captured.err
    assert captured.out == ""


def test_help_explains_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` says what the command does, what it keeps, and what to run next."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    text = capsys.readouterr().out
    assert all(
        word in text for word in ("--notify", "PREFECT_API_URL", "worker start --pool i2v", "Exit codes", "kept")
    )


def _variables(model: type[BaseModel]) -> set[str]:
    schema: dict[str, Any] = model.model_json_schema(mode="validation")
    parts = [schema, *schema.get("$defs", {}).values()]
    fields = [field for part in parts for field in part.get("properties", {}).values()]
    return {name for field in fields for name in field.get("supported_environment_variables", [])}


def test_prefect_knows_every_server_setting() -> None:
    """Prefect reads every setting named in deployments/server.env; it would silently ignore an unknown one."""
    names = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / "deployments/server.env").read_text(), re.MULTILINE)
    assert len(names) > 8

    known = _variables(Settings) | {"DO_NOT_TRACK", "PREFECT_SERVER_ENCRYPTION_KEY"}  # read outside its settings
    assert set(names) - known == set()


def test_prefect_accepts_every_server_setting(tmp_path: Path) -> None:
    """Prefect accepts every value in deployments/server.env."""
    show = (
        "from prefect.settings import get_current_settings as g; s = g().server; print(s.services.db_vacuum.enabled, "
    )
    show += "s.services.task_run_recorder.batch_size, s.concurrency.lease_storage, s.events.retention_period)"
    values = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "deployments/server.env").read_text(), re.MULTILINE))
    env = {"PATH": os.environ["PATH"], "PREFECT_HOME": str(tmp_path), **values}

    output = subprocess.run([sys.executable, "-c", show], env=env, capture_output=True, text=True, check=True).stdout  # noqa: S603 - ours

    assert all(word in output for word in ("flow_runs", " 200 ", "lease_storage.filesystem", "2 days"))
