"""Fixtures for pipeline tests: one real Prefect server per worker, and the flow against the sandbox."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.generate import generate_videos
from sandbox import Sandbox
from sandbox.prefect_server import PrefectServer
from tests.support.flow_runs import FinishedFlowRun, RunFlow
from tests.support.prefect_database import start_server

LONGEST = (
    *("test_batch", "test_landing", "test_demo", "test_embedded_server", "test_errors", "test_generate"),
    *("test_door_callbacks", "test_login", "test_memory", "test_setup", "test_door", "test_run", "test_retries"),
    *("test_callbacks_deployed", "test_automations", "test_deployments", "test_secrets"),
)
"""The files that take longest, which start first: the last one would run alone. xdist starts those with most tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(autouse=True)
def own_log_handlers() -> Iterator[None]:
    """Let no flow's handlers stay in this process: library code that a later test calls has no flow run to log to."""
    log = logging.getLogger("i2v")
    before = log.handlers[:]
    yield
    log.handlers[:] = before


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of a test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def prefect_server_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the server's database, `prefect.db`."""
    return tmp_path_factory.mktemp("prefect-server")


@pytest.fixture(scope="session")
def prefect_server(
    no_outside: None,
    prefect_server_home: Path,
    shared_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[PrefectServer]:
    """Start this worker's Prefect server (5 to 10 s). Flows called in this process use it."""
    home = tmp_path_factory.mktemp("prefect-home")
    with (
        start_server(prefect_server_home, shared_folder) as server,
        temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_HOME: home}),
    ):
        category = "pytest.PytestUnraisableExceptionWarning"
        pytestconfig.addinivalue_line("filterwarnings", f"ignore:{_left_open(server.port)}:{category}")  # later tests
        yield server
        APILogWorker.drain_all()  # else they wait at exit for a server that is gone
        EventsWorker.drain_all()
        gc.collect()  # report the sockets that Prefect leaves open while the filter still applies


@pytest.fixture(autouse=True)
def ignore_sockets_left_open_by_prefect(request: pytest.FixtureRequest) -> None:
    """Ignore connections to the server that Prefect 3.8 leaves open when it resolves result storage; no others.

    They may be collected in a later test without a server, so `prefect_server` adds the filter for those.
    """
    if "prefect_server" in request.fixturenames:
        port = request.getfixturevalue("prefect_server").port
        warnings.filterwarnings("ignore", _left_open(port), pytest.PytestUnraisableExceptionWarning)


def _left_open(port: int) -> str:
    return rf"Exception ignored in.*<socket\.socket .*raddr=\('127\.0\.0\.1', {port}\)>"


@pytest.fixture
def child_env(prefect_server: PrefectServer, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a child process that uses this Prefect server and the sandbox."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | sandbox.env | {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_HOME": str(tmp_path / "home")}


@pytest.fixture
def run_flow(prefect_server: PrefectServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> RunFlow:
    """Return a function that runs the generate flow in this process, against the sandbox.

    `finished = await run_flow(take=2)`: without `images`, it takes all below `images/`. Environment variables set with
    `monkeypatch` apply.
    """
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)

    async def run(images: Any = None, prompt: str | None = "it moves", **parameters: Any) -> FinishedFlowRun:
        images = images or f"s3://{sandbox.bucket}/images/"
        state = await generate_videos(images, prompt=prompt, **parameters, return_state=True)
        return FinishedFlowRun(state, await state.aresult(raise_on_failure=False))

    return run
