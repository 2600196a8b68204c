"""`make deploy`: what it makes, that it makes nothing twice, and what of people's choices it keeps."""

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

from deployments import Change, SetupResult
from deployments.prefect_yaml import load_deployments, read_config, set_up_deployment
from deployments.setup import main, set_up
from i2v.errors import UsageError
from sandbox.prefect_server import PrefectServer
from tests.support.paths import ROOT

SINCE = "2026-01-01T00:00:00+00:00"
ALERT = "i2v: a job is unknown"
EVENT = "i2v: new objects start on-image"
DEAD_RUNS = "i2v: dead runs are marked Crashed"


async def _set_up() -> list[SetupResult]:
    async with get_client() as client:
        return [line async for line in set_up(client)]


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


async def test_twice_makes_nothing_twice(prefect_server: PrefectServer) -> None:
    """A second set-up finds all that the first made, says of each that it is unchanged, and nothing is there twice."""
    first, counts = await _set_up(), await _counts()
    assert {"pools", "automations"} <= {name for name, count in counts.items() if count}

    again = await _set_up()

    assert [str(line) for line in again if line.did is not Change.UNCHANGED] == []
    assert [line.what for line in again] == [line.what for line in first]
    assert await _counts() == counts
    assert max(Counter(line.what for line in again).values()) == 1


async def _change(client: PrefectClient, found: Automation, **changes: Any) -> None:
    changed = found.model_copy(update=changes).model_dump(mode="json", include=set(AutomationCore.model_fields))
    changed.pop("owner_resource")
    await client.update_automation(found.id, AutomationCore.model_validate(changed))


async def _nightly(client: PrefectClient) -> DeploymentResponse:
    return await client.read_deployment_by_name("reconcile/nightly")


async def test_what_a_person_set_survives(prefect_server: PrefectServer) -> None:
    """An active nightly, its `since`, a disabled automation, an alert's action and a queue's limit stay as they are."""
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
        stops = PauseDeployment(source="selected", deployment_id=nightly.id)
        await _change(client, alert, actions=[stops])

        again = await _set_up()

        nightly = await _nightly(client)
        (kept,) = await client.read_automations_by_name(ALERT)
        (still,) = await client.read_automations_by_name(DEAD_RUNS)
        await client.resume_automation(dead.id)
        await _change(client, alert)
        await client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
        await client.update_deployment(nightly.id, DeploymentUpdate(paused=False))
    assert {line.did for line in again} == {Change.UNCHANGED}
    assert (nightly.schedules[0].active, nightly.parameters["since"], nightly.paused) == (True, SINCE, True)
    assert (kept.actions[0].type, still.enabled) == ("pause-deployment", False)


async def test_a_named_block_sends_the_alerts(prefect_server: PrefectServer) -> None:
    """`--notify` gives the alerts that are there their action, and a later set-up without it keeps that."""
    await _set_up()
    async with get_client() as client:
        (before,) = await client.read_automations_by_name(ALERT)
        hook = CustomWebhookNotificationBlock(name="alerts", url="https://example.com/alerts")
        block = await hook.asave("alerts", client=client)

        changed = [line.what async for line in set_up(client, block) if line.did is Change.CHANGED]
        again = await _set_up()

        (alert,) = await client.read_automations_by_name(ALERT)
        for name in re.findall("'(.+)'", "\n".join(changed)):
            (each,) = await client.read_automations_by_name(name)
            await _change(client, each, actions=before.actions)
    assert len(changed) == 3
    assert ALERT in str(changed)
    assert {line.did for line in again} == {Change.UNCHANGED}
    (sent,) = [action.model_dump() for action in alert.actions]
    assert (sent["type"], sent["block_document_id"]) == ("send-notification", block)


async def test_what_differs_from_the_file_is_changed(prefect_server: PrefectServer) -> None:
    """prefect.yaml counts: what was changed on the server comes back, and the rest is not touched."""
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
    assert [str(line) for line in again if line.did is not Change.UNCHANGED] == [
        "changed    deployment report/report: tags, parameters (days), schedule daily",
        f"changed    automation {DEAD_RUNS!r}",
        f"changed    automation {EVENT!r}",
    ]
    assert (now.tags, now.parameters) == (found.tags, found.parameters)
    assert [(each.id, each.schedule) for each in now.schedules] == [(daily.id, daily.schedule)]


