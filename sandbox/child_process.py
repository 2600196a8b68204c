"""`ChildProcess` runs a Python module as a child process. `python -m sandbox.child_process MODULE …` is that child.

The child gets SIGTERM when its parent ends, even by SIGKILL: it reads a pipe whose other end only the parent holds.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent
LOG_LINES = 15
STOP_SECONDS = 10
OUTSIDE = ("PREFECT_", "AWS_", "I2V_", "APIXO_")


def clean_environment() -> dict[str, str]:
    """This process' environment without anybody's keys, buckets and servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}


class ChildProcess:
    """A running `python -m MODULE ARGUMENTS…`, in the project's root and with this environment alone.

    `log` takes what it says. It may be started again, after its end or a kill.
    """

    def __init__(self, *command: str, env: dict[str, str], log: Path) -> None:
        self._command = command
        self._env = env
        self._path = log

    def start(self) -> Self:
        """Start it; does not wait."""
        with self._path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.child_process", *self._command],
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
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def said(self) -> str:
        """All that it said since it was started."""
        return self._path.read_text(errors="replace")

    def wait_for_output(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Wait until it says something.

        Raises:
            RuntimeError: it ended, or did not say so; carries its last lines.
        """
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said())):
            if not self.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(self._command)} did not come up. Its last lines:\n{self.last_lines()}")
            time.sleep(0.05)
        return found

    def last_lines(self) -> str:
        """The end of what it said."""
        return "\n".join(self.said().splitlines()[-LOG_LINES:])

    def request_stop(self) -> None:
        """Let it end; does not wait."""
        if self._process.stdin:
            self._process.stdin.close()

    def stop(self) -> int:
        """Ask it to end, make it after a while, and give its exit code."""
        self.request_stop()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it at once (SIGKILL) with what it started in its own session; its exit code."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self.request_stop()
        return self._process.wait()


def _end_with_parent() -> None:
    while os.read(0, 1):  # not by sys.stdin, whose lock would be held when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


def _run() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run()
