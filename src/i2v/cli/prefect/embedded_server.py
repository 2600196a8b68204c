"""A temporary Prefect server for commands that run without `PREFECT_API_URL`; its database is in `PREFECT_HOME`.

Import nothing of Prefect here: the server starts while the command imports it.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from typing import Self

from i2v.errors import Stopped

START_SECONDS = 120
STOP_SECONDS = 10
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
"""Prefect's settings for its ephemeral server, plus batch sizes that cut CPU time by two thirds."""

EXCEPTION = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): (.*)")
HINT = (
    "Check the folder PREFECT_HOME (~/.prefect by default) and the prefect.db in it, or set PREFECT_API_URL to a "
    "running server"
)


class EmbeddedServer:
    """A context manager: the server starts when it is constructed, and `wait_for_url` waits for it.

    It runs in its own session, so that Ctrl-C in the terminal does not end it before the command.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "i2v.cli.prefect.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, **CHILD},
        )

    async def wait_for_url(self) -> str:
        """Wait until the server accepts requests and return its API URL, or raise `Stopped` if it does not start."""
        if port := await self._first_line():
            return f"http://127.0.0.1:{port}/api"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        raise Stopped(f"The temporary Prefect server did not start: {_reason(lines)}", HINT)

    async def _first_line(self) -> str:
        """Wait in the event loop alone: at a signal, a thread would keep the process until the server is up."""
        out, loop, readable = self._child.stdout, asyncio.get_running_loop(), asyncio.Event()
        assert out is not None  # noqa: S101 - it is a pipe
        loop.add_reader(out.fileno(), readable.set)
        try:
            async with asyncio.timeout(START_SECONDS):
                await readable.wait()
            return out.readline().decode().strip()
        except TimeoutError:
            return ""
        finally:
            loop.remove_reader(out.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._child.communicate(timeout=STOP_SECONDS)  # closes stdin first
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()
        self._errors.close()


def _reason(lines: list[str]) -> str:
    """Return the last exception of the server's output, or its last line."""
    if not lines:
        return f"no response within {START_SECONDS} s"
    found = filter(None, map(EXCEPTION.fullmatch, reversed(lines)))
    return next((each[1] for each in found), lines[-1])
