"""Prefect, for a command that runs a flow in its own process: which server it talks to, and that this is told all.

Where no server is configured (`PREFECT_API_URL`, or a Prefect profile), one is started for as long as the command
lives, over the database in `PREFECT_HOME`. Only this file of the library knows Prefect.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.utilities.urls import url_for

from i2v.errors import I2vError, Stopped

START_SECONDS = 120
STOP_SECONDS = 10
ANSWER_SECONDS = 15
TOLD_SECONDS = 10.0
TOLD_SECONDS_PER_TASK_RUN = 0.02
"""How long the end of a run waits at most until the server has recorded it: this for each task run, and that."""
CHILD = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
"""As Prefect starts its own; in batches it takes a third of the CPU, and no automation waits in what ends with us."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


class FlowRunFacts(NamedTuple):
    """What the server must know in the end."""

    flow_run_id: UUID
    name: str
    task_runs: int


def configured_api() -> str | None:
    """The server that the environment or a profile names."""
    url: str | None = PREFECT_API_URL.value()
    return url


@contextmanager
def using(api_url: str) -> Iterator[None]:
    """Let flows talk to this server."""
    with temporary_settings({PREFECT_API_URL: api_url}):
        yield


def facts_of_this_flow_run() -> FlowRunFacts | None:
    """Asked inside a flow: its run, and how many task runs it has had."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    counters = [key for key in context.task_run_dynamic_keys.values() if isinstance(key, int)]
    return FlowRunFacts(context.flow_run.id, context.flow_run.name, sum(counters) + len(counters))


def ui_address(flow_run_id: UUID) -> str | None:
    """Where a flow run is seen in the UI."""
    return url_for("flow-run", obj_id=flow_run_id)


async def check_api() -> str:
    """The server's version.

    Raises:
        Stopped: it does not answer, or not well.
    """
    address = configured_api()
    try:
        async with asyncio.timeout(ANSWER_SECONDS), get_client() as client:
            return await client.api_version()
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client meets on the way to a wrong address
        raise Stopped(
            f"The Prefect server at {address} does not answer: {type(error).__name__}",
            "Start it, correct PREFECT_API_URL, or unset it to run without a server",
        ) from None


async def tell_all(facts: FlowRunFacts | None, *, until_recorded: bool) -> None:
    """Send what is not sent yet, and wait until an embedded server, which ends with us, has written it down."""
    with suppress(Exception):  # it is a story for people: that it is not told whole fails no run
        await APILogHandler.aflush()
        drained: Any = EventsWorker.drain_all()
        await drained
        if facts and until_recorded:
            await _until_recorded(facts)


async def _until_recorded(facts: FlowRunFacts) -> None:
    wanted = {
        "flow_runs": {"id": {"any_": [str(facts.flow_run_id)]}},
        "task_runs": {"state": {"type": {"any_": ENDED}}},
    }
    async with asyncio.timeout(TOLD_SECONDS + facts.task_runs * TOLD_SECONDS_PER_TASK_RUN), get_client() as client:
        while True:
            answer = await client.request("POST", "/task_runs/count", json=wanted)
            if answer.json() >= facts.task_runs:
                return
            await asyncio.sleep(0.2)


class EmbeddedServer:
    """A Prefect server as a child, in a session of its own, so that a Ctrl-C at the terminal does not end it before us.

    Use it in `with`: it is started at once, and `ready` waits for it.
    """

    def __init__(self) -> None:
        home = get_current_settings().home
        home.mkdir(parents=True, exist_ok=True)
        self._lock = (home / "i2v-server.lock").open("a")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # one at a time makes or migrates the database
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "i2v.cli.prefect_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, **settings, **CHILD},
        )

    def ready(self) -> str:
        """Wait until it serves; its API's address.

        Raises:
            Stopped: it did not start.
        """
        out = self._child.stdout
        began = time.monotonic()
        while out and time.monotonic() - began < START_SECONDS:
            if select.select([out], [], [], 1)[0]:
                if port := out.readline().strip():
                    self._lock.close()
                    return f"http://127.0.0.1:{port.decode()}/api"
                break
        raise Stopped(f"Prefect's embedded server did not start: {self._last_error()}", "Try again with --verbose")

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"no answer in {START_SECONDS} s"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()
        for stream in (self._child.stdin, self._child.stdout):
            if stream:
                stream.close()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._errors.close()


def check_running(error: BaseException) -> I2vError:
    """A failure of Prefect's while a flow ran, in words."""
    return I2vError(
        f"Prefect failed while the run was under way: {type(error).__name__}: {error}",
        "What was submitted is in the ledger: see i2v jobs; a new run takes it up without paying again",
    )
