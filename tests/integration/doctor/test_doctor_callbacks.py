"""`i2v doctor` checks callbacks at the address that the provider uses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from i2v.doctor.checks import check_callback_address
from i2v.doctor.findings import Finding, Level, run_check
from sandbox import Sandbox
from tests.support.settings import MakeSettings

SECRET = "a-secret-of-the-tests-that-is-long"


class _Health(BaseHTTPRequestHandler):
    body = b""
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/i2v/healthz" else 404)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the library
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """host:port of a server that answers `/i2v/healthz` as the test says."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def finding(make_settings: MakeSettings, sandbox: Sandbox, **variables: str) -> Finding:
    """Run the check of callbacks."""
    settings = make_settings(**sandbox.env | variables)
    return await run_check("callbacks", lambda: check_callback_address(settings))


async def test_callbacks_may_be_off(make_settings: MakeSettings, sandbox: Sandbox) -> None:
    """The finding says how to turn callbacks on."""
    found = await finding(make_settings, sandbox)
    assert (found.level, "I2V_CALLBACK_BASE_URL" in found.message) == (Level.OK, True)


@pytest.mark.parametrize(
    ("base", "secret", "word"),
    [
        ("https://door.example", "", "SECRET, which is not set"),
        ("", SECRET, "BASE_URL, which is not set"),
        ("http://127.0.0.1:1", SECRET, "is not a public https"),
        ("https://127.0.0.1:1", SECRET, "is not a public https"),
    ],
)
async def test_unusable_settings_are_a_fault(
    make_settings: MakeSettings, sandbox: Sandbox, base: str, secret: str, word: str
) -> None:
    """A missing variable and a private address are faults, each with a hint."""
    set_ = {"I2V_CALLBACK_BASE_URL": base, "I2V_CALLBACK_SECRET": secret}
    found = await finding(make_settings, sandbox, **{name: value for name, value in set_.items() if value})
    assert (found.level, word in found.message, bool(found.hint)) == (Level.FAULT, True, True), found
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    ("body", "status", "level"),
    [
        (json.dumps({"live": True, "ready": False}).encode(), 200, Level.OK),
        (b"{}", 200, Level.FAULT),
        (b"<html>welcome to nginx</html>", 200, Level.FAULT),
        (b'{"live": true}', 502, Level.FAULT),
        (b'{"live": true, "ready": false}', 503, Level.FAULT),
    ],
)
async def test_the_door_must_answer_at_the_callback_address(
    make_settings: MakeSettings,
    sandbox: Sandbox,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    status: int,
    level: Level,
) -> None:
    """Only a 200 that says `live` passes; a proxy's own page or a door that is not ready is a fault."""
    monkeypatch.setattr(_Health, "body", body)
    monkeypatch.setattr(_Health, "status", status)
    found = await finding(
        make_settings,
        sandbox,
        I2V_CALLBACK_BASE_URL=f"http://{address}/i2v",
        I2V_CALLBACK_SECRET=SECRET,
        I2V_PRIVATE_HOSTS=f"{sandbox.env['I2V_PRIVATE_HOSTS']},{address}",
    )
    assert found.level is level, found
    assert ("is not ready" in found.message) is (status == 503)


async def test_an_unreachable_door_is_a_fault(make_settings: MakeSettings, sandbox: Sandbox) -> None:
    """The hint says that reconcile polls until the door is back."""
    found = await finding(
        make_settings,
        sandbox,
        I2V_CALLBACK_BASE_URL="http://127.0.0.1:1",
        I2V_CALLBACK_SECRET=SECRET,
        I2V_PRIVATE_HOSTS=f"{sandbox.env['I2V_PRIVATE_HOSTS']},127.0.0.1:1",
    )
    assert (found.level, "cannot be reached" in found.message) == (Level.FAULT, True)
    assert "reconcile polls" in found.hint
