"""The connection to a Prefect server: what is said about one that cannot be used, and the heartbeat of a run."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)

from i2v.cli.prefect.connection import check_api, run_settings
from i2v.errors import Stopped
from tests.support.certificate_authority import own_authority
from tests.support.raw_server import Responder, reset, running, send, send_json

PAGE = send(200, b"<!doctype html><title>Prefect</title>", Content_Type="text/html")


async def message_of(*responders: Responder, context: ssl.SSLContext | None = None, **more: object) -> str:
    """Return the error and its remedy for a server with these responses."""
    async with running(*responders, context=context) as server:
        url = server.url.replace("://", "://me:password@").replace("127.0.0.1", "localhost")
        settings: dict[Any, Any] = {PREFECT_API_URL: f"{url}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        settings |= {PREFECT_API_SSL_CERT_FILE: more["authority"]} if more else {}
        with temporary_settings(settings), pytest.raises(Stopped) as caught:
            await check_api()
    text = f"{caught.value.message} · {caught.value.hint}"
    assert "password" not in text.replace("user:password", "")
    return text


@pytest.mark.parametrize(
    ("responder", "words"),
    [
        (send_json(401, {"exception_message": "Unauthorized"}), ("requires a login", "PREFECT_API_AUTH_STRING")),
        (send_json(403, {}), ("requires a login: it returned 403", "PREFECT_API_KEY")),
        (send_json(404, {"detail": "Not Found"}), ("is not Prefect's API", "must end in /api")),
        (PAGE, ("returned a page instead of JSON", "must end in /api")),
        (send_json(500, {}), ("returned 500", "server's log")),
        (send_json(200, "4.0.0"), (f"has version 4.0.0, but this is Prefect {prefect.__version__}", "same major")),
        (reset, ("does not respond", "Start it")),
    ],
    ids=["401", "403", "404", "page", "500", "version", "reset"],
)
async def test_each_cause_is_named_with_its_remedy(responder: Responder, words: tuple[str, str]) -> None:
    """Login, path, version and network errors each have words of their own, without the URL's password."""
    text = await message_of(responder)

    assert [word for word in words if word not in text] == []


async def test_an_unknown_authority_is_named(tmp_path: Path) -> None:
    """A certificate of a private CA is called that, with the variable that helps."""
    (tmp_path / "other").mkdir()
    context, _ = own_authority(tmp_path, "localhost")
    _, other = own_authority(tmp_path / "other", "localhost")

    text = await message_of(send_json(200, "3.8.8"), context=context, authority=str(other))

    assert "has no valid TLS certificate: " in text
    assert "PREFECT_API_SSL_CERT_FILE" in text


async def test_a_server_of_this_version_is_accepted() -> None:
    """The version is returned."""
    async with running(send_json(200, prefect.__version__)) as server:
        with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
            assert await check_api() == prefect.__version__


def test_a_run_by_hand_sends_heartbeats_as_often_as_a_deployed_one() -> None:
    """The automation waits for three of a deployed run's heartbeats; a user's own interval is kept."""
    with temporary_settings(run_settings()):
        assert get_current_settings().flows.heartbeat_frequency == 60
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 45}):
        assert run_settings() == {}


async def test_a_server_that_is_starting_is_waited_for() -> None:
    """Failed connections are tried again until the server answers; a rejected login is not."""
    async with running(reset, reset, send_json(200, prefect.__version__)) as server:
        with temporary_settings({PREFECT_API_URL: f"{server.url}/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
            assert await check_api(wait_seconds=60) == prefect.__version__
    async with running(send_json(401, {}), send_json(200, prefect.__version__)) as server:
        with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}), pytest.raises(Stopped, match="login"):
            await check_api(wait_seconds=60)
