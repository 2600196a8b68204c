"""The door behind nginx with TLS and `deployments/nginx.conf`: what is exposed and what is not."""

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
from tests.support.callback_door import callback_env, callback_urls, jobs_in_runs, list_collect_runs
from tests.support.callback_door import collect as collect  # noqa: PLC0414 - a fixture
from tests.support.door_process import TOKEN, DoorProcess, wait_for_async
from tests.support.flow_runs import RunFlow
from tests.support.i2v_command import i2v
from tests.support.nginx_process import Nginx, needs_nginx

pytestmark = needs_nginx
GALLERY_TOKEN = "the-token-of-the-gallery-itself"


@dataclass(frozen=True)
class ProxiedDoor:
    """A door, nginx in front of it, and the environment for clients."""

    nginx: Nginx
    door: DoorProcess
    env: dict[str, str]


@pytest.fixture
def proxied(
    sandbox: Sandbox,
    child_env: dict[str, str],
    run_flow: RunFlow,
    collect: UUID,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ProxiedDoor]:
    """Start nginx and a door behind it; callbacks of this process's flows go to nginx."""
    nginx = Nginx(tmp_path / "nginx")
    callbacks = callback_env(sandbox, nginx.url)
    for name, value in callbacks.items():
        monkeypatch.setenv(name, value)
    env = child_env | callbacks | {"I2V_GALLERY_TOKEN": GALLERY_TOKEN}
    with DoorProcess(env, tmp_path / "door.log") as door:
        nginx.configure(door.url)
        with nginx:
            yield ProxiedDoor(nginx, door, env | {"SSL_CERT_FILE": str(nginx.authority)})


async def test_callbacks_pass_nginx_and_their_url_is_in_no_log(
    sandbox: Sandbox, provider: Provider, run_flow: RunFlow, collect: UUID, proxied: ProxiedDoor
) -> None:
    """A valid callback starts a run, others are rejected, `i2v doctor` finds the door, and no log has the URL."""
    provider.add_fault(on="callback", kind="lost", times=None)
    sandbox.put_image("images/a.jpg", make_jpeg(400, 400))
    ended = await run_flow(delivery="callback")
    (url,) = callback_urls(provider)
    assert url.startswith(proxied.nginx.url)
    (item,) = ended.report["items"]
    body = json.dumps({"code": 200, "data": {"taskId": item["task_id"], "state": "success"}})
    await wait_for_async(lambda: proxied.door.get("/healthz").json()["ready"])
    doctor = await asyncio.to_thread(i2v, "doctor", "--json", env=proxied.env)
    with proxied.nginx.client() as outside:
        valid = await asyncio.to_thread(outside.post, url, content=body)
        forged = outside.post(url[:-1] + ("0" if url[-1] != "0" else "1"), content=body)
        large = outside.post(url, content=b" " * (BODY_LIMIT_BYTES + 1))
        largest = outside.post(url, content=b" " * BODY_LIMIT_BYTES)
        wrong = outside.get(url)
        proxied.door.stop()
        stopped = outside.post(url, content=body)
    statuses = [answer.status_code for answer in (valid, forged, large, largest, wrong, stopped)]
    assert statuses == [200, 404, 413, 400, 405, 502]
    assert jobs_in_runs(await list_collect_runs(collect)) == [f"{item['job']}/1/{item['task_id']}"]
    assert f"the door answers at {proxied.nginx.url}" in doctor.out, doctor
    logs = proxied.nginx.logs()
    assert "/healthz" in logs["access"]
    signature = url.rpartition("/")[2]
    assert [name for name, text in logs.items() if "/apixo/" in text or signature[:16] in text] == []
    assert signature[:16] not in proxied.door.read_log()


def raw_status(proxied: ProxiedDoor, target: str, method: str = "GET") -> int:
    """Send a request with this exact target and return the status."""
    port = int(proxied.nginx.url.rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(proxied.nginx.authority))
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        return int(secure.recv(1000).split()[1])


def test_internal_routes_are_not_exposed(proxied: ProxiedDoor) -> None:
    """Metrics and webhooks are 404 in any spelling, health omits details, and the gallery login works."""
    spellings = [
        *("/metrics", "//metrics", "/%6detrics", "/metrics/", "/METRICS", "/metrics?/apixo/", "/metrics#/apixo/"),
        *("/apixo/../metrics", "/apixo/%2e%2e/metrics", "/apixo/..%2fmetrics", "/apixo/x/../../metrics"),
        *("/healthz/../metrics", "/healthz%2f..%2fmetrics", "/gallery/../metrics", "/gallery%2f..%2fmetrics"),
    ]
    assert proxied.door.get("/metrics").status_code == httpx.codes.OK
    assert {target: raw_status(proxied, target) for target in spellings} == dict.fromkeys(spellings, 404)
    with proxied.nginx.client() as outside:
        webhook = outside.post("/s3", content=b"{}", headers={"Authorization": f"Bearer {TOKEN}"})
        health = outside.get("/healthz").json()
    assert webhook.status_code == httpx.codes.NOT_FOUND
    assert proxied.door.post(b"{}").status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert (health.keys(), health["live"]) == ({"live", "ready"}, True)
    assert proxied.door.get("/healthz").json().keys() > health.keys()
    check_gallery_login(proxied)


def check_gallery_login(proxied: ProxiedDoor) -> None:
    """Check that the cookie is https-only and that failed logins count by the real client address."""
    with proxied.nginx.client() as outside:
        login_page = outside.get("/gallery")
        login = outside.post("/gallery/login", data={"token": GALLERY_TOKEN, "to": "/gallery"})
        cookie = login.headers["set-cookie"]
        page = outside.get("/gallery")
        outside.cookies.clear()
        attempts = [
            outside.get("/gallery", headers={"Authorization": f"Bearer {n}", "X-Forwarded-For": f"10.0.0.{n}"})
            for n in range(12)
        ]
        right = outside.get("/gallery", headers={"Authorization": f"Bearer {GALLERY_TOKEN}"})
    assert (login_page.status_code, login.status_code, page.status_code) == (401, 303, 200)
    assert "Secure" in cookie
    assert [answer.status_code for answer in attempts] == [401] * 9 + [429] * 3
    assert right.status_code == httpx.codes.OK
