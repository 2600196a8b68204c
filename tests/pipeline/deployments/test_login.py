"""A Prefect server with basic auth: setup, doctor and door work with the login, and name it if it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from tests.support.door_process import DoorProcess, wait_for
from tests.support.forked_command import forked_i2v, forked_setup
from tests.support.paths import ROOT
from tests.support.prefect_database import copy_database

LOGIN = "admin:the-password"


class ServerWithLogin(PrefectServer):
    """A server that answers only requests with the login."""

    def environment(self, scratch: Path) -> dict[str, str]:
        """Add the login."""
        return super().environment(scratch) | {"PREFECT_SERVER_API_AUTH_STRING": LOGIN}


@pytest.fixture(scope="module")
def login_server(
    prefect_server: PrefectServer, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrefectServer]:
    """Start a server with a login, and another server's empty database."""
    home = tmp_path_factory.mktemp("login")
    copy_database(shared_folder, home)
    with ServerWithLogin(home=home) as server:
        yield server


@pytest.fixture
def login_env(login_server: PrefectServer, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a child process with the login."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    own = {"PREFECT_API_URL": login_server.api_url, "PREFECT_API_AUTH_STRING": LOGIN, "PREFECT_HOME": str(tmp_path)}
    return kept | sandbox.env | own


def deploy_into_head(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the setup through `head`, which closes the pipe after one line."""
    command = f'set -o pipefail; "{sys.executable}" -m deployments.setup | head -n 1'
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)  # noqa: S603, S607 - ours


def test_setup_doctor_and_door_work_with_the_login(login_env: dict[str, str], tmp_path: Path, sandbox: Sandbox) -> None:
    """The setup completes also where its output is cut, doctor finds the server, and the door becomes ready."""
    cut = deploy_into_head(login_env)
    assert (cut.returncode, cut.stderr, len(cut.stdout.splitlines())) == (0, "", 1)
    again = forked_setup(env=login_env)
    assert (again.code, again.err) == (0, "")
    changes = {line.split()[0] for line in again.out.partition("\n\n")[0].splitlines()}
    assert changes == {"unchanged"}, again.out

    doctor = forked_i2v("doctor", "--json", env=login_env)
    (prefect,) = [check for check in doctor.report["checks"] if check["check"] == "prefect"]
    assert prefect["level"] == "ok", prefect

    with DoorProcess(login_env, tmp_path / "door.log") as door:
        wait_for(lambda: door.get("/healthz").json()["prefect"] == "ok")
        assert LOGIN.split(":")[1] not in door.read_log()


def test_a_missing_login_is_named(login_env: dict[str, str], tmp_path: Path) -> None:
    """Setup and door say that the server requires a login, and which variable holds it."""
    env = login_env | {"PREFECT_API_AUTH_STRING": "admin:wrong"}

    failed = forked_setup(env=env)

    assert failed.code == 3
    assert "requires a login: it returned 401" in failed.err
    assert "PREFECT_API_AUTH_STRING" in failed.err
    with DoorProcess(env, tmp_path / "door.log") as door:
        status = wait_for(lambda: (text := door.get("/healthz").json()["prefect"]) != "starting" and text)
    assert "requires a login" in str(status)


def test_a_url_without_the_api_path_is_named(login_env: dict[str, str]) -> None:
    """The UI's page is not taken for the API."""
    failed = forked_setup(env=login_env | {"PREFECT_API_URL": login_env["PREFECT_API_URL"].removesuffix("/api")})

    assert failed.code == 3
    assert "PREFECT_API_URL must end in /api" in failed.err
