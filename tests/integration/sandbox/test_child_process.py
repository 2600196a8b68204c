"""Child processes: they can be killed and restarted, and never outlive their parent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.child_process import ROOT, ChildProcess, clean_environment

SERVER = ("http.server", "--bind", "127.0.0.1", "0")
LISTENS = r"Serving HTTP on \S+ port (\d+)"
END_SECONDS = 120
STARTER = """
import sys, time
from pathlib import Path
from sandbox.child_process import ChildProcess, clean_environment
child = ChildProcess(*sys.argv[2:], env=clean_environment() | {"PYTHONUNBUFFERED": "1"}, log=Path(sys.argv[1])).start()
print(child.wait_for_output(r"port (\\d+)")[1], flush=True)
time.sleep(60)
"""


def _child(folder: Path, *command: str) -> ChildProcess:
    return ChildProcess(*command, env=clean_environment() | {"PYTHONUNBUFFERED": "1"}, log=folder / "log")


def _is_closed(port: int) -> bool:
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return True
        time.sleep(0.05)
    return False


def test_a_killed_child_can_be_restarted(tmp_path: Path) -> None:
    """A killed child is gone at once; restarted, it listens again and its log starts empty."""
    with _child(tmp_path, *SERVER) as child:
        first = child.wait_for_output(LISTENS)[1]
        assert child.kill() == -signal.SIGKILL
        assert _is_closed(int(first))
        child.start()
        assert child.wait_for_output(LISTENS)
        assert child.output().count("Serving HTTP") == 1
        assert child.is_running
    assert not child.is_running


def test_a_child_that_exits_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    """Waiting for output fails at once when the child exits, and says why."""
    with _child(tmp_path, "http.server", "no-port") as child, pytest.raises(RuntimeError, match="no-port"):
        child.wait_for_output(LISTENS)


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """The child stops even when its parent is killed with SIGKILL."""
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log"), *SERVER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:  # noqa: S603 - our own
        assert starter.stdout
        port = int(starter.stdout.readline())
        starter.kill()
    assert _is_closed(port)
