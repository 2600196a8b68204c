"""Promise 10 at the door: what is forged or malformed starts no run and changes nothing; a good callback is one run."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun

from doors.callbacks import COLLECT, Outcome
from flows.reconcile import reconcile_videos
from i2v.apixo.callbacks import BODY_LIMIT_BYTES, callback_url
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.pictures import make_jpeg
from sandbox.prefect_server import PrefectServer
from sandbox.provider import Provider
from tests.conftest import SETTINGS_MAKER
from tests.pipeline.conftest import RUN_FLOW
from tests.pipeline.door_process import DoorProcess, make_deployment, soon

SECRET = "a-secret-of-the-callback-test"
FORGED = 600
ROUNDS = 4


@pytest.fixture
async def collect(prefect_server: PrefectServer) -> AsyncIterator[UUID]:
    """A deployment `collect`, where the tests see what the door starts; it is gone afterwards, with its runs."""
    async with get_client() as client:
        await make_deployment(client)
        flow = await client.create_flow_from_name("reconcile")
        made = await client.create_deployment(flow, "collect", enforce_parameter_schema=False)
    yield made
    async with get_client() as client:
        for run in await client.read_flow_runs(deployment_filter=_only(made)):
            await client.delete_flow_run(run.id)
        await client.delete_deployment(made)


def _only(deployment: UUID) -> DeploymentFilter:
    return DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))


async def _runs(deployment: UUID) -> list[FlowRun]:
    async with get_client() as client:
        return await client.read_flow_runs(deployment_filter=_only(deployment))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def env(
    sandbox: Sandbox, child_env: dict[str, str], run_flow: RUN_FLOW, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Callbacks are set up, for flows in this process and for the door."""
    port = _free_port()
    hosts = f"{sandbox.env['I2V_PRIVATE_HOSTS']},127.0.0.1:{port}"
    ours = {
        "I2V_CALLBACK_BASE_URL": f"http://127.0.0.1:{port}",
        "I2V_CALLBACK_SECRET": SECRET,
        "I2V_PRIVATE_HOSTS": hosts,
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    return child_env | ours | {"I2V_DOOR_PORT": str(port)}


@pytest.fixture
def settings(env: dict[str, str], make_settings: SETTINGS_MAKER) -> Settings:
    """What signs addresses as the flow does."""
    return make_settings(**{name: value for name, value in env.items() if name.startswith(("I2V_", "APIXO_"))})


def open_door(env: dict[str, str], tmp_path: Path) -> DoorProcess:
    """The real door, at the port that the provider is told."""
    return DoorProcess(env, tmp_path / "door.log", port=env["I2V_DOOR_PORT"])


async def test_callbacks_become_one_run_and_repeats_do_nothing(
    sandbox: Sandbox, provider: Provider, run_flow: RUN_FLOW, collect: UUID, env: dict[str, str], tmp_path: Path
) -> None:
    """The provider is answered 200 within a second, a run of `collect` names each job once, and its end is stored."""
    provider.settings(callback_scale=0.01)
    provider.fault(on="callback", kind="double", times=None)
    for number in range(5):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    with open_door(env, tmp_path) as door:
        await soon(lambda: door.get("/healthz").json()["ready"])
        health = door.get("/healthz").json()
        ended = await run_flow(delivery="callback")
        assert ended.message == "5 submitted, awaited by callback · $0.96"
        await soon(lambda: len(_answered(provider)) >= 10)
        runs = await _runs(collect)
        state = await reconcile_videos(jobs=[job for run in runs for job in run.parameters["jobs"]], return_state=True)
        again = await asyncio.to_thread(_post_again, provider, env)
        said = door.said()
    assert state.message == "5 stored · $0.00"
    assert sorted(job for run in runs for job in run.parameters["jobs"]) == sorted(
        f"{item['job']}/1/{item['task_id']}" for item in ended.report["items"]
    )
    assert health["ready"], health
    assert {tag for run in runs for tag in run.tags} == {"callback"}
    assert (again, len(await _runs(collect))) == ({200}, len(runs))
    calls = provider.journal.of("callback")
    assert max(call.seconds or 0 for call in calls) < 10  # a second on a quiet machine; the vendor gives up after 30
    assert "callbacks -> run" in said
    assert [address.rpartition("/")[2] for address in _addresses(provider) if address.rpartition("/")[2] in said] == []
    assert set(provider.billed().values()) == {1}


def _answered(provider: Provider) -> list[str]:
    return [call.outcome for call in provider.journal.of("callback") if call.outcome == "200"]


def _addresses(provider: Provider) -> list[str]:
    return [str(task.order.callback_url) for task in provider.tasks.values()]


def _post_again(provider: Provider, env: dict[str, str]) -> set[int]:
    """The provider says everything once more, after all has ended."""
    bodies = [(str(task.order.callback_url), {"data": {"taskId": task.id}}) for task in provider.tasks.values()]
    with httpx.Client(trust_env=False) as client:
        return {client.post(url, json=body).status_code for url, body in bodies}


def _attacks(settings: Settings, jobs: list[str]) -> list[tuple[str, str, bytes, int]]:
    """Method, address, body and the status that it must get."""
    one, other = (callback_url(settings, job, 1) for job in jobs)
    base, signature = one.rpartition("/")[0], one.rpartition("/")[2]
    body = json.dumps({"data": {"taskId": "task_1"}}).encode()
    nobody, second = callback_url(settings, "0" * 64, 1), callback_url(settings, jobs[0], 2)
    wrong = [
        f"{base}/{other.rpartition('/')[2]}",
        f"{base[:-1]}2/{signature}",
        *(
            f"{base}/{bad}"
            for bad in (signature[:-1], signature.upper(), signature[::-1], "%00" * 9, "é" * 64, "x" * 5000)
        ),
        f"{base.replace(jobs[0], jobs[1])}/{signature}",
        f"{base[:-1]}-1/{signature}",
        f"{base[:-1]}%31%30/{signature}",
        f"{base}//{signature}",
        f"{base}/{signature}/",
        f"{base}/../1/{'0' * 64}",
    ]
    malformed = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"data": 1}', b'{"data": {}}', b'{"data": {"taskId": 7}}']
    malformed += [b'{"data": {"taskId": ""}}', b"[" * 100_000, b'{"data": {"taskId": "' + b"x" * 500 + b'"}}']
    malformed += ['{"data": {"taskId": "täsk\\u0000"}}'.encode()]
    return [
        *(("POST", address, body, 404) for address in [*wrong, nobody, second]),
        *((method, one, body, 405) for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")),
        *(("POST", one, content, 400) for content in malformed),
        ("POST", one, body, 200),  # a valid address with a made-up task: nothing is left to do for it
        ("POST", one, b" " * (BODY_LIMIT_BYTES + 1), 413),
        ("POST", f"{base}/{'0' * 64}", b" " * (BODY_LIMIT_BYTES + 1), 404),
    ]


async def test_what_is_forged_or_malformed_starts_nothing(
    sandbox: Sandbox,
    provider: Provider,
    run_flow: RUN_FLOW,
    collect: UUID,
    env: dict[str, str],
    settings: Settings,
    tmp_path: Path,
) -> None:
    """Other jobs' and attempts' signatures, cut, strange and huge: a bare status, no run, no record, and no memory."""
    provider.fault(on="callback", kind="lost", times=None)
    for number in range(2):
        sandbox.put_image(f"images/{number}.jpg", make_jpeg(400, 400, seed=number))
    with open_door(env, tmp_path) as door:
        ended = await run_flow(delivery="callback")
        records = {key: sandbox.read(key) for key in sandbox.keys("jobs/") if len(key) > 60}
        attacks = _attacks(settings, [item["job"] for item in ended.report["items"]])
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            await _attack(client, attacks)
            before = _resident_kb(door.pid)
            for _ in range(ROUNDS):
                await _attack(client, attacks * (FORGED // ROUNDS // len(attacks)))
        grown = _resident_kb(door.pid) - before
        counted = door.count("i2v_door_callbacks_total")
    assert counted > FORGED // 2
    assert await _runs(collect) == []
    assert {key: sandbox.read(key) for key in records} == records
    assert grown < 20_000, f"{grown} KB"


async def _attack(client: httpx.AsyncClient, attacks: list[tuple[str, str, bytes, int]]) -> None:
    gate = asyncio.Semaphore(8)

    async def one(method: str, address: str, body: bytes, status: int) -> None:
        async with gate:
            answer = await client.request(method, address, content=body)
        assert answer.status_code == status, (method, address[-80:], body[:60], answer.status_code)
        assert answer.content == b"" or status == 404, answer.content

    await asyncio.gather(*(one(*attack) for attack in attacks))


def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


async def test_where_callbacks_are_not_set_up_their_address_is_shut(
    collect: UUID, child_env: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    """Without a base URL or a secret nothing is taken, and the health says so."""
    with DoorProcess(child_env, tmp_path / "door.log") as door:
        path = callback_url(settings, "0" * 64, 1).partition("/apixo")[2]
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{door.url}/apixo{path}", content=b"{}")
        health: dict[str, Any] = door.get("/healthz").json()
    assert (answer.status_code, answer.content, health["callbacks"]) == (404, b"", "not set")


def test_every_outcome_has_its_status() -> None:
    """The provider takes 200 alone for an answer, so nothing else that is well may be another 2xx."""
    statuses = Counter(int(outcome.status) for outcome in Outcome)
    assert statuses == {200: 2, 404: 3, 405: 1, 413: 1, 408: 1, 400: 1, 503: 1}
    assert COLLECT == "reconcile/collect"