async def test_an_archive_is_not_animated(prefect_server: PrefectServer) -> None:
    """`since` is the time of the first deploy, also of one that is made anew, and not of a later one."""
    (wanted,) = [each for each in load_deployments(read_config()) if each.name == "nightly"]
    wanted = wanted._replace(name="nightly-again")
    async with get_client() as client:
        made = await set_up_deployment(client, wanted)
        first = await client.read_deployment_by_name("reconcile/nightly-again")
        await set_up_deployment(client, wanted)
        second = await client.read_deployment_by_name("reconcile/nightly-again")
        await client.delete_deployment(first.id)

    assert first.created
    assert abs(datetime.fromisoformat(first.parameters["since"]) - first.created) < timedelta(minutes=1)
    assert second.parameters == first.parameters
    assert "takes images from" in made.detail


async def test_a_schedule_of_a_persons_own_is_left_alone(prefect_server: PrefectServer) -> None:
    """What was added in the UI, without a name, is neither changed nor removed."""
    await _set_up()
    async with get_client() as client:
        found = await client.read_deployment_by_name("report/report")
        (own,) = await client.create_deployment_schedules(
            found.id, [DeploymentScheduleCreate(schedule=CronSchedule(cron="0 7 * * 1"))]
        )

        again = await _set_up()

        there = {each.id for each in await client.read_deployment_schedules(found.id)}
        await client.delete_deployment_schedule(found.id, own.id)
    assert {line.did for line in again} == {Change.UNCHANGED}
    assert own.id in there


def test_a_flow_that_cannot_be_loaded_is_not_deployed(tmp_path: Path) -> None:
    """It is named with its reason, in one sentence and no traceback."""
    config = read_config()
    config["deployments"][0]["entrypoint"] = "flows/nothing.py:generate_videos"

    with pytest.raises(UsageError, match=r"flows/nothing\.py:generate_videos cannot be loaded"):
        load_deployments(config)


def test_without_a_server_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3 where the server does not answer, exit 2 where none is named; both say what to do."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main([]) == 3
    assert "http://127.0.0.1:9/api does not answer" in capsys.readouterr().err
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert main([]) == 2
    assert "export PREFECT_API_URL=" in capsys.readouterr().err


def test_an_alert_needs_a_block_that_is_there(
    prefect_server: PrefectServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 before anything is made, with how to make one."""
    assert main(["--notify", "slack-webhook/nobody"]) == 2

    told = capsys.readouterr()
    assert "There is no block slack-webhook/nobody" in told.err
    assert told.out == ""


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks for help reads what it does, what it keeps, and what comes next."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    told = capsys.readouterr().out
    assert all(
        word in told for word in ("--notify", "PREFECT_API_URL", "worker start --pool i2v", "Exit codes", "kept")
    )


def _variables(model: type[BaseModel]) -> set[str]:
    schema: dict[str, Any] = model.model_json_schema(mode="validation")
    parts = [schema, *schema.get("$defs", {}).values()]
    fields = [field for part in parts for field in part.get("properties", {}).values()]
    return {name for field in fields for name in field.get("supported_environment_variables", [])}


def test_prefect_knows_every_server_setting() -> None:
    """A name in deployments/server.env that Prefect does not read would be ignored in silence."""
    named = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / "deployments/server.env").read_text(), re.MULTILINE)
    assert len(named) > 8

    known = _variables(Settings) | {"DO_NOT_TRACK", "PREFECT_SERVER_ENCRYPTION_KEY"}  # read outside its settings
    assert set(named) - known == set()


def test_prefect_takes_every_server_setting(tmp_path: Path) -> None:
    """The values are of the types and kinds that Prefect reads them as."""
    show = (
        "from prefect.settings import get_current_settings as g; s = g().server; print(s.services.db_vacuum.enabled, "
    )
    show += "s.services.task_run_recorder.batch_size, s.concurrency.lease_storage, s.events.retention_period)"
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "deployments/server.env").read_text(), re.MULTILINE))
    env = {"PATH": os.environ["PATH"], "PREFECT_HOME": str(tmp_path), **given}

    said = subprocess.run([sys.executable, "-c", show], env=env, capture_output=True, text=True, check=True).stdout  # noqa: S603 - ours

    assert all(word in said for word in ("flow_runs", " 200 ", "lease_storage.filesystem", "7 days"))
