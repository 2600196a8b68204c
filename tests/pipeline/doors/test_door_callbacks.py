"""Promise 10 at the door: forged and malformed callbacks start no run; a valid callback starts one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from doors.http.callbacks import COLLECT, CallbackOutcome
from flows.reconcile import reconcile_videos
from i2v.apixo.callbacks import callback_url
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from sandbox.provider import Provider
from sandbox.server import TIMEOUT_SECONDS
from sandbox.synthetic_images import make_jpeg
from tests.support.callback_attacks import list_attacks, send_attacks, send_random_attacks, send_truncated
from tests.support.callback_door import SECRET, callback_urls, jobs_in_runs, list_collect_runs, open_door
from tests.support.callback_door import collect as collect  # noqa: PLC0414 - a fixture
from tests.support.callback_door import env as env  # noqa: PLC0414 - a fixture
from tests.support.callback_door import settings as settings  # noqa: PLC0414 - a fixture
from tests.support.door_process import DoorProcess, wait_for_async
from tests.support.fault_proxy import FaultProxy, FaultRule
from tests.support.flow_runs import RunFlow
from tests.support.paths import ROOT

FORGED = int(os.environ.get("I2V_FORGED_CALLBACKS", "240"))
"""10,000 take a minute or two."""
ROUNDS = 4
MOST_GROWN_KB = 20_000


async def test_callbacks_become_one_run_and_repeats_do_nothing(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, collect: UUID, env: dict[str, str], tmp_path: Path
) -> None:
    """The provider gets 200 in time, a run of `collect` names each job once, and its videos are stored."""
    provider.set_options(callback_scale=0.01)
    provider.add_fault(on="callback", kind="double", times=None)
    for number in range(5):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    with open_door(env, tmp_path) as door:
        await wait_for_async(lambda: door.get("/healthz").json()["ready"])
        health = door.get("/healthz").json()
        ended = await run_flow(delivery="callback")
        assert ended.message == "5 submitted, awaiting callback · $0.96"
        await wait_for_async(lambda: len(_accepted(provider)) >= 10)
        runs = await list_collect_runs(collect)
        state = await reconcile_videos(jobs=[job for run in runs for job in run.parameters["jobs"]], return_state=True)
        again = await asyncio.to_thread(_post_again, provider)
        log = door.read_log()
    assert state.message == "5 stored · $0.00"
    assert sorted(job for run in runs for job in run.parameters["jobs"]) == sorted(
        f"{item['job']}/1/{item['task_id']}" for item in ended.report["items"]
    )
    assert health["ready"], health
    assert {tag for run in runs for tag in run.tags} == {"callback"}
    assert (again, len(await list_collect_runs(collect))) == ({200}, len(runs))
    calls = provider.request_log.find("callback")
    assert max(call.seconds or 0 for call in calls) < 10  # a second on an idle machine; the provider waits 30
    assert re.search(r"Started flow run .* for \d+ callbacks", log)
    assert [
        address.rpartition("/")[2] for address in callback_urls(provider) if address.rpartition("/")[2] in log
    ] == []
    assert set(provider.billed().values()) == {1}


def _accepted(provider: Provider) -> list[str]:
    return [call.outcome for call in provider.request_log.find("callback") if call.outcome == "200"]


def _post_again(provider: Provider) -> set[int]:
    """Send every callback again and return the statuses."""
    bodies = [(str(task.request.callback_url), {"data": {"taskId": task.id}}) for task in provider.tasks.values()]
    with httpx.Client(trust_env=False, timeout=60) as client:
        return {client.post(url, json=body).status_code for url, body in bodies}


@pytest.mark.timeout(120 + FORGED // 10)
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # other threads of this process do
async def test_forged_and_malformed_callbacks_start_nothing(
    sandbox: Sandbox,
    provider: Provider,
    run_flow: RunFlow,
    collect: UUID,
    env: dict[str, str],
    settings: Settings,
    tmp_path: Path,
) -> None:
    """Attacks get a bare status and change no record or memory; a replayed valid callback starts one run."""
    provider.add_fault(on="callback", kind="lost", times=None)
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    with open_door(env, tmp_path) as door:
        ended = await run_flow(delivery="callback")
        first, second = ended.report["items"]
        records = {key: sandbox.read(key) for key in sandbox.keys("jobs/") if len(key) > 60}
        attacks = list_attacks(settings, (first["job"], second["job"]), first["task_id"])
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            await send_attacks(client, attacks)
            before = _resident_kb(door.pid)
            for _ in range(ROUNDS):
                await send_attacks(client, attacks * (FORGED // 2 // ROUNDS // len(attacks) + 1))
        await asyncio.to_thread(send_random_attacks, FORGED // 2, settings, (first["job"], second["job"]))
        await send_truncated(callback_url(settings, first["job"], 1), FORGED // 20)
        grown = _resident_kb(door.pid) - before
        counted = door.count("i2v_door_callbacks_total")
    print(f"{counted:.0f} callbacks counted, {before} KB resident before, {grown} KB more after")  # noqa: T201 - shown by -rP
    assert counted > FORGED * 0.7
    assert jobs_in_runs(await list_collect_runs(collect)) == [f"{first['job']}/1/{first['task_id']}"]
    assert {key: sandbox.read(key) for key in sandbox.keys("jobs/") if len(key) > 60} == records
    assert grown < MOST_GROWN_KB, f"{grown} KB"


def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


async def test_a_callback_survives_a_killed_door_and_a_prefect_outage(
    sandbox: Sandbox,
    provider: Provider,
    prefect_server: PrefectServer,
    run_flow: RunFlow,
    collect: UUID,
    env: dict[str, str],
    tmp_path: Path,
) -> None:
    """A killed door or a Prefect outage gives no 200; the retry gets 200, and there is only one run."""
    provider.add_fault(on="callback", kind="lost", times=None)
    sandbox.put_image("images/a.jpg", make_jpeg(400, 400))
    await run_flow(delivery="callback")
    with FaultProxy(prefect_server.url.removeprefix("http://")) as proxy:
        env |= {"PREFECT_API_URL": f"{proxy.url}/api"}
        with open_door(env, tmp_path) as door:
            proxy.add(FaultRule("kill", "POST", "/create_flow_run", when="after", pid=door.pid))
            with pytest.raises(httpx.TransportError):
                await asyncio.to_thread(_post_again, provider)
            assert door.wait() == -signal.SIGKILL
        runs = await list_collect_runs(collect)
        proxy.add(FaultRule("drop", "", "/api/", times=None))
        with open_door(env, tmp_path) as door:
            during_outage = await asyncio.to_thread(_post_again, provider)
            proxy.reset()
            afterwards = await asyncio.to_thread(_post_again, provider)
            assert door.count("i2v_door_callbacks_total") == 2
    assert (during_outage, afterwards) == ({503}, {200})
    assert [run.id for run in await list_collect_runs(collect)] == [run.id for run in runs]
    assert jobs_in_runs(runs) == [
        f"{record['key']}/1/{record['attempts'][0]['task_id']}" for record in _records(sandbox)
    ]


def _records(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [sandbox.read_json(key) for key in sandbox.keys("jobs/") if len(key) == len("jobs/.json") + 64]


async def test_incomplete_callback_settings_stop_the_door(child_env: dict[str, str]) -> None:
    """A secret without a base URL, or a short secret, exits 2 and names the variable."""
    strong = {"I2V_CALLBACK_SECRET": SECRET}
    weak = {"I2V_CALLBACK_SECRET": "weak", "I2V_CALLBACK_BASE_URL": "https://door.example"}
    for variables, message in (
        (strong, "I2V_CALLBACK_BASE_URL, which is not set"),
        (weak, "I2V_CALLBACK_SECRET.0: it is too short"),
    ):
        command = (sys.executable, "-m", "doors")
        door = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=child_env | variables, stderr=PIPE)
        _, output = await door.communicate()
        assert (door.returncode, message in output.decode()) == (2, True), output


async def test_without_callback_settings_the_route_is_off(
    collect: UUID, child_env: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    """Without a base URL and secret a callback gets 404, and health shows `not set`."""
    with DoorProcess(child_env, tmp_path / "door.log") as door:
        path = callback_url(settings, "0" * 64, 1).partition("/apixo")[2]
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
            response = await client.post(f"{door.url}/apixo{path}", content=b"{}")
        health: dict[str, Any] = door.get("/healthz").json()
    assert (response.status_code, response.content, health["callbacks"]) == (404, b"", "not set")


def test_every_outcome_has_its_status() -> None:
    """The provider accepts only 200, so no outcome has another 2xx status."""
    statuses = Counter(int(outcome.status) for outcome in CallbackOutcome)
    assert statuses == {200: 2, 404: 3, 405: 1, 413: 1, 408: 1, 400: 1, 503: 1}
    assert COLLECT == "reconcile/collect"
