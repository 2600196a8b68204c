"""All that runs between bucket and provider, as processes of their own: `FullStack`. Images put there become videos.

Prefect server, deployments, worker and door are the real ones, started as a person starts them, so nothing of flows,
doors or deployments is imported here.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import httpx

from sandbox.child_process import ROOT, ChildProcess, clean_environment
from sandbox.prefect_server import PrefectServer
from sandbox.sandbox import Sandbox

POOL = "i2v"
ASK_SECONDS = 60
LISTENS = r"listens on (http://[\d.]+:\d+)"


class FullStack:
    """`with Pipeline(box, folder) as pipeline:` starts all; each part can be killed and started again.

    Args:
        box: the sandbox, with a queue that the bucket's notifications go to.
        folder: where the server's database and the logs lie.
        more: variables of door, worker and runs.
        say: hears what is being started.
    """

    def __init__(self, box: Sandbox, folder: Path, more: Mapping[str, str], say: Callable[[str], object] = str) -> None:
        self.box = box
        self._say = say
        self.server = PrefectServer(home=folder / "server")
        self._more = {"I2V_DOOR_PORT": "0", "PREFECT_WORKER_QUERY_SECONDS": "1", **more}
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._say("Starting a Prefect server: some 15 s")
            stack.enter_context(self.server)
            self._say("make deploy: pool, queues, deployments and automations")
            self.deployed = self.deploy()
            self._say("Starting a worker and the door")
            command = ("prefect", "--no-prompt", "worker", "start", "--pool", POOL)
            self.worker = stack.enter_context(ChildProcess(*command, env=self.env, log=self._folder / "worker.log"))
            self.door = stack.enter_context(ChildProcess("doors", env=self.env, log=self._folder / "door.log"))
            self.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for child in (self.door, self.worker):  # both at once: each takes seconds
            child.request_stop()
        self._stack.close()

    @property
    def own_env(self) -> dict[str, str]:
        """Every variable that a person would set to use the same."""
        ours = {"PREFECT_API_URL": self.server.api_url, "PREFECT_HOME": str(self._folder / "home"), "DO_NOT_TRACK": "1"}
        return self.box.env | ours | self._more

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of door, worker and set-up."""
        return clean_environment() | self.own_env

    def deploy(self) -> str:
        """What `make deploy` does and says.

        Raises:
            RuntimeError: it failed; carries what it said.
        """
        command = [sys.executable, "-m", "deployments.setup"]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"make deploy failed:\n{done.stderr}")
        return done.stdout

    def wait_ready(self) -> None:
        """Wait until door and worker are up.

        Raises:
            RuntimeError: one is not; carries its last lines.
        """
        self.worker.wait_for_output("Worker '.*' started!")
        self.door_url = self.door.wait_for_output(LISTENS)[1]

    def check(self) -> None:
        """Prove that all are running.

        Raises:
            RuntimeError: one is not; carries its last lines.
        """
        parts: dict[str, PrefectServer | ChildProcess] = {
            "server": self.server,
            "worker": self.worker,
            "door": self.door,
        }
        for name, part in parts.items():
            if not part.is_running:
                raise RuntimeError(f"the {name} has ended. Its last lines:\n{part.last_lines()}")

    def get(self, path: str) -> Any:
        """Ask the Prefect server."""
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask the Prefect server, or tell it."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON; a server that has just started, or whose database is busy, is asked again.

        Raises:
            RuntimeError: it does not answer, or not well.
        """
        deadline, url = time.monotonic() + ASK_SECONDS, f"{self.server.api_url}/{path}"
        try:
            answer = httpx.request(method, url, json=body, trust_env=False, timeout=ASK_SECONDS)
            while answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE and time.monotonic() < deadline:
                time.sleep(0.5)
                answer = httpx.request(method, url, json=body, trust_env=False, timeout=ASK_SECONDS)
            return answer.raise_for_status().json()
        except httpx.HTTPError as error:
            raise RuntimeError(f"the Prefect server does not answer {path}: {error!r}") from error
