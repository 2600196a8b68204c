"""The door behind nginx with TLS, as `deployments/nginx.conf` sets it up: what comes through, and what stays inside."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from i2v.apixo.callbacks import BODY_LIMIT_BYTES
from sandbox import Sandbox
from sandbox.provider import Provider
from sandbox.synthetic_images import make_jpeg
from tests.support.callback_door import addresses, callback_env, collects, told_of
from tests.support.callback_door import collect as collect  # noqa: PLC0414 - a fixture
from tests.support.door_process import TOKEN, DoorProcess, soon
from tests.support.flow_runs import RunFlow
from tests.support.i2v_command import i2v
from tests.support.nginx_process import Nginx, needs_nginx

pytestmark = needs_nginx
GALLERY_TOKEN = "the-token-of-the-gallery-itself"


@dataclass(frozen=True)
class Way:
    """From outside to the door."""

    nginx: Nginx
    door: DoorProcess
    env: dict[str, str]


@pytest.fixture
def way(
    sandbox: Sandbox,
    child_env: dict[str, str],
    run_flow: RunFlow,
    collect: UUID,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Way]:
    """nginx, the door behind it, and the flow's own settings: the provider is told nginx's address."""
    nginx = Nginx(tmp_path / "nginx")
    ours = callback_env(sandbox, nginx.url)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    env = child_env | ours | {"I2V_GALLERY_TOKEN": GALLERY_TOKEN}
    with DoorProcess(env, tmp_path / "door.log") as door:
        nginx.configure(door.url)
        with nginx:
            yield Way(nginx, door, env | {"SSL_CERT_FILE": str(nginx.authority)})


async def test_a_callback_comes_through_nginx_and_its_address_is_in_no_log(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, collect: UUID, way: Way
) -> None:
    """A good one is 200 and a run, one that is too large 413; the doctor finds the door, and no log has the address."""
    provider.add_fault(on="callback", kind="lost", times=None)
    sandbox.put_image("images/a.jpg", make_jpeg(400, 400))
    ended = await run_flow(delivery="callback")
    (address,) = addresses(provider)
    assert address.startswith(way.nginx.url)
    (item,) = ended.report["items"]
    body = json.dumps({"code": 200, "data": {"taskId": item["task_id"], "state": "success"}})
    await soon(lambda: way.door.get("/healthz").json()["ready"])
    doctor = await asyncio.to_thread(i2v, "doctor", "--json", env=way.env)
    with way.nginx.client() as outside:
        good = await asyncio.to_thread(outside.post, address, content=body)
        forged = outside.post(address[:-1] + ("0" if address[-1] != "0" else "1"), content=body)
        large = outside.post(address, content=b" " * (BODY_LIMIT_BYTES + 1))
        largest = outside.post(address, content=b" " * BODY_LIMIT_BYTES)
        wrong = outside.get(address)
        way.door.end()
        away = outside.post(address, content=body)
    statuses = [answer.status_code for answer in (good, forged, large, largest, wrong, away)]
    assert statuses == [200, 404, 413, 400, 405, 502]
    assert told_of(await collects(collect)) == [f"{item['job']}/1/{item['task_id']}"]
    assert f"the door answers at {way.nginx.url}" in doctor.out, doctor
    logs = way.nginx.logs()
    assert "/healthz" in logs["access"]
    signature = address.rpartition("/")[2]
    assert [name for name, text in logs.items() if "/apixo/" in text or signature[:16] in text] == []
    assert signature[:16] not in way.door.said()


def raw_status(way: Way, target: str, method: str = "GET") -> int:
    """The status for a request whose target is written as it stands here."""
    port = int(way.nginx.url.rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(way.nginx.authority))
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        return int(secure.recv(1000).split()[1])


def test_what_is_ours_alone_stays_inside(way: Way) -> None:
    """Metrics and webhooks cannot be found, however spelt; health says no word on others; the gallery is safe."""
    spellings = [
        *("/metrics", "//metrics", "/%6detrics", "/metrics/", "/METRICS", "/metrics?/apixo/", "/metrics#/apixo/"),
        *("/apixo/../metrics", "/apixo/%2e%2e/metrics", "/apixo/..%2fmetrics", "/apixo/x/../../metrics"),
        *("/healthz/../metrics", "/healthz%2f..%2fmetrics", "/gallery/../metrics", "/gallery%2f..%2fmetrics"),
    ]
    assert way.door.get("/metrics").status_code == httpx.codes.OK
    assert {target: raw_status(way, target) for target in spellings} == dict.fromkeys(spellings, 404)
    with way.nginx.client() as outside:
        webhook = outside.post("/s3", content=b"{}", headers={"Authorization": f"Bearer {TOKEN}"})
        health = outside.get("/healthz").json()
    assert webhook.status_code == httpx.codes.NOT_FOUND
    assert way.door.post(b"{}").status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert (health.keys(), health["live"]) == ({"live", "ready"}, True)
    assert way.door.get("/healthz").json().keys() > health.keys()
    check_the_gallery(way)


def check_the_gallery(way: Way) -> None:
    """Its cookie is for https alone, and wrong tries are counted by the address that nginx saw, not one they claim."""
    with way.nginx.client() as outside:
        asked = outside.get("/gallery")
        in_ = outside.post("/gallery/login", data={"token": GALLERY_TOKEN, "to": "/gallery"})
        cookie = in_.headers["set-cookie"]
        shown = outside.get("/gallery")
        outside.cookies.clear()
        tries = [
            outside.get("/gallery", headers={"Authorization": f"Bearer {n}", "X-Forwarded-For": f"10.0.0.{n}"})
            for n in range(12)
        ]
        locked = outside.get("/gallery", headers={"Authorization": f"Bearer {GALLERY_TOKEN}"})
    assert (asked.status_code, in_.status_code, shown.status_code) == (401, 303, 200)
    assert "Secure" in cookie
    assert {answer.status_code for answer in tries} <= {401, 429}
    assert locked.status_code != httpx.codes.OK
