"""Start and stop Python modules as child processes: `ChildProcess`, and `ServerProcess` for HTTP servers.

`python -m sandbox.child_process` is the child's side. A child never outlives its parent, even a killed one: it reads a
pipe whose other end only the parent holds.
"""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

import httpx

from sandbox.server import NO_TLS, Server, listen

ROOT = Path(__file__).parent.parent
LOG_LINES = 15
STOP_SECONDS = 10
POLL_SECONDS = 0.05
CREDENTIAL_PREFIXES = ("PREFECT_", "AWS_", "I2V_", "APIXO_")


def clean_environment() -> dict[str, str]:
    """Return this process's environment without credentials, buckets and servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(CREDENTIAL_PREFIXES)}


class ChildProcess:
    """A running `python -m MODULE ARGUMENTS…` in the project's root. It can be started again after it ends.

    `env` is its whole environment; its output goes to `log`, which each start truncates. The child deletes the folder
    `scratch` when its parent ends. With one, it exits at once when it is stopped; without, it gets SIGTERM and some
    seconds to shut down.
    """

    def __init__(self, *command: str, env: dict[str, str], log: Path, scratch: Path | None = None) -> None:
        self._command = command
        self._env = env
        self._log = log
        self._scratch = scratch

    def start(self) -> Self:
        """Start it without waiting."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.child_process", str(self._scratch or ""), *self._command],
                env=self._env,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def output(self) -> str:
        """Return everything it has printed since the last start."""
        return self._log.read_text(errors="replace")

    def last_lines(self) -> str:
        """Return the end of its output."""
        return "\n".join(self.output().splitlines()[-LOG_LINES:])

    def wait_for_output(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Wait for a line of output. Raise `RuntimeError` with its last lines on exit or timeout."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.output())):
            self.check(deadline)
            time.sleep(POLL_SECONDS)
        return found

    def check(self, deadline: float) -> None:
        """Raise `RuntimeError` with the last lines of output if the child has exited or the deadline has passed."""
        if not self.is_running or time.monotonic() > deadline:
            raise RuntimeError(f"{' '.join(self._command)} did not start. Its last lines:\n{self.last_lines()}")

    def request_stop(self) -> None:
        """Tell it to stop, without waiting."""
        if self._process.stdin:
            self._process.stdin.close()

    def stop(self) -> int:
        """Stop it, by SIGKILL after a timeout, and return its exit code."""
        self.request_stop()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Send SIGKILL to it and its session, and return its exit code."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self.request_stop()
        return self._process.wait()


class ServerProcess(ChildProcess, Server):
    """An HTTP server in a child process. It can be started again on the same port after `kill`.

    A subclass sets the command, the path that answers once the server is ready, and the environment.
    """

    COMMAND: ClassVar[tuple[str, ...]]
    HEALTH_PATH: ClassVar[str]
    START_SECONDS: ClassVar[float]

    def __init__(self, *, port: int = 0) -> None:
        Server.__init__(self, port)
        self._command = self.COMMAND

    def environment(self, scratch: Path) -> dict[str, str]:
        """Return the child's whole environment; `scratch` is an empty temporary folder."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start it and wait until it answers. Raise `OSError` if its port is taken, `RuntimeError` if it fails."""
        with listen(self.host, self.port) as free:
            self.port = free.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory(prefix="i2v-sandbox-", ignore_cleanup_errors=True)
        self._scratch = Path(self._folder.name)
        self._log, self._env = self._scratch / "output.log", self.environment(self._scratch)
        super().start()
        try:
            self._wait_until_ready(time.monotonic() + self.START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_ready(self, deadline: float) -> None:
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}{self.HEALTH_PATH}", trust_env=False, verify=NO_TLS).is_success:
                    return
            self.check(deadline)
            time.sleep(POLL_SECONDS)

    def stop(self) -> int:
        """Stop it, by SIGKILL after a timeout, and return its exit code."""
        with self._folder:
            return super().stop()

    def kill(self) -> int:
        """Send SIGKILL to it and its session, and return its exit code."""
        with self._folder:
            return super().kill()


def _exit_with_parent(scratch: str) -> None:
    while os.read(0, 1):  # not sys.stdin: its lock would be held at interpreter exit
        pass
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


def _run() -> None:
    threading.Thread(target=_exit_with_parent, args=(sys.argv[1],), daemon=True).start()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run()
