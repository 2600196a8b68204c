"""A temporary Prefect server for commands that run without `PREFECT_API_URL`; its database is in `PREFECT_HOME`."""

import fcntl
import os
import select
import subprocess
import sys
import tempfile
from typing import Self

from prefect.settings import get_current_settings

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
"""What Prefect sets for its own ephemeral server, and batches, which cut its CPU time by two thirds."""


class EmbeddedServer:
    """A context manager: the server starts when it is constructed, and `wait_for_url` waits for it.

    It runs in its own session, so that Ctrl-C in the terminal does not end it before the command.
    """

    def __init__(self) -> None:
        home = get_current_settings().home
        home.mkdir(parents=True, exist_ok=True)
        self._lock = (home / "i2v-server.lock").open("a")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # only one process may create or migrate the database at a time
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "i2v.cli.prefect.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, **settings, **CHILD},
        )

    def wait_for_url(self) -> str:
        """Wait until the server accepts requests and return its API URL, or raise `Stopped` if it does not start."""
        out = self._child.stdout
        if out and select.select([out], [], [], START_SECONDS)[0] and (port := out.readline().strip()):
            self._lock.close()
            return f"http://127.0.0.1:{port.decode()}/api"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"no response within {START_SECONDS} s"
        raise Stopped(f"The temporary Prefect server did not start: {reason}", "Retry with --verbose")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()
        try:
            self._child.communicate(timeout=STOP_SECONDS)  # closes stdin first
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()
        self._errors.close()
