"""What web pages of others can do to a Prefect server with deployments/server.env in a user's browser: nothing."""

import json
import re

import httpx
import pytest

from sandbox.prefect_server import PrefectServer
from tests.support.paths import ROOT

TEXT = (ROOT / "deployments/server.env").read_text()
UI = re.findall(r"^PREFECT_SERVER_CORS_ALLOWED_ORIGINS=(.*)$", TEXT, re.MULTILINE)[0].split(",")


def _preflight(server: PrefectServer, origin: str) -> str | None:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = httpx.options(f"{server.api_url}/flows/", headers=asked, trust_env=False)
    allowed: str | None = answer.headers.get("access-control-allow-origin")
    return allowed


def test_only_the_ui_may_call_the_api(prefect_server: PrefectServer) -> None:
    """A browser lets the UI's origin call the API, and no other."""
    assert [_preflight(prefect_server, origin) for origin in UI] == UI
    assert _preflight(prefect_server, "https://evil.example") is None


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_page_creates_nothing(prefect_server: PrefectServer, content_type: str) -> None:
    """Requests that a browser sends without asking first are rejected, because they are not JSON."""
    headers = {"Origin": "https://evil.example", "Content-Type": content_type}
    answer = httpx.post(
        f"{prefect_server.api_url}/flows/", content=json.dumps({"name": "evil"}), headers=headers, trust_env=False
    )
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
