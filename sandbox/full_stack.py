"""`FullStack` runs everything between bucket and provider: Prefect server, deployments, worker and door.

Each part is a real process, started as a user starts it. So import nothing from flows, doors or deployments here.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sandbox.child_process import ROOT, ChildProcess, clean_environment
from sandbox.prefect_server import PrefectServer
from sandbox.sandbox import Sandbox

POOL = "i2v"
LISTENS = r"listens on (http://[\d.]+:\d+)"


@dataclass
class FullStack:
    """`with FullStack(sandbox, folder, {}) as stack:` starts all parts. A test can kill and restart each of them."""

    sandbox: Sandbox
    """A sandbox with bucket notifications."""
    folder: Path
    """Where the server's database and the logs go."""
    extra_env: Mapping[str, str]
    """More variables for door, worker and runs."""
    on_progress: Callable[[str], object] = str
    """Called with a line for each part that starts."""
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __post_init__(self) -> None:
        self.server = PrefectServer(home=self.folder / "server")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.on_progress("Starting a Prefect server (about 15 s)")
            stack.enter_context(self.server)
            self.on_progress("Running make deploy: pool, queues, deployments and automations")
            self.deploy_output = self.deploy()
            self.on_progress("Starting a worker and the door")
            command = ("prefect", "--no-prompt", "worker", "start", "--pool", POOL)
            self.worker = stack.enter_context(ChildProcess(*command, env=self.env, log=self.folder / "worker.log"))
            self.door = stack.enter_context(ChildProcess("doors", env=self.env, log=self.folder / "door.log"))
            self.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for child in (self.door, self.worker):  # in parallel: each takes seconds
            child.request_stop()
        self._stack.close()

    @property
    def user_env(self) -> dict[str, str]:
        """The variables that a user sets to use the same services."""
        prefect = {
            "PREFECT_API_URL": self.server.api_url,
            "PREFECT_HOME": str(self.folder / "home"),
            "DO_NOT_TRACK": "1",
        }
        defaults = {"I2V_DOOR_PORT": "0", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        return self.sandbox.env | prefect | defaults | dict(self.extra_env)

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of door, worker and setup."""
        return clean_environment() | self.user_env

    def deploy(self) -> str:
        """Run `make deploy` and return its output. Raise `RuntimeError` if it fails."""
        command = [sys.executable, "-m", "deployments.setup"]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"make deploy failed:\n{done.stderr}")
        return done.stdout

    def wait_ready(self) -> None:
        """Wait for door and worker. Raise `RuntimeError` with the last lines of one that does not start."""
        self.worker.wait_for_output("Worker '.*' started!")
        self.door_url = self.door.wait_for_output(LISTENS)[1]

    def check_running(self) -> None:
        """Raise `RuntimeError` with its last lines if a part has exited."""
        for name, part in (("server", self.server), ("worker", self.worker), ("door", self.door)):
            if not part.is_running:
                raise RuntimeError(f"the {name} has exited. Its last lines:\n{part.last_lines()}")

    def get(self, path: str) -> Any:
        """GET from the Prefect API, as `PrefectServer.request` does."""
        return self.server.request("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST to the Prefect API, as `PrefectServer.request` does."""
        return self.server.request("POST", path, body)
