"""A Prefect server on this machine, as a child process. `python -m sandbox.prefect_server` is that child."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import httpx

from sandbox.provider.server import listen

START_SECONDS = 120
STOP_SECONDS = 5
LOG_LINES = 15
HOST = "127.0.0.1"
OUTSIDE = ("PREFECT_", "AWS_", "I2V_", "APIXO_")
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_API_HOST": HOST,
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
}
"""Nothing is told to anybody, and events are written in batches, which takes a third of the CPU."""


class PrefectServer:
    """A running Prefect server with its UI, on loopback only.

    It ends with this process however that ends: it reads a pipe that only we hold.

    Args:
        port: 0 takes a free one.
        home: its PREFECT_HOME, where its database lies; a temporary folder by default.
    """

    def __init__(self, *, port: int = 0, home: Path | None = None) -> None:
        self._port = port
        self._home = home

    def start(self) -> Self:
        """Start the child and wait until it answers: some 10 s, with a new database.

        Raises:
            OSError: the port is taken.
            RuntimeError: it ended or did not answer; carries its last lines.
        """
        with listen(HOST, self._port) as free:
            self._port = self.port = free.getsockname()[1]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "sandbox.prefect_server"],
            env=self._environment(),
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
        ours = {"PREFECT_SERVER_API_PORT": str(self.port)}  # also where the UI looks for the API, unlike `--port`
        return kept | SETTINGS | ours | ({"PREFECT_HOME": str(self._home)} if self._home else {})

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.is_running:
            try:
                if httpx.get(f"{self.api_url}/health", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise RuntimeError(f"the Prefect server did not start on {self.url}:\n{self.last_lines()}")

    @property
    def is_running(self) -> bool:
        """Whether the child has not ended."""
        return self._child.poll() is None

    def last_lines(self) -> str:
        """The end of what the server said."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self) -> None:
        """End the child, by force if it does not listen."""
        if self._child.stdin:
            self._child.stdin.close()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._log.close()

    def kill(self) -> None:
        """End it at once (SIGKILL). With a `home` of its own it can be started again as it was."""
        os.killpg(self._child.pid, signal.SIGKILL)
        self.stop()

    @property
    def url(self) -> str:
        """The UI's address."""
        return f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        """What `PREFECT_API_URL` is to be."""
        return f"{self.url}/api"


def _end_with_parent(folder: tempfile.TemporaryDirectory[str]) -> None:
    sys.stdin.buffer.read()
    folder.cleanup()
    os._exit(0)


def _serve() -> None:
    folder = tempfile.TemporaryDirectory(prefix="i2v-prefect-", ignore_cleanup_errors=True)
    os.environ.setdefault("PREFECT_HOME", folder.name)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    sys.argv = ["prefect", "server", "start"]
    runpy.run_module("prefect", run_name="__main__")


if __name__ == "__main__":
    _serve()
